"""Which measured poses are believed: a wrong sample, a wrong unit or a wrong frame must not move the arm."""

from __future__ import annotations

import math

import numpy as np

from diwa_data.motion import MotionLimits, is_finite
from diwa_data.pose import Pose, rotation_distance
from diwa_data.robot_config import PlausibleConfig


class BelievedPose:
    """The measured pose, as long as it is plausible; all times are monotonic, seconds."""

    def __init__(self, limits: MotionLimits, config: PlausibleConfig | None = None):
        self._config = config or PlausibleConfig()
        self.bound(limits)
        self._last: tuple[Pose, float] | None = None
        self._agreeing = 0
        self.pose: Pose | None = None
        """The last sample, if it is believed."""
        self.problem = "no measured pose yet"
        """Why it is not; empty if it is."""
        self.heard = -math.inf
        """When the last believed sample came."""

    def bound(self, limits: MotionLimits) -> None:
        """Take the workspace of other limits."""
        self._low, self._high = np.array(limits.workspace_low), np.array(limits.workspace_high)

    def hear(self, pose: Pose, now: float) -> None:
        """One sample, received at `now`."""
        problem = self._alone(pose)
        if problem:
            self._last, self._agreeing = None, 0
        else:
            jump = self._jump(pose, now)
            self._last, self._agreeing = (pose, now), 1 if jump else self._agreeing + 1
            problem = jump if self.pose is not None else ""
        if problem:
            self.pose, self.problem = None, problem
        elif self._agreeing >= self._config.samples:
            self.pose, self.problem, self.heard = pose, "", now

    def _alone(self, pose: Pose) -> str:
        """What is wrong with a sample by itself."""
        if not is_finite(pose):
            return f"the measured pose {pose.position}, {pose.quaternion} is not finite"
        far = max(float((self._low - pose.position).max()), float((pose.position - self._high).max()))
        if far > self._config.margin:
            place = ", ".join(f"{x:.4g}" for x in pose.position)
            return f"the measured position ({place}) is {far:.3g} m outside of the workspace: is it in metres?"
        return ""

    def _jump(self, pose: Pose, now: float) -> str:
        """What is wrong with a sample after the last one."""
        if self._last is None:
            return "no measured pose before"
        before, then = self._last
        gap = now - then
        if not 0 <= gap <= self._config.max_gap:
            return f"no measured pose for {gap:.2f} s"
        metres = float(np.linalg.norm(pose.position - before.position))
        turned = rotation_distance(before.rotation, pose.rotation)
        if metres > self._config.jitter_pos + gap * self._config.max_speed:
            return f"the measured position jumped by {metres:.3f} m in {gap:.3f} s"
        if turned > self._config.jitter_rot + gap * self._config.max_rotation_speed:
            return f"the measured rotation jumped by {turned:.2f} rad in {gap:.3f} s"
        return ""
