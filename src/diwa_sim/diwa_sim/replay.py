"""Replay a dataset's actions open loop: the proof that scale, frame, sign and timing are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.config import from_mapping
from diwa_data.dataset.dataset import load_dataset
from diwa_data.errors import DiwaError
from diwa_data.pose import integrate
from diwa_data.progress import progress
from diwa_sim.calvin.config import CalvinConfig
from diwa_sim.environments import Simulated, require_task, shared_robot
from diwa_sim.table import ROBOT, SimConfig

SIMULATORS: dict[str, Any] = {"sim": SimConfig, "calvin": CalvinConfig}
"""Label that a simulator's episodes carry -> the configuration in it."""


@dataclass(frozen=True)
class ReplayResult:
    """One demonstration, run again."""

    episode: str
    """Its name in the dataset."""
    skill: str
    seed: int
    """Seed of the start state."""
    succeeded: bool
    """The skill's oracle became true."""


def replay(dataset: Path) -> list[ReplayResult]:
    """Run every demonstration's actions from its own start. Play and failed attempts are left out.

    Raises `DiwaError` if the dataset holds no demonstration of the simulated robot, or of what is not a task of it.
    """
    loaded = load_dataset(dataset, images=False)
    shown = [e for e in loaded.episodes if e.attributes["source"] == "demonstration" and e.outcome != "fail"]
    demonstrations = [e for e in shown if not e.attributes["segment"] and e.attributes["labels"].keys() & SIMULATORS]
    if not demonstrations:
        raise DiwaError(f"{dataset} holds no demonstration of {ROBOT}: record one with 'diwa record --skill ...'")
    results: list[ReplayResult] = []
    with progress("replay", len(demonstrations), "episodes") as bar:
        for episode in demonstrations:
            labels = episode.attributes["labels"]
            name = next(name for name in SIMULATORS if name in labels)
            where = f"{dataset}: episode {episode.name}: labels.{name}"
            config: SimConfig | CalvinConfig = from_mapping(SIMULATORS[name], labels[name], where)
            robot = shared_robot(config, loaded.spec.limits)
            robot.reset(require_task(labels["skill"], config), labels["seed"])
            succeeded = run_open_loop(robot, episode.action[:-1])  # the last row only holds
            results.append(ReplayResult(episode.name, labels["skill"], labels["seed"], succeeded))
            bar.advance()
    return results


def run_open_loop(robot: Simulated, actions: np.ndarray) -> bool:
    """Execute `actions` (T, A) one tick each, integrated on the goal; whether the skill succeeded."""
    goal = robot.target_pose
    for action in actions:
        goal = integrate(goal, action, robot.spec.action)
        robot.command(goal, robot.spec.action.gripper_command(action))
    return robot.succeeded()


def success_shares(results: Sequence[ReplayResult]) -> dict[str, float]:
    """Skill -> share of its demonstrations that succeeded again."""
    skills = sorted({result.skill for result in results})
    return {skill: float(np.mean([r.succeeded for r in results if r.skill == skill])) for skill in skills}
