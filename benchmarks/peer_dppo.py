"""PPO updates and policy sampling against the public DPPO, whose diffusion policy and PPO the paper takes over.

    python benchmarks/peer_dppo.py --peer DIR    # a clone of https://github.com/irom-lab/dppo

Float32, the paper's sizes: 50 dreams of 36 chunks, 2,048 features, 512-wide policy, K = 20, K' = 10, 10 epochs.
Ratios above 1: ours is faster.

The same on both sides: the stored rollout, the weights of the policy (so that log-probabilities agree, which is
checked before anything is timed), sizes of the critic, entries of an epoch (18,000) and optimiser steps of an epoch
(three), threads, how freed memory is used. An update is values, log-probabilities, advantages and the epochs. DPPO's
are its own networks, its own `get_logprobs` and its own `loss`; the loop around them stands here, because its agent
holds it within one method together with environments and logging. It takes whole chunks into a minibatch, 600 of them,
so that an epoch has as many steps as ours with 7,500 of 18,000 entries. Ours alone also has the term
KL(pi_pre || pi_theta), which DPPO's `loss` leaves out unless asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peers import DPPO
from torch import Tensor
from turns import Apart, Work, compare

from diwa_data.config import load_section
from diwa_learning.finetune import ppo
from diwa_learning.finetune.imagination import Rollout
from diwa_learning.finetune.learner import Batch, BCWeight, Learner
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.policy.base import ChainPolicy
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy

FEATURES, ACTION = 2048, 7
MINIBATCH = 600
"""Chunks of a minibatch of DPPO."""
SAMPLINGS = 20
"""Samplings that are timed together."""
NAMES = {
    "time_embedding.1": "time.0",
    "time_embedding.3": "time.2",
    "mlp_mean.layers.0": "trunk.input",
    "mlp_mean.layers.1.l1": "trunk.hidden",
    "mlp_mean.layers.1.l2": "trunk.residual",
    "mlp_mean.layers.2": "trunk.output",
}
"""Layers of DPPO's policy and ours."""


class Ours:
    """The learner with a rollout, as both sides have it: everything comes from one seed."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = load_section(FinetuneConfig, "finetune", "paper")
        self.ppo, self.dream, net = config.ppo, config.dream, PolicyNetConfig()
        policy = make_policy(net, FEATURES, ACTION)
        rng = torch.Generator().manual_seed(0)
        self.learner = Learner(policy, FEATURES, self.ppo, self.dream.exploration, BCWeight(0.05), rng)
        self.rollout = self.make_rollout(self.learner.policy)
        self.seen = self.rollout.features[:, 0]

    @torch.no_grad()
    def make_rollout(self, policy: ChainPolicy) -> Rollout:
        """Chunks of the policy in random states; every dream is cut at the horizon, some chunks are a success."""
        shape = (self.dream.dreams, self.dream.chunks)
        features = torch.randn(shape[0], shape[1] + 1, FEATURES)
        flat = features[:, :-1].flatten(0, 1)
        chains = policy.explore(flat, policy.draw_noise(len(flat)), self.dream.exploration).chains
        age = torch.arange(shape[1]).remainder(self.dream.horizon).add(1).expand(shape)
        success = torch.rand(shape) < 0.02
        return Rollout(
            features=features[:, :-1].contiguous(),
            next_features=features[:, 1:].contiguous(),
            chains=chains.unflatten(0, shape),
            reward=success.float(),
            terminated=success,
            done=success | (age == self.dream.horizon),
            success=success,
            age=age,
            deviation=torch.zeros(shape),
        )

    def update(self) -> None:
        self.learner.update(self.rollout, train_actor=True)

    @torch.no_grad()
    def sample(self) -> None:
        for _ in range(SAMPLINGS):
            self.learner.policy.explore(
                self.seen, self.learner.policy.draw_noise(len(self.seen)), self.dream.exploration
            )


class Theirs:
    """DPPO's modules with our policy's weights and our rollout."""

    def __init__(self, folder: Path) -> None:
        with DPPO.modules(folder):
            from model.common.critic import CriticObs
            from model.diffusion.diffusion_ppo import PPODiffusion
            from model.diffusion.mlp_diffusion import DiffusionMLP
        ours, net = Ours(), PolicyNetConfig()
        self.ppo, self.rollout, width = ours.ppo, ours.rollout, ours.ppo.critic_width
        self.actions = {"horizon_steps": net.chunk, "action_dim": ACTION}
        actor = DiffusionMLP(cond_dim=FEATURES, mlp_dims=[net.width] * 3, residual_style=True, **self.actions)
        actor.load_state_dict(renamed(ours.learner.policy.trained.state_dict()))
        self.model = PPODiffusion(
            actor=actor,
            critic=CriticObs(FEATURES, [width] * 3, residual_style=True),
            obs_dim=FEATURES,
            device="cpu",
            denoising_steps=net.denoising_steps,
            ft_denoising_steps=self.ppo.trained_steps,
            gamma_denoising=self.ppo.gamma_denoising,
            clip_ploss_coef=self.ppo.clip_high,
            clip_ploss_coef_base=self.ppo.clip_low,
            min_sampling_denoising_std=ours.dream.exploration.std_floor,
            min_logprob_denoising_std=ours.dream.exploration.std_floor,
            randn_clip_value=ours.dream.exploration.noise_clamp,
            **self.actions,
        )
        parts = {self.model.actor_ft: self.ppo.actor_learning_rate, self.model.critic: self.ppo.critic_learning_rate}
        self.optimizers = [torch.optim.AdamW(part.parameters(), rate, weight_decay=0) for part, rate in parts.items()]
        self.seen = {"state": ours.seen[:, None]}
        self.require_agreement(ours.learner.prepare(ours.rollout))

    def require_agreement(self, batch: Batch) -> None:
        """End with one line if the log-probabilities of the rollout are not ours."""
        theirs = self.prepare()[2].clamp(-5, 2).mean((-1, -2)).flatten()
        if not torch.allclose(theirs, batch.old_log_prob, atol=1e-3):
            worst = float((theirs - batch.old_log_prob).abs().max())
            raise SystemExit(f"DPPO's log-probabilities differ from ours by up to {worst:.3g}: not comparable")

    @torch.no_grad()
    def prepare(self) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
        """States, chains, log-probabilities, values, advantages and returns of all chunks."""
        rollout, config = self.rollout, self.ppo
        states = {"state": rollout.features.flatten(0, 1)[:, None]}
        chains = rollout.chains.flatten(0, 1)[:, -config.trained_steps - 1 :]
        log_probs = self.model.get_logprobs(states, chains).unflatten(0, (len(chains), config.trained_steps))
        value = self.model.critic(states).view(rollout.reward.shape)
        following = self.model.critic({"state": rollout.next_features.flatten(0, 1)[:, None]}).view(value.shape)
        ends = rollout.terminated, rollout.done
        advantage = ppo.gae(rollout.reward, value, following, *ends, config.gamma, config.gae_lambda)
        return states, chains, log_probs, value.flatten(), advantage.flatten(), (advantage + value).flatten()

    def update(self) -> None:
        states, chains, log_probs, values, advantages, returns = self.prepare()
        for _ in range(self.ppo.epochs):
            for some in torch.randperm(len(chains)).split(MINIBATCH):
                seen: dict[str, Any] = {"state": states["state"][some]}
                scored = (chains[some], returns[some], values[some], advantages[some], log_probs[some])
                policy_loss, _, value_loss, *_ = self.model.loss(seen, *scored, reward_horizon=chains.shape[2])
                for optimizer in self.optimizers:
                    optimizer.zero_grad()
                (policy_loss + 0.5 * value_loss).backward()
                for optimizer in self.optimizers:
                    optimizer.step()

    def sample(self) -> None:
        for _ in range(SAMPLINGS):
            self.model(self.seen, deterministic=False, return_chain=True)


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our policy's weights under the names of DPPO's layers."""
    kinds = ("weight", "bias")
    return {f"{theirs}.{kind}": weights[f"{ours}.{kind}"] for theirs, ours in NAMES.items() for kind in kinds}


def their_update(folder: Path) -> Work:
    return Theirs(folder).update


def their_sampling(folder: Path) -> Work:
    return Theirs(folder).sample


def main(rounds: int = 5) -> None:
    folder, ours = DPPO.folder(__doc__), Ours()
    with Apart(their_update, folder) as other:
        chunks = ours.dream.dreams * ours.dream.chunks
        compare("ppo_update_vs_dppo", ours.update, other, rounds, chunks, "chunks/s")
    with Apart(their_sampling, folder) as other:
        chunks = SAMPLINGS * len(ours.seen)
        compare("policy_sampling_vs_dppo", ours.sample, other, 3 * rounds, chunks, "chunks/s")


if __name__ == "__main__":
    main()
