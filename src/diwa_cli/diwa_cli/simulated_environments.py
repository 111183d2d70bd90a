"""Simulated Pandas that play chunks of actions within the safety limits: one process's share of DPPO's experience."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diwa_data.images import Frame, preprocess_observation
from diwa_data.motion import MotionLimits
from diwa_data.pose import Pose
from diwa_data.robot import Environment, Frames, Played
from diwa_deploy.safety import SafetyFilter
from diwa_sim.calvin import CalvinConfig
from diwa_sim.environments import open_environment
from diwa_sim.table import SimConfig


@dataclass(frozen=True)
class Task:
    """What all environments do."""

    skill: str
    limits: MotionLimits
    sim: SimConfig | CalvinConfig


class LimitedEnvironment:
    """One environment behind the safety filter, as the control loop runs it; cameras render at control ticks only."""

    def __init__(self, environment: Environment, task: Task):
        self._environment, self._skill = environment, task.skill
        self._safety = SafetyFilter(task.limits, environment.spec)
        self._target: Pose

    def reset(self, seed: int) -> Frame:
        """Start anew; the first frame."""
        self._environment.reset(self._skill, seed)
        frame = self._observe()
        self._safety.reset(self._target)
        return frame

    def play(self, chunk: np.ndarray) -> tuple[Frames, np.ndarray]:
        """Frames (H,) after each raw action of a chunk (H, 7), and the actions as executed (H, 7)."""
        frames, executed = [], []
        for action in chunk:
            command = self._safety.step(action, self._target)
            self._environment.command(command.goal, command.gripper)
            frames.append(self._observe())
            executed.append(self._safety.executed(self._target))
        return gather(frames, np.stack), np.stack(executed)

    def succeeded(self) -> bool:
        """The oracle has been true since the reset."""
        return self._environment.succeeded()

    def _observe(self) -> Frame:
        observation = self._environment.observe()
        self._target = observation.target
        return preprocess_observation(observation, self._environment.spec)


class SimulatedEnvironments:
    """`VectorEnvironment` of N simulated Pandas in this process, one after the other."""

    def __init__(self, task: Task, count: int):
        self._environments = [open_environment(task.sim, task.limits) for _ in range(count)]
        self._limited = [LimitedEnvironment(environment, task) for environment in self._environments]
        self.spec, self.count = self._environments[0].spec, count

    def reset(self, rows: np.ndarray, seeds: np.ndarray) -> Frames:
        """Start the environments `rows` (M,) anew; their first frames (M,)."""
        return gather([self._limited[row].reset(int(seed)) for row, seed in zip(rows, seeds, strict=True)], np.stack)

    def play(self, actions: np.ndarray) -> Played:
        """Execute chunks of raw actions (N, H, 7)."""
        played = [one.play(chunk) for one, chunk in zip(self._limited, actions, strict=True)]
        return Played(
            gather([frames for frames, _ in played], np.stack),
            np.stack([executed for _, executed in played]),
            np.array([one.succeeded() for one in self._limited]),
        )

    def close(self) -> None:
        """Free the simulators."""
        for environment in self._environments:
            environment.close()


def gather(parts: Sequence[Frame | Frames], how: Callable[[list[np.ndarray]], np.ndarray]) -> Frames:
    """Frames as one, by `np.stack` or `np.concatenate`."""
    scenes = [part.scene_state for part in parts if part.scene_state is not None]
    return Frames(
        {name: how([part.images[name] for part in parts]) for name in parts[0].images},
        how([part.state for part in parts]),
        how(scenes) if scenes else None,
    )
