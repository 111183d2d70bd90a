"""The baseline DPPO: the same PPO in the environment, on the world model's latents (METHOD section 4, Table I)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_data.robot import VectorEnvironment
from diwa_learning.bc_weight import BCWeight
from diwa_learning.chain import FinetunedPolicy
from diwa_learning.checkpoint import LoadedWorldModel, compute_device, load_world_model
from diwa_learning.dppo_config import DPPOConfig
from diwa_learning.environment_rollouts import EnvironmentRollouts
from diwa_learning.finetuner import Critic
from diwa_learning.iterations import FinetuneMember, finish, iterate, load_pretrained, make_finetuner
from diwa_learning.policy import LoadedPolicy
from diwa_learning.streams import Stream, Streams
from diwa_learning.training import TrainingRun, require_run_folder

WINDOW = 3
"""Iterations whose success says whether it is enough."""


@dataclass(frozen=True)
class Practice:
    """Where a policy acts."""

    open: Callable[[str, int], AbstractContextManager[VectorEnvironment]]
    """Make so many environments of a skill."""
    seeds: range
    """Of their start states."""
    about: Mapping[str, Any]
    """Plain values that name them; an interrupted run continues on the same alone."""


@dataclass(frozen=True)
class Member(FinetuneMember):
    """One run in environments."""

    config: DPPOConfig

    def ended(self, done: int) -> bool:
        """Whether it succeeds often enough."""
        recent = [success for _, success in self.run.history.get("environment_success", [])][-WINDOW:]
        return self.config.enough is not None and len(recent) == WINDOW and sum(recent) >= WINDOW * self.config.enough

    def form(self) -> Any:
        """All but seed, alpha_BC and weights."""
        return dataclasses.replace(self.config, seed=0, alpha_bc=0.0), self.pretrained.net


def dppo(policy: Path, world_model: Path, out: Path, config: DPPOConfig, practice: Practice) -> None:
    """Fine-tune `policy` on its skill in environments; leaves a `finetune` checkpoint as DiWA's.

    Raises `DiwaError` naming what is of another spec, world model or phase.
    """
    require_run_folder(out)
    world = load_world_model(world_model, compute_device())
    pretrained = load_pretrained(policy, world)
    inputs = {"policy": pretrained.checkpoint.hash, "skill": pretrained.skill, **practice.about}
    with TrainingRun(out, "finetune", config, world.spec, world.hash, inputs) as run:
        if run.finished:
            return
        with practice.open(pretrained.skill, config.envs) as environments:
            train(make_member(run, pretrained, world, config), world, environments, practice.seeds)


def make_member(run: TrainingRun, pretrained: LoadedPolicy, world: LoadedWorldModel, config: DPPOConfig) -> Member:
    """What is trained, with fresh random numbers."""
    device = world.model.device
    return Member(
        run,
        pretrained,
        FinetunedPolicy(pretrained.policy, config.ppo.trained_steps).to(device),
        Critic(world.model.feature_dim, config.ppo.critic_width).to(device),
        Stream(config.seed, device),
        BCWeight(config.alpha_bc).to(device),
        config,
    )


def train(member: Member, world: LoadedWorldModel, environments: VectorEnvironment, seeds: range) -> None:
    """The iterations of one run; leaves its checkpoint."""
    config, draws = member.config, Streams([member.draws])
    tuner = make_finetuner([member], config.ppo, config, draws)
    rollouts = EnvironmentRollouts(world.model, environments, seeds, tuner.policy.trained_steps, config, draws)
    steps = config.envs * config.chunks * tuner.policy.chunk
    (parts,) = iterate([member], config, tuner, rollouts, "environment", steps)
    finish(member, parts, {"environment_steps": steps * member.run.step})
