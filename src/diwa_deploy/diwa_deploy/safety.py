"""Between a policy's action and the goal that the arm is told: step, box and tilt, each named when it intervenes.

Speed, acceleration, jerk and lead are kept by what follows the goal (`diwa_data.interpolator`). What was executed is
read from the published target afterwards, by the dataset's own rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from diwa_data.motion import MotionLimits, is_finite, lead, limit_goal
from diwa_data.pose import Pose, integrate, interpolate, relative_action
from diwa_data.spec import Spec


@dataclass(frozen=True)
class WatchdogConfig:
    """Ages of frames, pose and inference, seconds."""

    warn: float = 0.1
    """Counted and told."""
    hold: float = 0.2
    """The target stands still until it is younger again."""
    abort: float = 1.0
    """The skill ends, and the node must be armed anew."""


@dataclass(frozen=True)
class Verdict:
    """What follows from the ages."""

    level: str
    """ok, warn, hold or abort."""
    reason: str
    """What is too old, and how old; empty if nothing is."""


def judge(ages: Mapping[str, float], config: WatchdogConfig) -> Verdict:
    """The verdict on the oldest of `ages` (name -> seconds). NaN counts as infinitely old."""
    name, age = max(ages.items(), key=lambda item: _or_infinite(item[1]), default=("", 0.0))
    age = _or_infinite(age)
    for level in ("abort", "hold", "warn"):
        if age > getattr(config, level):
            return Verdict(level, f"{name} is {age:.2f} s old")
    return Verdict("ok", "")


def _or_infinite(age: float) -> float:
    return age if age == age else float("inf")


STEP_TOLERANCE = 1e-6
"""How far beyond [-1, 1] an action may be without counting as an intervention."""


@dataclass(frozen=True)
class SafeCommand:
    """What the arm is told."""

    goal: Pose
    """Absolute hand pose to be at one tick from now."""
    gripper: float
    """+1 opens, -1 closes."""
    action: np.ndarray
    """(7,) float32: the action from the last goal to this one."""
    interventions: tuple[str, ...]
    """Limits that changed the action: finite, step, workspace, tilt, windup."""


class SafetyFilter:
    """Integrates actions on the goal, limits it, and reads executed actions from the published target."""

    def __init__(self, limits: MotionLimits, spec: Spec):
        self._limits, self._spec = limits, spec
        self._goal: Pose | None = None

    def reset(self, target: Pose, gripper: float | None = None) -> np.ndarray:
        """Start from the published `target`; the null action (7,), which stands before the first observation.

        `gripper` is the last command to it, open if None.
        """
        if not is_finite(target):
            raise ValueError(f"the target {target} is not finite")
        self._goal = self._reached = target
        self._gripper = self._spec.action.gripper_open if gripper is None else gripper
        return self._spec.action.null

    def executed(self, target: Pose) -> np.ndarray:
        """(7,) float32: the action that led from the last published target asked about to this one.

        What does not fit into one action is carried over to the next, as in datasets.
        """
        action = relative_action(self._reached, target, self._gripper, self._spec.action)
        self._reached = integrate(self._reached, action, self._spec.action)
        return action

    def step(self, action: np.ndarray, target: Pose) -> SafeCommand:
        """The goal after one raw action (7,); one that is not finite holds the published `target`.

        The goal begins at most one lead ahead of `target`: a blocked arm does not wind it up.
        """
        if self._goal is None:
            raise RuntimeError("reset the safety filter before its first step")
        action = np.asarray(action, float)
        if not np.isfinite(action).all():
            return self._command(target, target, ("finite",))
        interventions: tuple[str, ...] = ()
        clamped = self._spec.action.executed(action)
        if np.abs(action[:6]).max() > 1 + STEP_TOLERANCE:
            interventions = ("step",)
        self._gripper = float(clamped[6])
        start, wound_up = self._near(target)
        limited = limit_goal(integrate(start, clamped, self._spec.action), self._limits)
        return self._command(start, limited.pose, interventions + wound_up + limited.interventions)

    def _near(self, target: Pose) -> tuple[Pose, tuple[str, ...]]:
        """The goal, drawn back to within one lead of the published target."""
        assert self._goal is not None
        ahead = lead(self._goal, target, self._limits)
        if ahead <= 1.0 + STEP_TOLERANCE:
            return self._goal, ()
        return interpolate(target, self._goal, 1.0 / ahead), ("windup",)

    def _command(self, start: Pose, goal: Pose, interventions: tuple[str, ...]) -> SafeCommand:
        self._goal = goal
        action = relative_action(start, goal, self._gripper, self._spec.action)
        return SafeCommand(goal, self._gripper, action, interventions)
