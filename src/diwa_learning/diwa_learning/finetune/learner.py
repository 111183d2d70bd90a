"""PPO updates of a diffusion or Gaussian policy from one iteration of dreams (METHOD section 4, paper eqs. 15-17)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from diwa_learning.core.capture import CapturedEach, adam, map_tensors, step, tensors_of
from diwa_learning.core.stacking import Linear, Streams, rows
from diwa_learning.finetune import ppo
from diwa_learning.finetune.imagination import Rollout
from diwa_learning.policy.base import ChainPolicy, Exploration, FinetunedPolicy, Normal

FASTEST = 1.5
"""Factor by which the weight changes in an iteration at the most."""
RANGE = (1e-3, 10.0)
"""What it stays within while it is being set."""


class BCWeight(nn.Module):
    """The weight of one run, or of R stacked ones, (R,).

    Args:
        alpha: what it is, or begins with.
        target_kl: divergence that it is set for, mean of the entries' KL as `kl_divergence` gives it; None = fixed.
    """

    alpha: Tensor

    def __init__(self, alpha: float, target_kl: float | None = None):
        super().__init__()
        self.target_kl = target_kl
        self.register_buffer("alpha", torch.tensor(float(alpha)))

    def adapt(self, kl: Tensor) -> None:
        """Raise it where an iteration's mean KL was above the target, lower it where it was below.

        By the square root of their ratio: as the KL of a step of gradient ascent falls with the square of the weight.
        """
        if self.target_kl is not None:
            factor = (kl / self.target_kl).sqrt().clamp(1 / FASTEST, FASTEST)
            self.alpha.mul_(factor).clamp_(*RANGE)


@dataclass(frozen=True)
class PPOConfig:
    """Updates of one iteration; the defaults are the paper's (Table S.5)."""

    trained_steps: int = 10
    """K', the last denoising steps that are fine-tuned; at most K."""
    gamma: float = 0.999
    """Discount per chunk."""
    gae_lambda: float = 0.95
    """Of generalised advantage estimation."""
    gamma_denoising: float = 0.99
    """Discount per denoising step: the advantage at step k counts gamma_denoising^(k-1)."""
    clip_low: float = 0.001
    """PPO's clip range at the earliest trained denoising step."""
    clip_high: float = 0.01
    """And at the last."""
    epochs: int = 10
    """Passes over an iteration's (chunk, denoising step) entries."""
    minibatch: int = 7500
    """Entries per optimiser step; the short last one is kept."""
    actor_learning_rate: float = 1e-5
    """Of Adam."""
    critic_learning_rate: float = 1e-3
    """Of Adam."""
    critic_width: int = 256
    """Units of each of the critic's three hidden layers."""


class Critic(nn.Module):
    """V(s): (..., F) -> (...)."""

    def __init__(self, feature_dim: int, width: int):
        super().__init__()
        hidden = [(feature_dim, width), (width, width), (width, width)]
        self.layers = nn.Sequential(
            *[layer for sizes in hidden for layer in (Linear(*sizes), nn.Mish())], Linear(width, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)[..., 0]


@dataclass(frozen=True)
class Batch:
    """One iteration, ready for updates: C chunks (N x T) and M = C x K' entries, one per trained denoising step.

    Entry e is step k = K' - e % K' of chunk e // K'.
    """

    features: Tensor
    """(C, F)."""
    returns: Tensor
    """(C,) value targets."""
    chains: Tensor
    """(C, K'+1, H, A): a^{K'} .. a^0."""
    advantage: Tensor
    """(C,) normalised over chunks."""
    old_log_prob: Tensor
    """(M,) of a^{k-1} under the policy that dreamt."""
    base: Normal
    """(M, H, A) pi_pre at the same (s, a^k)."""


@dataclass(frozen=True)
class Entries:
    """Some of a batch's entries, as (chunk, denoising step)."""

    index: Tensor
    """(m,) in 0 .. M - 1."""
    chunk: Tensor
    """(m,) in 0 .. C - 1."""
    k: Tensor
    """(m,) the denoising step, K' .. 1."""
    before: Tensor
    """(m, H, A) a^k."""
    after: Tensor
    """(m, H, A) a^{k-1}."""


class Sampling(Protocol):
    """How rollouts are made; the configurations of dreams and of DPPO say it."""

    @property
    def horizon(self) -> int:
        """Chunks after which a rollout is cut."""

    @property
    def exploration(self) -> Exploration:
        """Noise of the chunks."""


class Finetuner:
    """The trainable copy of a pre-trained policy, its critic, and their PPO updates; or those of R runs, stacked.

    Args:
        policy: as `FinetunedPolicy` makes it; stacked, with R runs before every shape.
        sampling: of the rollouts that `update` gets.
        bc_weight: of the BC term.
        draws: of the minibatches.
    """

    def __init__(
        self,
        policy: FinetunedPolicy,
        critic: Critic,
        config: PPOConfig,
        sampling: Sampling,
        bc_weight: BCWeight,
        draws: Streams,
    ):
        self.policy, self.critic, self.config, self.bc_weight, self.draws = policy, critic, config, bc_weight, draws
        self.horizon, self.std_floor = sampling.horizon, sampling.exploration.std_floor
        self.actor_adam = adam(policy.trained, config.actor_learning_rate)
        self.critic_adam = adam(critic, config.critic_learning_rate)
        self._batch: Batch | None = None
        self._update_actor, self._update_critic = (
            CapturedEach(partial(self._on_held_batch, update)) for update in (self.update_actor, self.update_critic)
        )

    def update(self, rollout: Rollout, train_actor: bool) -> dict[str, Tensor]:
        """The epochs of one iteration; returns what is logged, scalars or (R,)."""
        batch = self._hold(self.prepare(rollout))
        with torch.no_grad():
            explained = ppo.explained_variance(self.critic(batch.features), batch.returns)
        n_entries, n_chunks = batch.old_log_prob.shape[-1], batch.returns.shape[-1]
        measured: list[Tensor] = []
        losses: list[Tensor] = []
        for _ in range(self.config.epochs):
            entries = self.draws.permutation(n_entries).split(self.config.minibatch, -1)
            chunks = self.draws.permutation(n_chunks).tensor_split(len(entries), -1)
            for some_entries, some_chunks in zip(entries, chunks, strict=True):
                if train_actor:
                    measured.append(self._update_actor(some_entries).clone())
                losses.append(self._update_critic(some_chunks).clone())
        nothing = explained.new_zeros(4, *explained.shape)
        means = torch.stack(measured).mean(dim=0) if train_actor else nothing
        alpha = self.bc_weight.alpha.clone()
        if train_actor:
            self.bc_weight.adapt(means[3])
        return {
            "dream_success": rollout.success_rate(self.horizon),
            "dream_return": rollout.mean_return(self.horizon),
            "policy_loss": means[0],
            "approx_kl": means[1],
            "approx_kl_before_update": measured[0][1] if train_actor else nothing[1],
            "clip_fraction": means[2],
            "bc_kl": means[3],
            "alpha_bc": alpha,
            "value_loss": torch.stack(losses).mean(dim=0),
            "explained_variance": explained,
            "deviation": rollout.deviation.mean((-2, -1)),
        }

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Batch:
        """Advantages, and everything of the entries that does not change between epochs."""
        config = self.config
        returns = ppo.gae(
            rollout.reward,
            self.critic(rollout.features),
            self.critic(rollout.next_features),
            rollout.terminated,
            rollout.done,
            config.gamma,
            config.gae_lambda,
        )
        features, chains = rollout.features.flatten(-3, -2), rollout.chains.flatten(-5, -4)
        parts = (self.policy.trained, self.policy.base)
        old, base = (self.score(part, features, chains) for part in parts)
        return Batch(
            features=features,
            returns=returns.returns.flatten(-2),
            chains=chains,
            advantage=ppo.normalise(returns.advantage).flatten(-2),
            old_log_prob=ppo.log_prob(old, chains[..., 1:, :, :].flatten(-4, -3)),
            base=base,
        )

    def _hold(self, batch: Batch) -> Batch:
        """The batch in tensors that stay where they are, as captured updates read them."""
        if self._batch is None:
            self._batch = map_tensors(batch, torch.clone)
        for kept, new in zip(tensors_of(self._batch), tensors_of(batch), strict=True):
            kept.copy_(new)
        return self._batch

    def _on_held_batch(self, update: Callable[[Batch, Tensor], Tensor], index: Tensor) -> Tensor:
        assert self._batch is not None
        return update(self._batch, index)

    def score(self, part: ChainPolicy, features: Tensor, chains: Tensor) -> Normal:
        """The dream's distribution of a^{k-1} at all M entries, minibatch by minibatch."""
        projected = part.project(features)
        count = features.shape[-2] * self.policy.trained_steps
        every = torch.arange(count, device=features.device).expand(*features.shape[:-2], count)
        some = [self.entries(chains, index) for index in every.split(self.config.minibatch, -1)]
        normals = [self.dreamt(part, projected, entries) for entries in some]
        return Normal(torch.cat([n.mean for n in normals], -3), torch.cat([n.std for n in normals], -3))

    def entries(self, chains: Tensor, index: Tensor) -> Entries:
        """The entries `index` (m,) of chains (C, K'+1, H, A)."""
        steps = self.policy.trained_steps
        chunk, step = index // steps, index % steps
        flat = chains.flatten(-4, -3)
        place = chunk * (steps + 1) + step
        return Entries(index, chunk, steps - step, rows(flat, place), rows(flat, place + 1))

    def dreamt(self, part: ChainPolicy, projected: Tensor, entries: Entries) -> Normal:
        """The same at some entries; projected (C, W) holds each chunk's features once for all of them."""
        normal = part.denoise(rows(projected, entries.chunk), entries.before, entries.k)
        return normal.with_floor(self.std_floor)

    def update_actor(self, batch: Batch, index: Tensor) -> Tensor:
        """One step on PPO + alpha_BC KL(pi_pre || pi_theta); (4, ...) loss, approx_kl, clip fraction, BC KL."""
        config, trained = self.config, self.policy.trained
        entries = self.entries(batch.chains, index)
        normal = self.dreamt(trained, trained.project(batch.features), entries)
        objective = ppo.policy_loss(
            ppo.log_prob(normal, entries.after),
            rows(batch.old_log_prob, index),
            rows(batch.advantage, entries.chunk) * ppo.denoising_discount(entries.k, config.gamma_denoising),
            ppo.clip_coef(entries.k, self.policy.trained_steps, config.clip_low, config.clip_high),
        )
        base = Normal(rows(batch.base.mean, index), rows(batch.base.std, index))
        bc = ppo.kl_divergence(base, normal).mean(-1)
        step(self.actor_adam, objective.loss + self.bc_weight.alpha * bc)
        return torch.stack([objective.loss.detach(), objective.approx_kl, objective.clip_fraction, bc.detach()])

    def update_critic(self, batch: Batch, chunks: Tensor) -> Tensor:
        """One step on half the mean squared error of V at some chunks; returns it."""
        loss = ppo.value_loss(self.critic(rows(batch.features, chunks)), rows(batch.returns, chunks))
        step(self.critic_adam, loss)
        return loss.detach()
