"""The last look at a target, where the arm is commanded: whoever published it, and whatever it went through."""

from __future__ import annotations

import math

import numpy as np

from diwa_data.motion import MotionLimits, lead, outside
from diwa_data.pose import Pose, rotation_distance

LATE = 0.1
"""Seconds of motion at full speed that a target may be ahead of its time: messages come late, and then together."""
PAUSE = 0.5
"""Seconds without a target that was followed, after which the next need not be near the last, but near the arm."""


class TargetGate:
    """Lets targets through that are within the limits and near the last one, or near the arm after a pause."""

    def __init__(self, limits: MotionLimits):
        self._limits = limits
        self._last: tuple[Pose, float] | None = None
        self._spare = 0.0  # seconds of motion at full speed that the last target left

    def close(self) -> None:
        """The next target must be near the arm: after a recovery."""
        self._last = None

    def refusal(self, target: Pose, measured: Pose, now: float) -> str:
        """Why `target`, received at `now` (monotonic seconds), may not be followed; empty if it may."""
        if problem := outside(target, self._limits):
            return problem
        if self._last is None or not 0.0 <= now - self._last[1] <= PAUSE:
            spare = LATE if lead(target, measured, self._limits) <= 1.0 else -1.0
        else:
            before, then = self._last
            spare = min(self._spare + now - then, 2 * LATE) - self._seconds(before, target)
        if spare >= 0.0:
            self._last, self._spare = (target, now), spare
            return ""
        metres = float(np.linalg.norm(target.position - measured.position))
        turned = rotation_distance(measured.rotation, target.rotation)
        return f"the target jumped: it is {metres:.3f} m and {turned:.2f} rad from the hand"

    def _seconds(self, start: Pose, end: Pose) -> float:
        """What the way takes at full speed."""
        metres, turned = math.dist(start.position, end.position), rotation_distance(start.rotation, end.rotation)
        return max(metres / self._limits.max_speed, turned / self._limits.max_rotation_speed)
