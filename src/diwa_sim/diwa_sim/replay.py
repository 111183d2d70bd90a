"""Replay a dataset's actions open loop: the proof that scale, frame, sign and timing are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diwa_data.config import from_mapping
from diwa_data.dataset.dataset import load_dataset
from diwa_data.errors import DiwaError
from diwa_data.pose import integrate
from diwa_data.progress import progress
from diwa_sim.table import ROBOT, SimConfig, SimulatedPanda, shared_robot
from diwa_sim.tasks import require_task


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

    Raises `DiwaError` if the dataset holds no demonstration of the simulated robot, or of what is no task of it.
    """
    loaded = load_dataset(dataset, images=False)
    shown = [e for e in loaded.episodes if e.attributes["source"] == "demonstration" and e.outcome != "fail"]
    demonstrations = [episode for episode in shown if not episode.attributes["segment"]]
    if loaded.spec.robot != ROBOT or not demonstrations:
        raise DiwaError(f"{dataset} holds no demonstration of {ROBOT}: record one with 'diwa record --skill ...'")
    results: list[ReplayResult] = []
    with progress("replay", len(demonstrations), "episodes") as bar:
        for episode in demonstrations:
            labels = episode.attributes["labels"]
            config = from_mapping(SimConfig, labels["sim"], f"{dataset}: episode {episode.name}: labels.sim")
            robot = shared_robot(config)
            robot.reset(require_task(labels["skill"]), labels["seed"])
            succeeded = run_open_loop(robot, episode.action[:-1])  # the last row only holds
            results.append(ReplayResult(episode.name, labels["skill"], labels["seed"], succeeded))
            bar.advance()
    return results


def run_open_loop(robot: SimulatedPanda, actions: np.ndarray) -> bool:
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
