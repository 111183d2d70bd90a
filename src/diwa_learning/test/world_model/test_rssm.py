"""The recurrent state-space model against its definition, by small exact cases."""

import math

import pytest
import torch

from diwa_data.spec import ActionSpec
from diwa_learning.world_model.rssm import (
    RSSM,
    TARGET,
    RSSMConfig,
    State,
    balanced_kl,
    categorical_kl,
    gumbel,
    place_code,
    shift_actions,
)

CONFIG = RSSMConfig(recurrent=12, categoricals=3, classes=4, hidden=10)
BATCH, LENGTH, EMBED, ACTION, SLOW = 3, 5, 17, 7, 2


@pytest.fixture
def rssm() -> RSSM:
    torch.manual_seed(1)
    return RSSM(CONFIG, embed_dim=EMBED - 6, action_dim=ACTION, told=ActionSpec(), slow_dim=SLOW)


def random_sequence():
    """Embeddings, actions, noise and no resets for (BATCH, LENGTH)."""
    torch.manual_seed(2)
    noise = gumbel(BATCH, LENGTH, CONFIG.categoricals, CONFIG.classes, device="cpu")
    reset = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    return torch.randn(BATCH, LENGTH, EMBED), torch.rand(BATCH, LENGTH, ACTION) * 2 - 1, noise, reset


def test_check_01_the_kl_gradient_trains_the_prior_four_times_as_much():
    torch.manual_seed(0)
    prior = torch.randn(16, 8, 6, dtype=torch.float64, requires_grad=True)
    posterior = (prior + 1e-3 * torch.randn_like(prior)).detach().requires_grad_()
    balanced_kl(posterior, prior, balance=0.8).mean().backward()
    assert prior.grad is not None
    assert posterior.grad is not None
    assert float(prior.grad.norm() / posterior.grad.norm()) == pytest.approx(4.0, rel=0.01)


def test_kl_of_two_coins():
    p, q = torch.tensor([[[0.75, 0.25]]]), torch.tensor([[[0.5, 0.5]]])
    expected = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    torch.testing.assert_close(categorical_kl(p.log(), q.log()), expected[None])
    torch.testing.assert_close(balanced_kl(p.log(), q.log(), 0.8), expected[None])


def test_samples_are_one_hot_follow_the_logits_and_pass_gradients_straight_through(rssm):
    logits = torch.tensor([[2.0, 0.0, -1.0, 0.5]] * 3).expand(20_000, 3, 4)
    z = rssm.sample(logits).unflatten(-1, (3, 4))
    assert set(z.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(z.sum(-1), torch.ones(20_000, 3))
    torch.testing.assert_close(z.mean((0, 1)), logits[0, 0].softmax(-1), atol=0.01, rtol=0)

    logits = torch.randn(2, 3, 4, requires_grad=True)
    weight = torch.randn(2, 12)
    (through,) = torch.autograd.grad((rssm.sample(logits) * weight).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(-1).flatten(-2) * weight).sum(), logits)
    torch.testing.assert_close(through, soft)


def test_observe_equals_filtering_step_by_step(rssm):
    embeds, actions, noise, reset = random_sequence()
    observed = rssm.observe(embeds, actions, reset, noise)
    state = rssm.initial(BATCH)
    for t in range(LENGTH):
        prior = rssm.prior(rssm.recur(state, actions[:, t], embeds[:, t, -TARGET:]))
        state = rssm.filter(state, actions[:, t], embeds[:, t], noise[:, t])
        torch.testing.assert_close(observed.states[:, t].features, state.features)
        torch.testing.assert_close(observed.prior_logits[:, t], prior)
        torch.testing.assert_close(observed.posterior_logits[:, t], rssm.posterior(state.h, embeds[:, t]))


def test_imagine_equals_repeated_steps(rssm):
    _, actions, noise, _ = random_sequence()
    h, z = torch.randn(BATCH, 12), rssm.sample(torch.randn(BATCH, 3, 4))
    state = start = State(h, z, torch.randn(BATCH, TARGET), torch.randn(BATCH, SLOW))
    imagined = rssm.imagine(start, actions, noise)
    assert imagined.features.shape == (BATCH, LENGTH, rssm.feature_dim)
    for t in range(LENGTH):
        state = rssm.imagine_step(state, actions[:, t], noise[:, t])
        torch.testing.assert_close(imagined[:, t].features, state.features)


def test_slow_features_are_seen_while_filtering_and_predicted_from_those_before_in_imagination(rssm):
    embeds, actions, noise, reset = random_sequence()
    shown = embeds[..., EMBED - TARGET - SLOW : EMBED - TARGET]
    observed = rssm.observe(embeds, actions, reset, noise)
    torch.testing.assert_close(observed.states.slow, shown)
    torch.testing.assert_close(observed.states.features[..., -SLOW:], shown)
    states = observed.states
    expected = rssm.predict_slow(shown[:, 1], states.h[:, 2], states.z[:, 2])
    torch.testing.assert_close(observed.slow[:, 2], expected)
    first = rssm.predict_slow(torch.zeros(BATCH, SLOW), states.h[:, 0], states.z[:, 0])
    torch.testing.assert_close(observed.slow[:, 0], first)

    imagined = rssm.imagine(states[:, 0], actions, noise)
    step = rssm.predict_slow(shown[:, 0], imagined.h[:, 0], imagined.z[:, 0])
    torch.testing.assert_close(imagined.slow[:, 0], step)
    rssm.slow_step.zero_()  # where nothing changes from frame to frame
    torch.testing.assert_close(rssm.imagine(states[:, 0], actions, noise).slow[:, -1], shown[:, 0])


def test_slow_features_of_the_frame_before_reach_the_recurrent_state(rssm):
    embeds, actions, noise, reset = random_sequence()
    before = rssm.observe(embeds, actions, reset, noise).states.h
    embeds[:, 1, EMBED - TARGET - 1] += 1.0
    with torch.no_grad():
        rssm.embed_in.weight[:, EMBED - 6 - 3 - 1] = 0.0  # not by way of the posterior
    after = rssm.observe(embeds, actions, reset, noise).states.h
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert (before[:, 2] - after[:, 2]).abs().max() > 1e-4


def test_a_reset_forgets_everything_before_it(rssm):
    embeds, actions, noise, reset = random_sequence()
    reset[:, 3] = True
    late = rssm.observe(embeds, actions, reset, noise).states[:, 3]
    alone = rssm.observe(embeds[:, 3:], actions[:, 3:] * 0, reset[:, 3:], noise[:, 3:]).states[:, 0]
    torch.testing.assert_close(late.features, alone.features)


def test_rows_of_a_batch_do_not_touch_each_other(rssm):
    embeds, actions, noise, reset = random_sequence()
    together = rssm.observe(embeds, actions, reset, noise)
    for row in range(BATCH):
        one = slice(row, row + 1)
        alone = rssm.observe(embeds[one], actions[one], reset[one], noise[one])
        torch.testing.assert_close(together.posterior_logits[one], alone.posterior_logits)
        torch.testing.assert_close(together.states[one].features, alone.states.features)


def test_step_t_consumes_the_action_that_led_to_frame_t(rssm):
    embeds, actions, noise, reset = random_sequence()
    before = rssm.observe(embeds, actions, reset, noise).prior_logits
    actions[:, 2] += 1.0
    after = rssm.observe(embeds, actions, reset, noise).prior_logits
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert (before[:, 2] - after[:, 2]).abs().max() > 1e-3


def test_a_place_is_told_by_waves_of_4_2_1_and_half_a_deviation():
    code = place_code(torch.tensor([[0.5, -1.0]]))
    assert code.shape == (1, 2 * (1 + 2 * 4))
    torch.testing.assert_close(code[0, :2], torch.tensor([0.5, -1.0]))
    root = 0.5**0.5
    torch.testing.assert_close(code[0, 2:6], torch.tensor([root, 1.0, 0, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(code[0, 14:], torch.tensor([0.0, -1, 1, 1]), atol=1e-6, rtol=0)
    near = place_code(torch.tensor([[0.0], [0.1]]))
    assert (near[1] - near[0]).norm() > 1.0, "a tenth of a deviation is told apart"
    assert place_code(torch.zeros(3, 0)).shape == (3, 0)


def test_shift_actions_puts_the_null_action_first():
    null = torch.tensor([0.0, 0, 0, 0, 0, 0, 1])
    shifted = shift_actions(torch.arange(2 * 3 * 7.0).reshape(2, 3, 7), null)
    assert shifted[:, 0].tolist() == [null.tolist()] * 2
    assert shifted[1, 1:].tolist() == torch.arange(21.0, 35.0).reshape(2, 7).tolist()


def test_gumbel_noise_has_its_mean_and_spread_from_any_generator():
    for rng in (None, torch.Generator().manual_seed(0)):
        torch.manual_seed(0)
        noise = gumbel(200, 1000, device="cpu", rng=rng)
        assert bool(noise.isfinite().all())
        assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)
        assert float(noise.std()) == pytest.approx(math.pi / 6**0.5, abs=0.01)
        assert float((noise > 2).float().mean()) == pytest.approx(1 - math.exp(-math.exp(-2)), abs=0.003)
