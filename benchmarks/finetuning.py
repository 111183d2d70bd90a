"""Fine-tuning at the paper's sizes against the plain implementation, and eight stacked runs against one by one.

h 1024, 32x32 latents, 512-wide policy and classifier, K = 20, K' = 10; work is interleaved in one process.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from common import Measurement
from reference import finetuning as plain

from diwa_data.config import load_section
from diwa_data.spec import Spec
from diwa_learning.core.device import compute_device, reuse_freed_memory
from diwa_learning.core.stacking import Stream, Streams, stack
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.finetune.learner import BCWeight, Critic, Finetuner, PPOConfig
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.policy.base import FinetunedPolicy
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.reward.classifier import RewardClassifier
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import State

ALPHA = 0.05


@dataclass(frozen=True)
class Parts:
    """One run's networks and start states, untrained: no dream succeeds, so that every chunk is dreamt."""

    policy: FinetunedPolicy
    critic: Critic
    classifier: RewardClassifier
    starts: State

    @classmethod
    def make(cls, model: WorldModel, ppo: PPOConfig) -> Parts:
        classifier = RewardClassifier(model.feature_dim, 512).requires_grad_(False)
        classifier.threshold.fill_(1.0)
        policy = make_policy(PolicyNetConfig(), model.feature_dim, model.spec.action_dim)
        config = model.rssm.config
        h, logits = torch.randn(500, config.recurrent), torch.randn(500, config.categoricals, config.classes)
        starts = State(h.tanh(), model.rssm.sample(logits), torch.zeros(500, 0))
        return cls(FinetunedPolicy(policy, ppo.trained_steps), Critic(model.feature_dim, 256), classifier, starts)


class Ours:
    """Dreams and updates of one run, or of several stacked."""

    def __init__(self, model: WorldModel, parts: list[Parts], dream: DreamConfig, ppo: PPOConfig):
        device = model.device
        draws = Streams([Stream(seed, device) for seed in range(len(parts))])
        self.policy = stack([part.policy for part in parts]).to(device)
        classifier = stack([part.classifier for part in parts]).to(device)
        critic = stack([part.critic for part in parts]).to(device)
        starts = [part.starts.map(lambda tensor: tensor.to(device)) for part in parts]
        self.dream = Dream(model, classifier, starts, ppo.trained_steps, dream, draws)
        self.tuner = Finetuner(self.policy, critic, ppo, dream, BCWeight(ALPHA).to(device), draws)

    def rollout(self) -> None:
        self.dream.rollout(self.policy)

    def iteration(self) -> None:
        self.tuner.update(self.dream.rollout(self.policy), train_actor=True)


class Plain:
    """The same of one run, plainly."""

    def __init__(self, model: WorldModel, parts: Parts, dream: DreamConfig, ppo: PPOConfig):
        self.dream, self.ppo = dream, ppo
        device = model.device
        self.draws = Streams([Stream(0, device)])
        self.prior = plain.PlainPrior(*vars(model.config.rssm).values()).to(device)
        self.prior.load_state_dict(model.rssm.state_dict(), strict=False)
        self.base, self.trained = (plain.PlainPolicy(model.feature_dim, 512, 20).to(device) for _ in range(2))
        self.critic, self.classifier = (copy.deepcopy(net).to(device) for net in (parts.critic, parts.classifier))
        self.starts = tuple(part.to(device) for part in (parts.starts.h, parts.starts.z))
        rates = ((self.trained, ppo.actor_learning_rate), (self.critic, ppo.critic_learning_rate))
        self.adams = tuple(torch.optim.Adam(net.parameters(), rate, foreach=False) for net, rate in rates)

    def rollout(self) -> plain.PlainRollout:
        sizes = (self.dream.dreams, self.dream.chunks, self.dream.horizon, self.ppo.trained_steps)
        nets = (self.prior, self.classifier, self.base, self.trained)
        return plain.rollout(*nets, self.starts, self.draws, *sizes)

    def iteration(self) -> None:
        ppo, nets = self.ppo, (self.base, self.trained, self.critic)
        sizes = (ppo.trained_steps, ppo.epochs, ppo.minibatch)
        plain.update(self.rollout(), *nets, self.adams, self.draws, *sizes, ALPHA)


def compare(name: str, ours: Callable[[], None], other: Callable[[], None], actions: int, target: float, rounds: int):
    """Time both in turn after a warm-up of each; prints actions per second and the ratio of medians."""
    ours(), other()
    seconds: dict[Callable[[], None], list[float]] = {ours: [], other: []}
    for _ in range(rounds):
        for work in (ours, other):
            started = time.perf_counter()
            work()
            seconds[work].append(time.perf_counter() - started)
    mine, theirs = (statistics.median(seconds[work]) for work in (ours, other))
    Measurement(name, actions / mine, "actions/s", target, actions / theirs, theirs / mine).print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=8, help="stacked runs")
    arguments = parser.parse_args()
    reuse_freed_memory()
    torch.manual_seed(0)
    model = WorldModel(WorldModelConfig(), Spec()).eval().requires_grad_(False).to(compute_device())
    paper = load_section(FinetuneConfig, "finetune", "paper")
    ppo, dream = paper.ppo, paper.dream
    parts = [Parts.make(model, ppo) for _ in range(arguments.runs)]
    short = replace(dream, chunks=18)
    ours, theirs = Ours(model, parts[:1], short, ppo), Plain(model, parts[0], short, ppo)
    actions = short.dreams * short.chunks * 4
    compare("rollout_paper_size", ours.rollout, theirs.rollout, actions, 2.0, 3 * arguments.rounds)
    whole, plainly = Ours(model, parts[:1], dream, ppo), Plain(model, parts[0], dream, ppo)
    compare("ppo_iteration_paper_size", whole.iteration, plainly.iteration, 2 * actions, 1.5, arguments.rounds)
    once = replace(ppo, epochs=1)
    stacked, each = Ours(model, parts, short, once), [Ours(model, [part], short, once) for part in parts]

    def in_sequence() -> None:
        for run in each:
            run.iteration()

    name = f"stacked_{arguments.runs}_runs"
    compare(name, stacked.iteration, in_sequence, arguments.runs * actions, 1.0, arguments.rounds)


if __name__ == "__main__":
    main()
