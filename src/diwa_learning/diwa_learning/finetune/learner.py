"""PPO updates of a diffusion or Gaussian policy from one iteration of rollouts (paper, Eq. 9 and 15 to 17)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diwa_learning.core.device import compiled, step
from diwa_learning.finetune import ppo
from diwa_learning.finetune.imagination import Rollout
from diwa_learning.policy.base import ChainPolicy, Exploration, FinetunedPolicy, Normal

FASTEST = 1.5
"""Largest factor by which the weight of the BC term changes in an iteration."""
RANGE = (1e-3, 10.0)
"""Limits of a weight that follows a target."""


class BCWeight(nn.Module):
    """The weight alpha_BC of KL(pi_pre || pi_theta).

    Args:
        alpha: its value, or its first one.
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
    """Settings of the PPO updates; the defaults are the paper's (Table S.5)."""

    trained_steps: int = 10
    """K', the number of last denoising steps that are fine-tuned; at most K."""
    gamma: float = 0.999
    """Discount factor for each chunk."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation: 0 trusts the critic alone, 1 the observed returns alone."""
    gamma_denoising: float = 0.99
    """Discount factor for each denoising step: the advantage at step k counts gamma_denoising^(k-1)."""
    clip_low: float = 0.001
    """PPO's clip range at the earliest trained denoising step."""
    clip_high: float = 0.01
    """PPO's clip range at the last denoising step."""
    epochs: int = 10
    """Passes over an iteration's (chunk, denoising step) entries."""
    minibatch: int = 7500
    """Entries in each optimiser step; the last step may have fewer."""
    actor_learning_rate: float = 1e-5
    """Learning rate of the actor's Adam optimiser."""
    critic_learning_rate: float = 1e-3
    """Learning rate of the critic's Adam optimiser."""
    critic_width: int = 256
    """Units of each of the critic's three hidden layers."""


class Critic(nn.Module):
    """V(s): (..., F) -> (...)."""

    def __init__(self, feature_dim: int, width: int):
        super().__init__()
        hidden = [(feature_dim, width), (width, width), (width, width)]
        self.layers = nn.Sequential(
            *[layer for sizes in hidden for layer in (nn.Linear(*sizes), nn.Mish())], nn.Linear(width, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)[..., 0]


@dataclass(frozen=True)
class Entries:
    """M denoising steps that PPO scores: those of the trained policy, of all chunks or of some."""

    chunk: Tensor
    """(M,) in 0 .. C - 1."""
    k: Tensor
    """(M,) the denoising step, K' .. 1."""
    before: Tensor
    """(M, H, A) a^k."""
    after: Tensor
    """(M, H, A) a^{k-1}."""

    @staticmethod
    def of(chains: Tensor) -> Entries:
        """All steps of chains (C, K'+1, H, A), chunk by chunk."""
        (count, longer), device = chains.shape[:2], chains.device
        chunk = torch.arange(count, device=device).repeat_interleave(longer - 1)
        k = torch.arange(longer - 1, 0, -1, device=device).repeat(count)
        return Entries(chunk, k, chains[:, :-1].flatten(0, 1), chains[:, 1:].flatten(0, 1))

    def __getitem__(self, index: Tensor) -> Entries:
        """Those with the numbers `index` (m,)."""
        parts = (self.chunk, self.k, self.before, self.after)
        return Entries(*(part.index_select(0, index) for part in parts))

    def split(self, size: int) -> Iterator[Entries]:
        """Groups of `size` in order."""
        for some in torch.arange(len(self.k), device=self.k.device).split(size):
            yield self[some]


@dataclass(frozen=True)
class Batch:
    """One iteration, ready for updates: C chunks (N x T) and their M = C x K' entries."""

    features: Tensor
    """(C, F)."""
    returns: Tensor
    """(C,) value targets."""
    advantage: Tensor
    """(C,) normalised over chunks."""
    entries: Entries
    """(M, ...)."""
    old_log_prob: Tensor
    """(M,) of a^{k-1} under the policy that dreamt."""
    base: Normal
    """(M, H, A) pi_pre at the same (s, a^k)."""


class Learner:
    """The trainable copy of a pre-trained policy, its critic, and their PPO updates.

    Args:
        pretrained: the policy; frozen from here on.
        exploration: noise of the rollouts that `update` gets.
        rng: draws the minibatches; on the device where the networks go.
    """

    def __init__(
        self,
        pretrained: ChainPolicy,
        feature_dim: int,
        config: PPOConfig,
        exploration: Exploration,
        bc_weight: BCWeight,
        rng: torch.Generator,
    ):
        self.config, self.exploration, self.rng, device = config, exploration, rng, rng.device
        self.policy = FinetunedPolicy(pretrained, config.trained_steps).to(device)
        self.critic, self.bc_weight = Critic(feature_dim, config.critic_width).to(device), bc_weight.to(device)
        actor, critic = self.policy.trained.parameters(), self.critic.parameters()
        self.actor_adam = torch.optim.Adam(actor, config.actor_learning_rate, fused=True)
        self.critic_adam = torch.optim.Adam(critic, config.critic_learning_rate, fused=True)
        self._actor_loss, self._critic_loss = compiled(self.actor_loss, device), compiled(self.critic_loss, device)

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """Everything that a training run saves."""
        names = ("policy", "critic", "actor_adam", "critic_adam", "bc_weight")
        return {name: getattr(self, name) for name in names}

    def update(self, rollout: Rollout, train_actor: bool) -> dict[str, float]:
        """The epochs of one iteration; returns the figures to log."""
        batch, config = self.prepare(rollout), self.config
        with torch.no_grad():
            explained = ppo.explained_variance(self.critic(batch.features), batch.returns)
        actor, critic = [], []
        for _ in range(config.epochs):
            entries = self._permutation(len(batch.old_log_prob)).split(config.minibatch)
            chunks = self._permutation(len(batch.returns)).tensor_split(len(entries))
            for some_entries, some_chunks in zip(entries, chunks, strict=True):
                if train_actor:
                    loss, figures = self._actor_loss(batch, some_entries)
                    step(self.actor_adam, loss)
                    actor.append(figures.clone())  # a compiled loss overwrites its results
                loss = self._critic_loss(batch, some_chunks)
                step(self.critic_adam, loss)
                critic.append(loss.detach().clone())
        figures = torch.stack(actor) if train_actor else explained.new_zeros(1, 4)
        means, alpha = figures.mean(0), self.bc_weight.alpha.clone()
        if train_actor:
            self.bc_weight.adapt(means[3])
        found = {
            "policy_loss": means[0],
            "approx_kl": means[1],
            "approx_kl_before_update": figures[0, 1],
            "clip_fraction": means[2],
            "bc_kl": means[3],
            "alpha_bc": alpha,
            "value_loss": torch.stack(critic).mean(),
            "explained_variance": explained,
        }
        return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))  # one wait for the device

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Batch:
        """Advantages, and everything of the entries that does not change between epochs."""
        config, value, following = self.config, self.critic(rollout.features), self.critic(rollout.next_features)
        ends = rollout.terminated, rollout.done
        advantage = ppo.gae(rollout.reward, value, following, *ends, config.gamma, config.gae_lambda)
        features = rollout.features.flatten(0, 1)
        entries = Entries.of(rollout.chains.flatten(0, 1)[:, -self.policy.trained_steps - 1 :])
        return Batch(
            features=features,
            returns=(advantage + value).flatten(),
            advantage=ppo.normalise(advantage).flatten(),
            entries=entries,
            old_log_prob=ppo.log_prob(self.score(self.policy.trained, features, entries), entries.after),
            base=self.score(self.policy.base, features, entries),
        )

    def score(self, part: ChainPolicy, features: Tensor, entries: Entries) -> Normal:
        """`denoised` at all entries, minibatch by minibatch."""
        projected = part.project(features)
        normals = [self.denoised(part, projected, some) for some in entries.split(self.config.minibatch)]
        return Normal(torch.cat([n.mean for n in normals]), torch.cat([n.std for n in normals]))

    def denoised(self, part: ChainPolicy, projected: Tensor, entries: Entries) -> Normal:
        """The distribution of a^{k-1} in exploration; projected (C, W) holds each chunk's features once for all."""
        normal = part.denoise(projected.index_select(0, entries.chunk), entries.before, entries.k)
        return normal.with_floor(self.exploration.std_floor)

    def actor_loss(self, batch: Batch, index: Tensor) -> tuple[Tensor, Tensor]:
        """PPO's loss + alpha_BC KL(pi_pre || pi_theta) at the entries `index`; its figures.

        The figures (4,) are PPO's loss, approx_kl, clip fraction and the KL, without gradient.
        """
        config, trained, entries = self.config, self.policy.trained, batch.entries[index]
        normal = self.denoised(trained, trained.project(batch.features), entries)
        objective = ppo.policy_loss(
            ppo.log_prob(normal, entries.after),
            batch.old_log_prob.index_select(0, index),
            batch.advantage.index_select(0, entries.chunk) * ppo.denoising_discount(entries.k, config.gamma_denoising),
            ppo.clip_coef(entries.k, self.policy.trained_steps, config.clip_low, config.clip_high),
        )
        base = Normal(batch.base.mean.index_select(0, index), batch.base.std.index_select(0, index))
        bc = ppo.kl_divergence(base, normal).mean()
        figures = [objective.loss.detach(), objective.approx_kl, objective.clip_fraction, bc.detach()]
        return objective.loss + self.bc_weight.alpha * bc, torch.stack(figures)

    def critic_loss(self, batch: Batch, chunks: Tensor) -> Tensor:
        """Half the mean squared error of V at the chunks of these numbers."""
        value = self.critic(batch.features.index_select(0, chunks))
        return ppo.value_loss(value, batch.returns.index_select(0, chunks))

    def _permutation(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.rng, device=self.rng.device)
