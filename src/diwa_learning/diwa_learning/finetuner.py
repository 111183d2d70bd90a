"""PPO updates of a diffusion or Gaussian policy from one iteration of dreams (METHOD section 4, paper eqs. 15-17)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diwa_learning import ppo
from diwa_learning.chain import ChainPolicy, FinetunedPolicy, Normal
from diwa_learning.dream import DreamConfig, Rollout


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
            *[layer for sizes in hidden for layer in (nn.Linear(*sizes), nn.Mish())], nn.Linear(width, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)[..., 0]


@dataclass(frozen=True)
class Batch:
    """One iteration, ready for updates: C chunks (N x T) and M = C x K' entries, one per trained denoising step."""

    features: Tensor
    """(C, F)."""
    returns: Tensor
    """(C,) value targets."""
    chunk: Tensor
    """(M,) which chunk an entry belongs to."""
    k: Tensor
    """(M,) its denoising step, K' .. 1."""
    before: Tensor
    """(M, H, A) a^k."""
    after: Tensor
    """(M, H, A) a^{k-1}."""
    advantage: Tensor
    """(M,) normalised over chunks, then discounted by denoising step."""
    clip: Tensor
    """(M,) clip range."""
    old_log_prob: Tensor
    """(M,) of a^{k-1} under the policy that dreamt."""
    base: Normal
    """(M, H, A) pi_pre at the same (s, a^k)."""


class Finetuner:
    """The trainable copy of a pre-trained policy, its critic, and their PPO updates."""

    def __init__(
        self, pretrained: ChainPolicy, feature_dim: int, config: PPOConfig, dream: DreamConfig, alpha_bc: float
    ):
        self.config, self.alpha_bc = config, alpha_bc
        self.horizon, self.std_floor = dream.horizon, dream.exploration.std_floor
        self.policy = FinetunedPolicy(pretrained, config.trained_steps)
        self.critic = Critic(feature_dim, config.critic_width)
        self.actor_adam = torch.optim.Adam(self.policy.trained.parameters(), config.actor_learning_rate, fused=True)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), config.critic_learning_rate, fused=True)

    def update(self, rollout: Rollout, train_actor: bool) -> dict[str, float]:
        """The epochs of one iteration; returns what is logged."""
        batch = self.prepare(rollout)
        with torch.no_grad():
            explained = ppo.explained_variance(self.critic(batch.features), batch.returns)
        measured: list[Tensor] = []
        losses: list[Tensor] = []
        for _ in range(self.config.epochs):
            entries = torch.randperm(len(batch.k)).split(self.config.minibatch)
            chunks = torch.randperm(len(batch.features)).tensor_split(len(entries))
            for some_entries, some_chunks in zip(entries, chunks, strict=True):
                if train_actor:
                    measured.append(self.update_actor(batch, some_entries))
                losses.append(self.update_critic(batch, some_chunks))
        means = torch.stack(measured).mean(dim=0).tolist() if train_actor else [0.0] * 4
        first = measured[0].tolist() if train_actor else [0.0] * 4
        return {
            "dream_success": rollout.success_rate(self.horizon),
            "dream_return": rollout.mean_return(self.horizon),
            "policy_loss": means[0],
            "approx_kl": means[1],
            "approx_kl_before_update": first[1],
            "clip_fraction": means[2],
            "bc_kl": means[3],
            "value_loss": torch.stack(losses).mean().item(),
            "explained_variance": explained.item(),
        }

    @torch.no_grad()
    def prepare(self, rollout: Rollout) -> Batch:
        """Advantages, and everything of the entries that does not change between epochs."""
        config, trained_steps = self.config, self.policy.trained_steps
        returns = ppo.gae(
            rollout.reward,
            self.critic(rollout.features),
            self.critic(rollout.next_features),
            rollout.terminated,
            rollout.done,
            config.gamma,
            config.gae_lambda,
        )
        features = rollout.features.flatten(0, 1)
        chains = rollout.chains.flatten(0, 1)  # (C, K'+1, H, A)
        chunk = torch.arange(len(features)).repeat_interleave(trained_steps)
        k = torch.arange(trained_steps, 0, -1).repeat(len(features))
        before, after = chains[:, :-1].flatten(0, 1), chains[:, 1:].flatten(0, 1)
        old = self.score(self.policy.trained, features, chunk, before, k)
        return Batch(
            features=features,
            returns=returns.returns.flatten(),
            chunk=chunk,
            k=k,
            before=before,
            after=after,
            advantage=ppo.normalise(returns.advantage).flatten()[chunk]
            * ppo.denoising_discount(k, config.gamma_denoising),
            clip=ppo.clip_coef(k, trained_steps, config.clip_low, config.clip_high),
            old_log_prob=ppo.log_prob(old, after),
            base=self.score(self.policy.base, features, chunk, before, k),
        )

    def score(self, part: ChainPolicy, features: Tensor, chunk: Tensor, before: Tensor, k: Tensor) -> Normal:
        """The dream's distribution of a^{k-1} at M entries, minibatch by minibatch; features (C, F)."""
        projected, size = part.project(features), self.config.minibatch
        normals = [
            self.dreamt(part, projected, some_chunk, some_before, some_k)
            for some_chunk, some_before, some_k in zip(
                chunk.split(size), before.split(size), k.split(size), strict=True
            )
        ]
        return Normal(torch.cat([n.mean for n in normals]), torch.cat([n.std for n in normals]))

    def dreamt(self, part: ChainPolicy, projected: Tensor, chunk: Tensor, before: Tensor, k: Tensor) -> Normal:
        """The same for one minibatch; projected (C, W) holds each chunk's features once for all its entries."""
        normal = part.denoise(projected.index_select(0, chunk), before, k)
        return normal.with_floor(self.std_floor)

    def update_actor(self, batch: Batch, entries: Tensor) -> Tensor:
        """One step on PPO + alpha_BC KL(pi_pre || pi_theta); returns loss, approx_kl, clip fraction, BC KL."""
        trained = self.policy.trained
        chunk, before, k = batch.chunk[entries], batch.before[entries], batch.k[entries]
        normal = self.dreamt(trained, trained.project(batch.features), chunk, before, k)
        objective = ppo.policy_loss(
            ppo.log_prob(normal, batch.after[entries]),
            batch.old_log_prob[entries],
            batch.advantage[entries],
            batch.clip[entries],
        )
        base = Normal(batch.base.mean[entries], batch.base.std[entries])
        bc = ppo.kl_divergence(base, normal).mean()
        step(self.actor_adam, objective.loss + self.alpha_bc * bc)
        return torch.stack([objective.loss.detach(), objective.approx_kl, objective.clip_fraction, bc.detach()])

    def update_critic(self, batch: Batch, chunks: Tensor) -> Tensor:
        """One step on half the mean squared error of V at some chunks; returns it."""
        loss = ppo.value_loss(self.critic(batch.features[chunks]), batch.returns[chunks])
        step(self.critic_adam, loss)
        return loss.detach()


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step on a loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
