"""The last look at a target, where the arm is commanded: whoever published it, and whatever it went through."""

from __future__ import annotations

import math

import numpy as np

from diwa_data.motion import MotionLimits, lead, outside
from diwa_data.pose import Pose, rotation_distance

LATE = 0.1
"""Seconds of motion at full speed that a target may be ahead of the last: messages come late, and then together."""


class TargetGate:
    """Lets targets through that are within the limits and near the last one, or near the arm after a pause."""

    def __init__(self, limits: MotionLimits):
        self._limits = limits
        self._last: tuple[Pose, float] | None = None

    def close(self) -> None:
        """The next target must be near the arm: after a recovery, or a reflex."""
        self._last = None

    def refusal(self, target: Pose, measured: Pose, now: float) -> str:
        """Why `target`, received at `now` (monotonic seconds), may not be followed; empty if it may."""
        if problem := outside(target, self._limits):
            return problem
        if self._follows(target, now) or lead(target, measured, self._limits) <= 1.0:
            self._last = target, now
            return ""
        self._last = None
        metres = float(np.linalg.norm(target.position - measured.position))
        turned = rotation_distance(measured.rotation, target.rotation)
        return f"the target jumped: it is {metres:.3f} m and {turned:.2f} rad from the hand"

    def _follows(self, target: Pose, now: float) -> bool:
        """It is as near to the last one as the speed limits let it be, and that is not long ago."""
        if self._last is None:
            return False
        before, then = self._last
        if not 0.0 <= now - then <= 5 * LATE:
            return False
        seconds = min(now - then, LATE) + LATE
        metres = math.dist(target.position, before.position)
        turned = rotation_distance(before.rotation, target.rotation)
        return metres <= self._limits.max_speed * seconds and turned <= self._limits.max_rotation_speed * seconds
