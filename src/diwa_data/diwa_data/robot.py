"""What the control loop needs of a robot, simulated or real, and DPPO of many simulated ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

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
    gripper_width: float
    """Metres between the fingers."""
    stamp: float
    """Capture time of the static frame, seconds."""
    received: float
    """When that frame arrived, seconds."""
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
    """A robot whose scene can be reset and judged: for evaluation and DPPO, never for DiWA's training."""

    def reset(self, skill: str, seed: int) -> None:
        """Put the skill's furniture in its pre-state and everything else at random; same seed, same start."""

    def succeeded(self) -> bool:
        """The skill's oracle has been true at least once since `reset`."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Control ticks of several robots as the networks see them; `...` is (N,), or (N, H) for H ticks of each."""

    images: dict[str, np.ndarray]
    """Camera name -> rgb images (..., 64, 64, 3) uint8."""
    state: np.ndarray
    """Robot states (..., 10) float32."""
    scene_state: np.ndarray | None
    """(..., M) as named by `spec.scene_state`; None where nothing measures it."""


@dataclass(frozen=True, eq=False)
class Played:
    """What chunks of H actions led to in N environments."""

    frames: Frames
    """(N, H): after each action."""
    executed: np.ndarray
    """(N, H, 7) float32: the actions after all safety limits."""
    success: np.ndarray
    """(N,) bool: the oracle has been true at least once since the reset."""


class VectorEnvironment(Protocol):
    """N environments of one skill that play a chunk at a time, within the robot's safety limits: for DPPO."""

    spec: Spec
    count: int
    """N."""

    def reset(self, rows: np.ndarray, seeds: np.ndarray) -> Frames:
        """Start the environments `rows` (M,) anew from `seeds` (M,); their first frames (M,). Same seed, same start."""

    def play(self, actions: np.ndarray) -> Played:
        """Execute chunks of raw actions (N, H, 7)."""
