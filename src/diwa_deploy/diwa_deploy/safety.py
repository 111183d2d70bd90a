"""The last thing between a policy's action and the arm: ROBOT's limits, in its order, each named when it intervenes.

finite -> per-step clamp -> workspace box (and tilt) -> speed and rotation rate -> lead clamp. The slerp to the
target in between two ticks is the robot's low-level control.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diwa_data.motion import MotionLimits, is_finite, limit_motion
from diwa_data.pose import Pose, integrate, relative_action
from diwa_data.spec import Spec

STEP_TOLERANCE = 1e-6
"""How far beyond [-1, 1] an action may be without counting as an intervention."""


@dataclass(frozen=True)
class SafeCommand:
    """What may be commanded."""

    target: Pose
    """Absolute hand pose for the next tick."""
    gripper: float
    """+1 opens, -1 closes."""
    executed: np.ndarray
    """(7,) float32: the action that this command amounts to, from the previous target."""
    interventions: tuple[str, ...]
    """Limits that changed the action: finite, step, workspace, tilt, speed, lead."""


class SafetyFilter:
    """Integrates actions on the last commanded target and limits the result (`limit_motion`)."""

    def __init__(self, limits: MotionLimits, spec: Spec):
        self._limits, self._spec = limits, spec
        self._target: Pose | None = None
        self._gripper = spec.action.gripper_open

    def reset(self, measured: Pose, gripper: float | None = None) -> np.ndarray:
        """Start from the `measured` pose; the null action (7,), which stands before the first observation.

        `gripper` is the last command to it, open if None.
        """
        if not is_finite(measured):
            raise ValueError(f"the measured pose {measured} is not finite")
        self._target = measured
        self._gripper = self._spec.action.gripper_open if gripper is None else gripper
        return self._spec.action.null

    def step(self, action: np.ndarray, measured: Pose) -> SafeCommand:
        """Limit one raw action (7,); one that is not finite, or an unknown measured pose, holds the last target."""
        if self._target is None:
            raise RuntimeError("reset the safety filter before its first step")
        previous = self._target
        if not is_finite(measured):
            return self._command(previous, ("finite",))
        interventions: tuple[str, ...] = ()
        target = previous
        if not np.isfinite(action).all():
            interventions = ("finite",)
        else:
            clamped = self._spec.action.executed(np.asarray(action, float))
            if np.abs(action[:6]).max() > 1 + STEP_TOLERANCE:
                interventions = ("step",)
            self._gripper = float(clamped[6])
            target = integrate(previous, clamped, self._spec.action)
        motion = limit_motion(previous, target, measured, self._spec.tick, self._limits)
        return self._command(motion.pose, interventions + motion.interventions)

    def _command(self, target: Pose, interventions: tuple[str, ...]) -> SafeCommand:
        executed = relative_action(self._target or target, target, self._gripper, self._spec.action)
        self._target = target
        return SafeCommand(target, self._gripper, executed, interventions)
