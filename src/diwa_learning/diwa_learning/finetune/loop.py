"""The iterations of fine-tuning by PPO, wherever the policy is rolled out: in dreams, or in environments (DPPO)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import load_checkpoint, save_checkpoint
from diwa_learning.core.run import Stateful, TrainingRun
from diwa_learning.core.stacking import Stream, Streams, stack
from diwa_learning.finetune.imagination import Rollout
from diwa_learning.finetune.learner import BCWeight, Critic, Finetuner, PPOConfig, Sampling
from diwa_learning.finetune.selection import Choice
from diwa_learning.policy.base import ChainPolicy, FinetunedPolicy
from diwa_learning.policy.checkpoint import LoadedPolicy, describe, load_policy, policy_weights
from diwa_learning.world_model.checkpoint import LoadedWorldModel
from diwa_learning.world_model.lockstep import lockstep, track

Where = Literal["dream", "environment"]
UNITS: dict[Where, str] = {"dream": "imagined actions", "environment": "environment steps"}
"""What progress counts, by where the policy is rolled out."""


class Rollouts(Protocol):
    """A source of experience."""

    def rollout(self, policy: ChainPolicy) -> Rollout:
        """One iteration with `policy`; the next call may overwrite the result."""


class Schedule(Protocol):
    """What the configurations of DiWA and DPPO both say of their iterations."""

    @property
    def iterations(self) -> int:
        """Rounds of rolling out and updating."""

    @property
    def critic_warmup(self) -> int:
        """First iterations that train the critic alone."""

    @property
    def checkpoint_every(self) -> int:
        """Iterations between policy checkpoints."""


@dataclass(frozen=True)
class FinetuneMember(ABC):
    """One run of a stack, ready to train."""

    run: TrainingRun
    pretrained: LoadedPolicy
    policy: FinetunedPolicy
    critic: Critic
    draws: Stream
    bc_weight: BCWeight

    @abstractmethod
    def form(self) -> Any:
        """All but seed, alpha_BC, weights and data: runs of equal form are stacked."""

    def ended(self, done: int) -> bool:
        """Whether `done` iterations are enough for this run; those of a stack go on until all have enough."""
        return False

    def describe(self) -> dict[str, Any]:
        """What every checkpoint of this run says of its policy."""
        return describe(self.pretrained.net, self.pretrained.skill, self.policy.trained_steps)


def load_pretrained(path: Path, world: LoadedWorldModel) -> LoadedPolicy:
    """A `policy` checkpoint; `DiwaError` for one that is fine-tuned already, or of another spec or world model."""
    pretrained = load_policy(path, world.spec, world.hash, world.model.feature_dim)
    if isinstance(pretrained.policy, FinetunedPolicy):
        raise DiwaError(f"{path} is fine-tuned already: give a checkpoint of `diwa train-policy`")
    return pretrained


def make_finetuner(group: Sequence[FinetuneMember], ppo: PPOConfig, sampling: Sampling, draws: Streams) -> Finetuner:
    """Policies, critics and updates of runs of one form, stacked."""
    policy, critic = stack([member.policy for member in group]), stack([member.critic for member in group])
    return Finetuner(policy, critic, ppo, sampling, stack([member.bc_weight for member in group]), draws)


def is_kept(schedule: Schedule, done: int) -> bool:
    """Whether the policy after so many iterations is kept: one every few, and the last."""
    return done % schedule.checkpoint_every == 0 or done == schedule.iterations


def iterate(
    group: Sequence[FinetuneMember],
    schedule: Schedule,
    tuner: Finetuner,
    source: Rollouts,
    where: Where,
    actions: int,
) -> list[dict[str, Stateful]]:
    """Roll out and update until all have ended; `actions` are those of one run's iteration.

    Returns each run's policy and critic.
    """
    shares = track(
        group,
        policy=tuner.policy,
        critic=tuner.critic,
        actor_adam=tuner.actor_adam,
        critic_adam=tuner.critic_adam,
        bc_weight=tuner.bc_weight,
    )
    for iteration in lockstep(group, schedule.iterations, UNITS[where], actions):
        if all(member.ended(iteration) for member in group):
            break
        started = time.perf_counter()
        measured = tuner.update(source.rollout(tuner.policy), train_actor=iteration >= schedule.critic_warmup)
        values = torch.stack(list(measured.values()), dim=-1).view(len(group), -1).tolist()  # one wait for the device
        rate = len(group) * actions / (time.perf_counter() - started)
        names = [name.replace("dream", where) for name in measured]
        for member, mine, row in zip(group, shares, values, strict=True):
            found = dict(zip(names, row, strict=True))
            member.run.require_finite("value_loss", torch.tensor(found["value_loss"]))
            done = {UNITS[where].replace(" ", "_"): (iteration + 1) * actions}
            member.run.log(iteration, {**found, "actions_per_second": rate, **done})
            if is_kept(schedule, iteration + 1):
                keep_iteration(member, policy_weights(mine["policy"]), iteration + 1)
    return shares


def keep_iteration(member: FinetuneMember, weights: Mapping[str, Tensor], iteration: int) -> None:
    """Leave the policy of this iteration in `iterations/NNNNNN`, itself a `finetune` checkpoint."""
    run = member.run
    metrics = {**member.describe(), "iteration": iteration}
    metrics |= {name: curve[-1][1] for name, curve in run.history.items()}
    folder = iteration_folder(run.out, iteration)
    save_checkpoint(folder, "finetune", weights, run.config, run.spec, metrics, run.world_model_hash)


def iteration_folder(out: Path, iteration: int) -> Path:
    """Where a run keeps the policy after so many iterations."""
    return out / "iterations" / f"{iteration:06d}"


def finish(
    member: FinetuneMember, parts: Mapping[str, Stateful], metrics: Mapping[str, Any], choice: Choice | None = None
) -> None:
    """Leave the checkpoint of one run: both policies, the last or the chosen one, and the last critic."""
    critic = {f"critic.{name}": tensor for name, tensor in parts["critic"].state_dict().items()}
    alpha = float(parts["bc_weight"].state_dict()["alpha"])
    metrics = {**member.describe(), "alpha_bc": alpha, **metrics}
    weights = policy_weights(parts["policy"])
    if choice:
        weights = load_checkpoint(iteration_folder(member.run.out, choice.iteration), "finetune").weights
        metrics |= {"iteration": choice.iteration, "scores": {str(n): score for n, score in choice.scores.items()}}
    member.run.finish(weights | critic, metrics)
