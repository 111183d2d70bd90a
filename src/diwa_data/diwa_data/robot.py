"""Interfaces of robots: one, simulated or real, for the control loop, and many simulated ones for DPPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from diwa_data.pose import Pose
from diwa_data.spec import Spec


@dataclass(frozen=True)
class Observation:
    """Everything known at one control tick."""

    images: dict[str, np.ndarray]
    """Camera name -> rgb8 image (H, W, 3) uint8 at the camera's `record_size`."""
    pose: Pose
    """Measured hand pose in the base frame."""
    target: Pose
    """Hand pose published last, in the base frame: what actions are read from."""
    gripper_width: float | None
    """Metres between the fingers; None on a robot without a gripper."""
    stamp: float
    """Capture time of the first camera's frame, seconds."""
    received: float
    """Time at which that frame arrived, seconds."""
    scene_state: np.ndarray | None = None
    """(N,) as named by `spec.scene_state`; None where nothing measures it, as on every real robot."""


class Robot(Protocol):
    """An arm with cameras, driven by absolute commands at `spec.rate`."""

    spec: Spec

    def observe(self) -> Observation:
        """The current tick's observation; a real robot blocks until the tick is due."""

    def command(self, goal: Pose, gripper: float) -> None:
        """Have the published target follow the goal to `goal`, by the next tick (gripper +1 opens, -1 closes).

        A simulated robot advances its time by one tick here.
        """


class Environment(Robot, Protocol):
    """A robot whose scene can be reset and checked: for evaluation and DPPO, never for DiWA's training."""

    def reset(self, skill: str, seed: int) -> None:
        """Put the skill's furniture in its pre-state and everything else at random; same seed, same start."""

    @property
    def judged(self) -> bool:
        """The skill of the last `reset` has an oracle here."""

    def succeeded(self) -> bool:
        """The skill's oracle has been true at least once since `reset`. Raises `DiwaError` where nothing is judged."""


class VectorEnvironment(Protocol):
    """N environments of one skill within the robot's safety limits: what DPPO uses of `gymnasium.vector.VectorEnv`.

    Observations are those of `diwa/Table-v0`, with a first axis N. None starts anew by itself.
    """

    num_envs: int
    """N."""

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each; `contract` is its `Spec`."""

    def reset(self, *, seed: list[int | None], options: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start those in `options["reset_mask"]` (N,) bool afresh; same seed, same start."""

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One tick of raw actions (N, A); `terminated` (N,) says which have succeeded since they started."""
