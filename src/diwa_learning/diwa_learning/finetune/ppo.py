"""PPO over chunks and their denoising steps, as pure functions (paper, Eq. 9 and 15 to 17).

Shapes: N rollouts in parallel, T chunks of an iteration, M entries of a minibatch, (H, A) an action chunk.
`terminated` (success: nothing follows) and `done` (terminated, or cut at the horizon) are two things.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diwa_learning.policy.base import Normal

LOG_PROB_RANGE = (-5.0, 2.0)


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Generalised advantage estimates of chunks; they and every argument are (N, T).

    delta_t = r_t + gamma V(s_{t+1}) (1 - terminated_t) - V(s_t); A_t = delta_t + gamma lambda (1 - done_t) A_{t+1}.
    `next_value` is V of the state after the chunk, before any reset: a truncated dream bootstraps with it.
    """
    delta = reward + gamma * next_value * (~terminated) - value
    advantage, following = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        following = delta[:, t] + gamma * gae_lambda * (~done[:, t]) * following
        advantage[:, t] = following
    return advantage


def normalise(advantage: Tensor) -> Tensor:
    """Zero mean and unit standard deviation over all chunks of an iteration."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


def denoising_discount(k: Tensor, gamma_denoising: float) -> Tensor:
    """gamma^(k-1): the last denoising step (k = 1) takes the whole advantage."""
    return gamma_denoising ** (k - 1).float()


def clip_coef(k: Tensor, trained_steps: int, lowest: float, highest: float, rate: float = 3.0) -> Tensor:
    """eps(u) = lowest + (highest - lowest) (e^{rate u} - 1) / (e^rate - 1), u = 0 at k = K', 1 at k = 1.

    A chain of one trained step has u = 1.
    """
    u = (trained_steps - k).float() / (trained_steps - 1) if trained_steps > 1 else torch.ones_like(k).float()
    return lowest + (highest - lowest) * (torch.exp(rate * u) - 1) / (math.exp(rate) - 1)


def log_prob(normal: Normal, value: Tensor) -> Tensor:
    """log N(value) per element, clamped to [-5, 2], mean over the chunk's elements: (M, H, A) -> (M,)."""
    z = (value - normal.mean) / normal.std
    each = -0.5 * z * z - normal.std.log() - 0.5 * math.log(2 * math.pi)
    return each.clamp(*LOG_PROB_RANGE).mean(dim=(1, 2))


def kl_divergence(first: Normal, second: Normal) -> Tensor:
    """KL(first || second), mean over the chunk's elements: (M,).

    With a shared std this is (mu_1 - mu_2)^2 / (2 std^2).
    """
    ratio = first.std / second.std
    difference = (first.mean - second.mean) / second.std
    each = 0.5 * (ratio * ratio + difference * difference - 1) - ratio.log()
    return each.mean(dim=(1, 2))


@dataclass(frozen=True)
class PolicyLoss:
    """The clipped PPO `loss` and, without gradient, the figures that are logged about it; scalars."""

    loss: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


def policy_loss(new_log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: Tensor) -> PolicyLoss:
    """-mean min(r A, clip(r, 1 - eps, 1 + eps) A) with r = exp(new - old); all arguments (M,)."""
    log_ratio = new_log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = torch.maximum(torch.minimum(ratio, 1 + clip), 1 - clip)
    loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    approx_kl = (ratio - 1 - log_ratio).detach().mean()
    return PolicyLoss(loss, approx_kl, ((ratio - 1).abs() > clip).float().mean())


def value_loss(value: Tensor, returns: Tensor) -> Tensor:
    """Half the mean squared error (Eq. 17) over chunks (C,)."""
    return 0.5 * (value - returns).square().mean()


def explained_variance(value: Tensor, returns: Tensor) -> Tensor:
    """1 - Var(returns - value) / Var(returns) over chunks (C,); 0 where returns do not vary."""
    variance = returns.var()
    explained = 1 - (returns - value).var() / variance.clamp_min(1e-12)
    return torch.where(variance > 0, explained, torch.zeros_like(variance))
