"""Between two control ticks: targets at the arm's rate, on the straight way, within the limits at every step."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from diwa_data.motion import LimitedMotion, MotionLimits, clamp_lead, is_finite, limit_motion
from diwa_data.pose import Pose, interpolate, rotation_distance


class Interpolator:
    """Moves the published target to the commanded one within one tick. Not thread-safe.

    A command that is late finds the target standing still at the last one: it holds, and does not jump.
    """

    def __init__(self, limits: MotionLimits, tick: float, rate: float):
        """`tick`: seconds of one control tick; `rate`: steps per second, Hz."""
        self._limits, self._tick, self._dt = limits, tick, 1.0 / rate
        self.target: Pose | None = None
        """Published last; None before `reset`."""

    def reset(self, measured: Pose) -> None:
        """Start from the measured pose."""
        self.target = self._start = self._goal = measured
        self._elapsed = self._tick

    def is_left(self, measured: Pose) -> bool:
        """The arm is farther from the target than the lead limits: something else has moved it."""
        assert self.target is not None
        return is_finite(measured) and clamp_lead(self.target, measured, self._limits).intervened

    def command(self, goal: Pose) -> None:
        """Be at `goal` one tick from now."""
        assert self.target is not None
        self._start, self._goal, self._elapsed = self.target, goal, 0.0

    def step(self, measured: Pose, hold: bool = False) -> LimitedMotion:
        """The target one step of 1 / `rate` later; with `hold` it stays where it is, and time stands still."""
        assert self.target is not None
        if hold:
            return LimitedMotion(self.target, ())
        self._elapsed = min(self._tick, self._elapsed + self._dt)
        wanted = interpolate(self._start, self._goal, self._elapsed / self._tick)
        motion = limit_motion(self.target, wanted, measured, self._dt, self._limits)
        self.target = motion.pose
        return motion


def way(start: Pose, goal: Pose, speed: float, rotation_speed: float, tick: float) -> Iterator[Pose]:
    """Commands of one tick each, straight from `start` to `goal`, at most `speed` m/s and `rotation_speed` rad/s."""
    metres = float(np.linalg.norm(goal.position - start.position))
    seconds = max(metres / speed, rotation_distance(start.rotation, goal.rotation) / rotation_speed)
    ticks = max(1, math.ceil(seconds / tick))
    for number in range(1, ticks + 1):
        yield interpolate(start, goal, number / ticks)
