"""Fine-tuning at the paper's sizes against the plain implementation.

h 1024, 32x32 latents, 512-wide policy and classifier, K = 20, K' = 10; work is interleaved in one process.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, replace

import torch
from reference import finetuning as plain
from torch.utils.flop_counter import FlopCounterMode
from turns import Work, compare

from diwa_data.config import load_section
from diwa_data.spec import Spec
from diwa_learning.core.device import compute_device, is_half, reuse_freed_memory
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.finetune.learner import BCWeight, Critic, Learner, PPOConfig
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.policy.base import ChainPolicy
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.reward.classifier import RewardClassifier
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import State
from diwa_learning.world_model.train import matmul_peak

ALPHA = 0.05


@dataclass(frozen=True)
class Parts:
    """A run's networks and start states, untrained: no dream succeeds, so that every chunk is dreamt."""

    policy: ChainPolicy
    classifier: RewardClassifier
    starts: State

    @classmethod
    def make(cls, model: WorldModel) -> Parts:
        classifier = RewardClassifier(model.feature_dim, 512).requires_grad_(False)
        classifier.threshold.fill_(1.0)
        policy = make_policy(PolicyNetConfig(), model.feature_dim, model.spec.action_dim)
        config = model.rssm.config
        h, logits = torch.randn(500, config.recurrent), torch.randn(500, config.categoricals, config.classes)
        starts = State(h.tanh(), model.rssm.sample(logits), torch.zeros(500, 0), torch.zeros(500, 0))
        return cls(policy, classifier.to(model.device), starts.map(lambda part: part.to(model.device)))


class Ours:
    """Dreams and updates."""

    def __init__(self, model: WorldModel, parts: Parts, dream: DreamConfig, ppo: PPOConfig):
        rng = torch.Generator(model.device).manual_seed(0)
        self.dream = Dream(model, parts.classifier, parts.starts, dream, rng)
        self.learner = Learner(
            copy.deepcopy(parts.policy), model.feature_dim, ppo, dream.exploration, BCWeight(ALPHA), rng
        )

    def rollout(self) -> None:
        self.dream.rollout(self.learner.policy)

    def iteration(self) -> None:
        self.learner.update(self.dream.rollout(self.learner.policy), train_actor=True)


class Plain:
    """The same plainly."""

    def __init__(self, model: WorldModel, parts: Parts, dream: DreamConfig, ppo: PPOConfig):
        self.dream, self.ppo = dream, ppo
        device = model.device
        self.rng = torch.Generator(device).manual_seed(0)
        self.prior = plain.PlainPrior(*vars(model.config.rssm).values()).to(device)
        self.prior.load_state_dict(model.rssm.state_dict(), strict=False)
        self.base, self.trained = (plain.PlainPolicy(model.feature_dim, 512, 20).to(device) for _ in range(2))
        self.critic, self.classifier = Critic(model.feature_dim, ppo.critic_width).to(device), parts.classifier
        self.starts = parts.starts.h, parts.starts.z
        rates = ((self.trained, ppo.actor_learning_rate), (self.critic, ppo.critic_learning_rate))
        self.adams = tuple(torch.optim.Adam(net.parameters(), rate, foreach=False) for net, rate in rates)

    def rollout(self) -> plain.PlainRollout:
        sizes = (self.dream.dreams, self.dream.chunks, self.dream.horizon, self.ppo.trained_steps)
        nets = (self.prior, self.classifier, self.base, self.trained)
        return plain.rollout(*nets, self.starts, self.rng, *sizes)

    def iteration(self) -> None:
        ppo, nets = self.ppo, (self.base, self.trained, self.critic)
        sizes = (ppo.trained_steps, ppo.epochs, ppo.minibatch)
        plain.update(self.rollout(), *nets, self.adams, self.rng, *sizes, ALPHA)


class Floor:
    """Least seconds of the work: operations of each type over the peak of that type, found once."""

    def __init__(self, device: torch.device):
        self.single, self.half = (matmul_peak(device, kind, size=4096) for kind in (torch.float32, torch.bfloat16))

    def seconds(self, ours: Ours, work: Work) -> float:
        """Least seconds of a rollout or an iteration; the world model's share may be in bfloat16."""
        dream, policy, device = ours.dream, ours.learner.policy, ours.dream.model.device
        actions = torch.zeros(dream.config.dreams, policy.chunk, policy.action_dim, device=device)
        noise = dream.model.rssm.noise(policy.chunk, dream.config.dreams, rng=ours.learner.rng)
        state = dream.starts[torch.zeros(dream.config.dreams, dtype=torch.int64, device=device)]
        imagined = dream.config.chunks * operations(lambda: dream.imagine(state, actions, noise))
        half = is_half(dream.config.precision, device)
        return imagined / (self.half if half else self.single) + (operations(work) - imagined) / self.single


def operations(work: Work) -> int:
    """Floating point operations of its products, those of gradients included."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    reuse_freed_memory()
    torch.manual_seed(0)
    model = WorldModel(WorldModelConfig(), Spec()).eval().requires_grad_(False).to(compute_device())
    paper = load_section(FinetuneConfig, "finetune", "paper")
    ppo, dream = paper.ppo, paper.dream
    parts = Parts.make(model)
    short = replace(dream, chunks=18)
    ours, theirs = Ours(model, parts, short, ppo), Plain(model, parts, short, ppo)
    actions, floor = short.dreams * short.chunks * 4, Floor(model.device)
    best = actions / floor.seconds(ours, ours.rollout)
    compare("rollout_paper_size", ours.rollout, theirs.rollout, 3 * rounds, actions, "actions/s", 2.0, best)
    whole, plainly, actions = Ours(model, parts, dream, ppo), Plain(model, parts, dream, ppo), 2 * actions
    best = actions / floor.seconds(whole, whole.iteration)
    compare("ppo_iteration_paper_size", whole.iteration, plainly.iteration, rounds, actions, "actions/s", 1.5, best)


if __name__ == "__main__":
    main()
