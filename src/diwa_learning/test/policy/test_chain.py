"""Chains, the diffusion schedule and the Gaussian policy; docs/method.md, checks 4 and 9."""

import math

import numpy as np
import pytest
import torch

from diwa_learning.policy.base import Exploration, FinetunedPolicy, Normal
from diwa_learning.policy.diffusion import DiffusionPolicy, cosine_betas, sinusoid
from diwa_learning.policy.gaussian import GaussianPolicy

FEATURES, WIDTH, K, H, A = 6, 16, 20, 4, 7


def diffusion(seed=0, steps=K):
    torch.manual_seed(seed)
    return DiffusionPolicy(FEATURES, WIDTH, steps, H, A)


def gaussian(seed=0):
    torch.manual_seed(seed)
    return GaussianPolicy(FEATURES, WIDTH, K, H, A)


def test_check_09_schedule():
    beta = cosine_betas(20)
    assert beta[0] == pytest.approx(0.0080, abs=5e-5)
    assert np.cumprod(1 - beta)[19] == pytest.approx(6e-6, rel=0.1)
    assert beta.max() == 0.999
    assert (np.diff(beta) > 0).all()


def test_sinusoid_is_sines_then_cosines_of_falling_frequencies():
    table = sinusoid(20)
    assert table.shape == (20, 16)
    assert torch.allclose(table[:, 0], torch.arange(20).float().sin())
    assert torch.allclose(table[:, 8], torch.arange(20).float().cos())
    assert table[1, 7].item() == pytest.approx(math.sin(1e-4), rel=1e-4)


def test_last_denoising_step_returns_the_clipped_prediction_without_noise():
    policy = diffusion()
    projected = policy.project(torch.randn(5, FEATURES))
    normal = policy.denoise(projected, torch.randn(5, H, A), torch.full((5,), 1))
    assert normal.std.abs().max() == 0
    assert normal.mean.abs().max() <= 1


def test_denoising_mean_is_the_ddpm_posterior_mean():
    """Against the formula written out for k = 10 with the network's own noise prediction."""
    policy, k = diffusion(), 10
    beta = torch.tensor(cosine_betas(K))
    alpha_bar = torch.cumprod(1 - beta, 0)
    ab, before, b = alpha_bar[k - 1], alpha_bar[k - 2], beta[k - 1]
    chunk, ks = torch.randn(3, H, A), torch.full((3,), k)
    projected = policy.project(torch.randn(3, FEATURES))
    eps = policy.predict_noise(projected, chunk, ks)
    x0 = ((chunk - (1 - ab).sqrt() * eps) / ab.sqrt()).clamp(-1, 1)
    mean = before.sqrt() * b / (1 - ab) * x0 + (1 - b).sqrt() * (1 - before) / (1 - ab) * chunk
    normal = policy.denoise(projected, chunk, ks)
    assert torch.allclose(normal.mean, mean.float(), atol=1e-5)
    assert normal.std[0].item() == pytest.approx((b * (1 - before) / (1 - ab)).sqrt().item(), rel=1e-5)


def test_trunk_is_one_linear_layer_over_inputs_and_features():
    policy = diffusion()
    features, chunk, k = torch.randn(3, FEATURES), torch.randn(3, H, A), torch.tensor([1, 7, 20])
    trunk = policy.trunk
    time = policy.time(policy.positions)[k - 1]
    u = trunk.input(torch.cat([chunk.flatten(1), time, features], 1))
    u = u + trunk.residual(torch.nn.functional.mish(trunk.hidden(torch.nn.functional.mish(u))))
    expected = trunk.output(u).view(3, H, A)
    assert torch.allclose(policy.predict_noise(policy.project(features), chunk, k), expected, atol=1e-6)


def test_imitation_learns_a_constant_chunk():
    torch.manual_seed(0)
    policy = DiffusionPolicy(FEATURES, 64, 10, H, A)
    features, target = torch.randn(64, FEATURES), torch.linspace(-0.8, 0.8, H * A).view(1, H, A).expand(64, -1, -1)
    adam = torch.optim.Adam(policy.parameters(), 1e-2)
    rng = torch.Generator().manual_seed(0)
    for _ in range(300):
        k = 1 + (10 * torch.rand(64, generator=rng)).long()
        loss = policy.loss(features, target, k, torch.randn(64, H, A, generator=rng))
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        actions = policy.sample(features, policy.draw_noise(64)).actions
    assert (actions - target).abs().mean() < 0.1


@pytest.mark.parametrize("make", [diffusion, gaussian])
def test_the_loss_compiles_to_one_graph_that_gives_the_same(make):
    policy, features, actions, k = make(), torch.randn(5, FEATURES), torch.randn(5, H, A), torch.full((5,), 1)
    compiled = torch.compile(policy.loss, backend="aot_eager", fullgraph=True)
    noise = torch.randn(5, H, A)
    torch.testing.assert_close(compiled(features, actions, k, noise), policy.loss(features, actions, k, noise))


@pytest.mark.parametrize("make", [diffusion, gaussian])
def test_chains_start_at_the_noise_and_end_at_the_actions(make):
    policy = make()
    noise = policy.draw_noise(3)
    sample = policy.sample(torch.randn(3, FEATURES), noise)
    assert sample.chains.shape == (3, policy.steps + 1, H, A)
    assert torch.equal(sample.chains[:, 0], noise[:, 0])
    assert torch.equal(sample.chains[:, -1], sample.actions)


@pytest.mark.parametrize("make", [diffusion, gaussian])
def test_deployment_has_no_noise_at_the_last_step_and_no_floor(make):
    policy, features = make(), torch.randn(3, FEATURES)
    noise = policy.draw_noise(3)
    other = noise.clone()
    other[:, -1] += 1
    assert torch.equal(policy.sample(features, noise).actions, policy.sample(features, other).actions)
    explored = policy.explore(features, noise, Exploration()).actions
    assert not torch.equal(explored, policy.explore(features, other, Exploration()).actions)


@pytest.mark.parametrize("make", [diffusion, gaussian, lambda: FinetunedPolicy(diffusion(), trained_steps=10)])
def test_chains_take_the_steps_that_denoise_describes(make):
    """Sampling folds what is the same in all chains; log-probabilities, and imitation, take `denoise`."""
    policy, features = make(), torch.randn(3, FEATURES)
    noise = policy.draw_noise(3)
    chains, floored = policy.sample(features, noise).chains, policy.explore(features, noise, Exploration(0.2)).chains
    for part, ks in policy.parts():
        for k in ks:
            at = policy.steps - k
            normal = part.denoise(part.project(features), chains[:, at], torch.full((3,), k))
            added = noise[:, at + 1] if k > 1 else torch.zeros(3, H, A)
            torch.testing.assert_close(chains[:, at + 1], normal.mean + normal.std * added, rtol=1e-5, atol=1e-6)
            normal = part.denoise(part.project(features), floored[:, at], torch.full((3,), k)).with_floor(0.2)
            moved = (floored[:, at + 1] - normal.mean) / normal.std
            torch.testing.assert_close(moved, noise[:, at + 1].clamp(-3, 3), rtol=1e-4, atol=1e-5)


def test_a_ddim_step_keeps_the_noise_that_the_clipped_prediction_implies():
    """Against its formula (Song et al. 2021, Eq. 12 with sigma 0), from k = 20 to 15 and on to 0 in four steps."""
    policy, features = diffusion(), torch.randn(3, FEATURES)
    noise = policy.draw_noise(3)
    chains = policy.sample(features, noise, ddim_steps=4).chains
    assert chains.shape == (3, 5, H, A)
    alpha_bar = np.append(1.0, np.cumprod(1 - cosine_betas(K)))
    for n, (k, to) in enumerate([(20, 15), (15, 10), (10, 5), (5, 0)]):
        chunk, ab, ab_to = chains[:, n], float(alpha_bar[k]), float(alpha_bar[to])
        eps = policy.predict_noise(policy.project(features), chunk, torch.full((3,), k))
        x0 = ((chunk - (1 - ab) ** 0.5 * eps) / ab**0.5).clamp(-1, 1)
        implied = (chunk - ab**0.5 * x0) / (1 - ab) ** 0.5
        expected = ab_to**0.5 * x0 + (1 - ab_to) ** 0.5 * implied
        torch.testing.assert_close(chains[:, n + 1], expected, rtol=1e-4, atol=1e-5)
    other = noise.clone()
    other[:, 1:] += 1
    assert torch.equal(policy.sample(features, other, ddim_steps=4).chains, chains), "only the start is random"


def test_ddim_takes_the_trained_steps_of_a_finetuned_policy_and_leaves_a_gaussian_one_alone():
    policy, features = FinetunedPolicy(diffusion(), trained_steps=10), torch.randn(3, FEATURES)
    noise = policy.draw_noise(3)
    before = policy.sample(features, noise, ddim_steps=4).chains
    with torch.no_grad():
        policy.trained.trunk.output.bias.add_(0.5)
    after = policy.sample(features, noise, ddim_steps=4).chains
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])
    unimodal = gaussian()
    assert torch.equal(
        unimodal.sample(features, noise[:, :2], ddim_steps=4).actions, unimodal.sample(features, noise[:, :2]).actions
    )


def test_exploration_floors_std_and_clamps_noise():
    policy, features = diffusion(), torch.randn(2, FEATURES)
    noise = policy.draw_noise(2)
    noise[:, -1] = 50.0
    chains = policy.explore(features, noise, Exploration(std_floor=0.1, noise_clamp=3.0)).chains
    mean = policy.denoise(policy.project(features), chains[:, -2], torch.full((2,), 1)).mean
    assert torch.allclose(chains[:, -1] - mean, torch.full_like(mean, 0.3), atol=1e-6)


def test_check_04_trained_copy_touches_only_the_last_steps():
    """Changing the trainable copy leaves a^K .. a^{K'} as they were, and changes what follows."""
    policy = FinetunedPolicy(diffusion(), trained_steps=10)
    features, noise = torch.randn(3, FEATURES), policy.draw_noise(3)
    before = policy.sample(features, noise).chains
    with torch.no_grad():
        for parameter in policy.trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    after = policy.sample(features, noise).chains
    assert torch.equal(before[:, : K - 10 + 1], after[:, : K - 10 + 1])
    changed = (before[:, K - 10 + 1] != after[:, K - 10 + 1]).float().mean()
    assert changed > 0.2  # elements whose prediction is clipped on both sides stay


def test_fresh_finetuned_policy_samples_as_its_base():
    base = diffusion()
    policy, features = FinetunedPolicy(base, trained_steps=10), torch.randn(3, FEATURES)
    noise = base.draw_noise(3)
    assert torch.equal(policy.sample(features, noise).chains, base.sample(features, noise).chains)
    assert not any(p.requires_grad for p in policy.base.parameters())
    assert all(p.requires_grad for p in policy.trained.parameters())


def test_gaussian_chain_has_one_step_however_many_are_asked_for():
    policy = FinetunedPolicy(gaussian(), trained_steps=10)
    assert policy.trained_steps == policy.steps == 1
    assert policy.sample(torch.randn(2, FEATURES), policy.draw_noise(2)).chains.shape == (2, 2, H, A)


def test_gaussian_loss_is_the_negative_log_likelihood():
    policy, features, actions = gaussian(), torch.randn(3, FEATURES), torch.randn(3, H, A)
    normal = policy.denoise(policy.project(features), actions, torch.ones(3, dtype=torch.int64))
    expected = -torch.distributions.Normal(normal.mean, normal.std).log_prob(actions).mean()
    ones = torch.ones(3, dtype=torch.int64)
    assert policy.loss(features, actions, ones, torch.zeros_like(actions)).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_floor_keeps_larger_std():
    normal = Normal(torch.zeros(2), torch.tensor([0.01, 0.5])).with_floor(0.1)
    assert normal.std.tolist() == pytest.approx([0.1, 0.5])
