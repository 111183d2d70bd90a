"""PPO's pure functions against hand-computed cases; docs/method.md, check 6."""

import math

import pytest
import torch

from diwa_learning.finetune import ppo
from diwa_learning.policy.base import Normal


def test_check_06_gae_at_termination_and_truncation():
    """gamma 0.5, lambda 0.5. Dream 0 succeeds at chunk 1; dream 1 is cut at chunk 1 with V = 4 of its last state."""
    reward = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    value = torch.tensor([[1.0, 2.0, 8.0], [1.0, 2.0, 8.0]])
    next_value = torch.tensor([[2.0, 100.0, 6.0], [2.0, 4.0, 6.0]])
    terminated = torch.tensor([[False, True, False], [False, False, False]])
    done = torch.tensor([[False, True, True], [False, True, True]])
    result = ppo.gae(reward, value, next_value, terminated, done, gamma=0.5, gae_lambda=0.5)
    # dream 0: delta_1 = 1 - 2 = -1 (no bootstrap), delta_0 = 0.5 * 2 - 1 = 0, A_0 = 0 + 0.25 * -1
    # dream 1: delta_1 = 0.5 * 4 - 2 = 0 (bootstrap with V of the last state), A_0 = 0
    # chunk 2 begins another dream: delta = 0.5 * 6 - 8 = -5, and nothing of it leaks into chunk 1
    assert result.tolist() == [[-0.25, -1.0, -5.0], [0.0, 0.0, -5.0]]


def test_normalise_has_zero_mean_and_unit_std():
    result = ppo.normalise(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert result.mean().item() == pytest.approx(0, abs=1e-6)
    assert result.std().item() == pytest.approx(1, abs=1e-4)


def test_last_denoising_step_takes_the_whole_advantage():
    assert ppo.denoising_discount(torch.tensor([1, 2, 10]), 0.99).tolist() == pytest.approx([1, 0.99, 0.99**9])


def test_clip_range_grows_from_the_earliest_trained_step_to_the_last():
    clip = ppo.clip_coef(torch.tensor([10, 1]), trained_steps=10, lowest=0.001, highest=0.01)
    assert clip.tolist() == pytest.approx([0.001, 0.01])
    middle = ppo.clip_coef(torch.tensor([6]), 11, 0.001, 0.01).item()
    assert middle == pytest.approx(0.001 + 0.009 * (math.exp(1.5) - 1) / (math.exp(3) - 1))
    assert ppo.clip_coef(torch.tensor([1]), 1, 0.001, 0.01).item() == pytest.approx(0.01)


def test_log_prob_is_a_clamped_mean_over_elements():
    normal = Normal(torch.zeros(1, 1, 3), torch.tensor([[[0.1, 1.0, 0.01]]]))
    value = torch.tensor([[[0.1, 10.0, 0.0]]])
    first = -0.5 - math.log(0.1) - 0.5 * math.log(2 * math.pi)
    # the second is far below -5, the third (3.69) above 2
    assert ppo.log_prob(normal, value).item() == pytest.approx((first - 5 + 2) / 3, rel=1e-5)


def test_kl_of_gaussians_with_one_std_is_the_squared_distance():
    first = Normal(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.5]]]))
    second = Normal(torch.tensor([[[0.0, 2.0]]]), torch.tensor([[[0.5]]]))
    assert ppo.kl_divergence(first, second).item() == pytest.approx(0.5 * (1 / (2 * 0.25)))


def test_kl_with_two_stds_is_torchs():
    first = Normal(torch.randn(4, 2, 3), torch.rand(4, 2, 3) + 0.1)
    second = Normal(torch.randn(4, 2, 3), torch.rand(4, 2, 3) + 0.1)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(first.mean, first.std), torch.distributions.Normal(second.mean, second.std)
    ).mean((-2, -1))
    assert torch.allclose(ppo.kl_divergence(first, second), expected, rtol=1e-4)


def test_policy_loss_clips_only_what_the_advantage_would_push_further():
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.05])
    advantage = torch.tensor([1.0, -1.0, -1.0, 1.0, 2.0])
    result = ppo.policy_loss(ratio.log(), torch.zeros(5), advantage, torch.full((5,), 0.1))
    expected = -(1.1 - 0.9 - 1.5 + 0.5 + 2.1) / 5
    assert result.loss.item() == pytest.approx(expected, rel=1e-5)
    assert result.clip_fraction.item() == pytest.approx(4 / 5)


def test_policy_loss_without_change():
    result = ppo.policy_loss(torch.ones(3), torch.ones(3), torch.tensor([1.0, 2.0, -3.0]), torch.full((3,), 0.01))
    assert result.loss.item() == 0
    assert result.approx_kl.item() == 0
    assert result.clip_fraction.item() == 0


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert ppo.explained_variance(returns, returns).item() == 1
    assert ppo.explained_variance(torch.zeros(3), returns).item() == pytest.approx(0)
    assert ppo.explained_variance(torch.zeros(3), torch.ones(3)).item() == 0
