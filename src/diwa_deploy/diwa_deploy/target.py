"""The published target: from arming to disarming, and once more where an arm receives it."""

from __future__ import annotations

import math

import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.interpolator import Interpolator
from diwa_data.limits import MotionLimits
from diwa_data.motion import BelievedPose, Limited, PlausibleConfig, lead, outside
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
        """Duration of the way at full speed, seconds."""
        metres, turned = math.dist(start.position, end.position), rotation_distance(start.rotation, end.rotation)
        return max(metres / self._limits.max_speed, turned / self._limits.max_rotation_speed)


class ArmedTarget:
    """The published target of one arm. Not thread-safe; all times are monotonic, seconds.

    It begins at the measured pose, which must be believed and within the limits, and moves by steps of the
    interpolator only. A measured pose that is not believed any more, or that stays ahead or behind by more than the
    lead's limit, brakes the target and disarms it.
    """

    def __init__(self, limits: MotionLimits, rate: float, plausible: PlausibleConfig | None = None):
        """`rate`: steps per second, Hz; `plausible`: which measured poses are believed."""
        self._limits, self._rate, self._interpolator = limits, rate, Interpolator(limits, rate)
        self.measured = BelievedPose(limits, plausible)
        """The measured pose and whether it is believed."""
        self.armed = False
        """A target is published."""
        self.fault = ""
        """Why it disarmed by itself, or is about to; empty otherwise."""

    @property
    def target(self) -> Pose | None:
        """Published last; None before the first arming."""
        return self._interpolator.target

    @property
    def at_rest(self) -> bool:
        """Nothing moves: it is not armed, or the target stands still."""
        return not self.armed or self._interpolator.at_rest

    def limit(self, limits: MotionLimits) -> None:
        """Take other limits, while it is not armed."""
        self._limits, self._interpolator = limits, Interpolator(limits, self._rate)
        self.measured.limits = limits

    def update(self, pose: Pose, now: float) -> None:
        """A measured pose. One that is not plausible, while armed, is a fault."""
        self.measured.update(pose, now)
        if self.armed and self.measured.problem:
            self.fail(self.measured.problem)

    def problem(self) -> str:
        """Why it cannot be armed, or cannot go on; empty if it can."""
        if self.armed:
            return f"the target still brakes: {self.fault}" if self.fault else ""
        if self.measured.pose is None:
            return self.measured.problem or "no measured pose yet"
        return outside(self.measured.pose, self._limits)

    def arm(self) -> None:
        """Rest at the measured pose; go on if it is armed. Raises `DiwaError` where there is a `problem`."""
        if problem := self.problem():
            raise DiwaError(problem)
        if self.armed:
            return
        assert self.measured.pose is not None
        self._interpolator.reset(self.measured.pose)
        self.armed, self.fault = True, ""

    def disarm(self) -> None:
        """Publish nothing more. What moves should `hold` first."""
        self.armed = False

    def fail(self, reason: str) -> None:
        """Brake, and disarm once the target rests."""
        self.fault = self.fault or reason
        self._interpolator.hold()

    def command(self, goal: Pose, seconds: float) -> None:
        """Be at `goal` in `seconds`; nothing moves without being armed, or after a fault."""
        if self.armed and not self.fault:
            self._interpolator.command(goal, seconds)

    def hold(self) -> None:
        """Brake and rest."""
        self._interpolator.hold()

    def step(self) -> Limited | None:
        """The target 1 / rate seconds later, and what limited it; None if nothing is published."""
        if not self.armed:
            return None
        if self.fault and self._interpolator.at_rest:
            self.armed = False
            return None
        motion = self._interpolator.step(None if self.fault else self.measured.pose)
        if self._interpolator.is_left:
            self.fail("the arm is elsewhere than its target: something else moves it, or it does not obey")
        return motion
