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
from diwa_learning.bc_weight import BCWeight
from diwa_learning.chain import ChainPolicy, FinetunedPolicy
from diwa_learning.checkpoint import LoadedWorldModel, save_checkpoint
from diwa_learning.dream import Rollout
from diwa_learning.finetuner import Critic, Finetuner, PPOConfig, Sampling
from diwa_learning.lockstep import lockstep, track
from diwa_learning.policy import LoadedPolicy, describe, load_policy, policy_weights
from diwa_learning.stacking import stack
from diwa_learning.streams import Stream, Streams
from diwa_learning.training import Stateful, TrainingRun

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


def iterate(
    group: Sequence[FinetuneMember],
    schedule: Schedule,
    tuner: Finetuner,
    source: Rollouts,
    where: Where,
    actions: int,
) -> list[dict[str, Stateful]]:
    """Roll out and update; `actions` are those of one run's iteration. Returns each run's policy and critic."""
    shares = track(
        group,
        policy=tuner.policy,
        critic=tuner.critic,
        actor_adam=tuner.actor_adam,
        critic_adam=tuner.critic_adam,
        bc_weight=tuner.bc_weight,
    )
    for iteration in lockstep(group, schedule.iterations, UNITS[where], actions):
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
            if (iteration + 1) % schedule.checkpoint_every == 0:
                keep_iteration(member, policy_weights(mine["policy"]), iteration + 1)
    return shares


def keep_iteration(member: FinetuneMember, weights: Mapping[str, Tensor], iteration: int) -> None:
    """Leave the policy of this iteration in `iterations/NNNNNN`, itself a `finetune` checkpoint."""
    run = member.run
    metrics = {**member.describe(), "iteration": iteration}
    metrics |= {name: curve[-1][1] for name, curve in run.history.items()}
    folder = run.out / "iterations" / f"{iteration:06d}"
    save_checkpoint(folder, "finetune", weights, run.config, run.spec, metrics, run.world_model_hash)


def finish(member: FinetuneMember, parts: Mapping[str, Stateful], metrics: Mapping[str, Any]) -> None:
    """Leave the checkpoint of one run: both policies and the critic."""
    critic = {f"critic.{name}": tensor for name, tensor in parts["critic"].state_dict().items()}
    alpha = float(parts["bc_weight"].state_dict()["alpha"])
    metrics = {**member.describe(), "alpha_bc": alpha, **metrics}
    member.run.finish(policy_weights(parts["policy"]) | critic, metrics)
