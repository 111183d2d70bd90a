"""Limits on the motion of the hand, and the goals that keep to them.

A policy or an operator moves the *goal*; what is published follows it and keeps speed, acceleration, jerk and lead
(`diwa_data.interpolator`). What was executed is read from the published target afterwards, as in datasets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits, limited_goal, near
from diwa_data.pose import (
    ExecutedActions,
    Pose,
    integrate,
    relative_action,
    rotation_distance,
    tilt_and_yaw,
)
from diwa_data.spec import Spec

LARGEST_TILT = 2.0
"""Radians: the direction of a tilt is lost upside down, and near it a small change turns the hand far."""
_TOLERANCE = 1e-9


class Limited(NamedTuple):
    """A pose after limits, and the names of those that changed it."""

    pose: Pose
    interventions: tuple[str, ...]


def is_finite(pose: Pose) -> bool:
    """No NaN or infinity in the pose."""
    return all(map(math.isfinite, (*pose.position.tolist(), *pose.quaternion.tolist())))


def limit_goal(goal: Pose, limits: MotionLimits) -> Limited:
    """The nearest pose inside the box whose approach axis is at most `max_tilt` away from straight down."""
    x, y, _, _ = goal.quaternion.tolist()
    tilt = math.acos(max(-1.0, min(1.0, 2 * (x * x + y * y) - 1)))
    beyond = {"workspace": metres_outside(goal.position, limits) > 0, "tilt": tilt > limits.max_tilt + _TOLERANCE}
    if not any(beyond.values()):  # nearly always, and asked for at every step of the interpolator
        return Limited(goal, ())
    position, rotation = limited_goal(np, goal.position, goal.rotation.as_matrix(), limits)
    quaternion = Rotation.from_matrix(rotation).as_quat() if beyond["tilt"] else goal.quaternion
    return Limited(Pose.from_unit(position, quaternion), tuple(name for name in beyond if beyond[name]))


def outside(pose: Pose, limits: MotionLimits) -> str:
    """The reason why the target may not begin at `pose`; empty if it is within box and tilt."""
    if not is_finite(pose):
        return f"the pose {pose.position}, {pose.quaternion} is not finite"
    far = metres_outside(pose.position, limits)
    if far > _TOLERANCE:
        place, box = ", ".join(f"{x:.3f}" for x in pose.position), f"{limits.workspace_low} to {limits.workspace_high}"
        return f"the hand at ({place}) m is {max(far, 0.001):.3f} m outside of the workspace {box}"
    tilt = math.hypot(*tilt_and_yaw(pose.quaternion.tolist())[:2])
    if tilt > limits.max_tilt + _TOLERANCE:
        return f"the hand is tilted by {tilt:.2f} rad, {limits.max_tilt:g} is the limit"
    return ""


def metres_outside(positions: np.ndarray, limits: MotionLimits) -> float:
    """Metres by which the farthest of `positions` (..., 3) is outside of the workspace; negative inside."""
    low, high = np.array(limits.workspace_low), np.array(limits.workspace_high)
    return float(np.maximum(low - positions, positions - high).max())


def lead(target: Pose, measured: Pose, limits: MotionLimits) -> float:
    """How far `target` is ahead of `measured`, in units of the limits: the larger of position and rotation."""
    return lead_of(target.position, target.quaternion.tolist(), measured, limits)


def lead_of(position: np.ndarray, quaternion: Sequence[float], measured: Pose, limits: MotionLimits) -> float:
    """As `lead`, of a position (3,) and a unit quaternion x y z w."""
    metres = math.dist(position, measured.position)
    cos = abs(sum(a * b for a, b in zip(quaternion, measured.quaternion.tolist(), strict=True)))
    return max(metres / limits.max_lead_pos, 2 * math.acos(min(1.0, cos)) / limits.max_lead_rot)


def use_of_limits(targets: Sequence[Pose], limits: MotionLimits, rate: float) -> dict[str, float]:
    """How much of each limit targets published at `rate` Hz use, at most: 1 is all of it, more is a violation.

    Changes are taken between neighbours, from rest before the first. `workspace` is 1 and the metres outside.
    """
    positions = np.array([targets[0].position] * 3 + [target.position for target in targets])
    rotations = Rotation.concatenate([targets[0].rotation] * 3 + [target.rotation for target in targets])
    velocities = [np.diff(positions, axis=0) * rate, (rotations[1:] * rotations[:-1].inv()).as_rotvec() * rate]
    used = {}
    for prefix, values in zip(("max_", "max_rotation_"), velocities, strict=True):
        for name in ("speed", "acceleration", "jerk"):
            used[prefix + name] = float(np.linalg.norm(values, axis=1).max()) / getattr(limits, prefix + name)
            values = np.diff(values, axis=0) * rate
    used["workspace"] = 1.0 + max(0.0, metres_outside(positions, limits))
    tilts = np.arccos(np.clip(-rotations.as_matrix()[:, 2, 2], -1.0, 1.0))
    used["max_tilt"] = float(tilts.max()) / limits.max_tilt
    return used


def turning_stretch(tilt: float) -> float:
    """How much faster than each of its coordinates the hand may turn at this tilt, rad.

    The angular velocity of exp(t) Rz(yaw) has the squared norm b^2 + c a^2 + y^2 - 2 k a y, with a and b the change of
    t across and along itself, y that of yaw, c = 2 (1 - cos t) / t^2 and k = (1 - cos t) / t; this is its largest value
    where |a, b| <= sqrt 2 and |y| <= 1.
    """
    if tilt < 1e-4:
        return math.sqrt(3.0)
    k = (1 - math.cos(tilt)) / tilt
    return math.sqrt(4 * k / tilt + 1 + 2 * math.sqrt(2) * k)


def limits_of_each_coordinate(limits: MotionLimits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Speed, acceleration and jerk (6,) of single coordinates that keep the norms within the limits.

    A turning frame adds to the changes of tilt and yaw; what it adds at full speed is taken off first.
    """
    if limits.max_tilt > LARGEST_TILT:
        raise DiwaError(
            f"limits.max_tilt {limits.max_tilt:g} rad is too large: at most {LARGEST_TILT}, short of upside down"
        )
    stretch, speed = turning_stretch(limits.max_tilt), limits.max_rotation_speed
    acceleration = (limits.max_rotation_acceleration - 0.9 * speed**2) / stretch
    jerk = (limits.max_rotation_jerk - 3.0 * speed * limits.max_rotation_acceleration - 2.0 * speed**3) / stretch
    if acceleration <= 0 or jerk <= 0:
        raise DiwaError(
            f"limits.max_rotation_acceleration {limits.max_rotation_acceleration:g} and max_rotation_jerk "
            f"{limits.max_rotation_jerk:g} are too small for max_rotation_speed {speed:g}: lower the speed"
        )
    hand = np.array([limits.max_speed, limits.max_acceleration, limits.max_jerk]) / math.sqrt(3)
    turn = np.array([speed / stretch, acceleration, jerk])
    each = np.repeat([hand, turn], 3, axis=0)  # (6, 3)
    return each[:, 0].copy(), each[:, 1].copy(), each[:, 2].copy()


@dataclass(frozen=True)
class PlausibleConfig:
    """Conditions under which a measured pose is believed. The speeds are the Panda's own limits."""

    samples: int = 3
    """Poses in a row that must agree before any is believed, at the beginning and after an implausible one."""
    max_speed: float = 1.7
    """Greatest speed between two samples, in metres per second."""
    max_rotation_speed: float = 2.5
    """Greatest rotation speed between two samples, in radians per second."""
    jitter_pos: float = 0.02
    """Metres by which two samples may differ beyond that, whatever their times."""
    jitter_rot: float = 0.1
    """Radians by which two samples may differ beyond that, whatever their times."""
    margin: float = 0.2
    """Metres outside the workspace up to which a measured position is believed."""
    max_gap: float = 1.0
    """Seconds between two samples beyond which they are not compared; the watchdog has then ended the skill."""


class BelievedPose:
    """The measured pose, as long as it is plausible: a wrong sample, unit or frame must not move the arm.

    All times are monotonic, seconds.
    """

    def __init__(self, limits: MotionLimits, config: PlausibleConfig | None = None):
        self._config = config or PlausibleConfig()
        self.limits = limits
        """The workspace that the hand must be near."""
        self._last: tuple[Pose, float] | None = None
        self._agreeing = 0
        self.pose: Pose | None = None
        """The last sample, if it is believed."""
        self.problem = "no measured pose yet"
        """Reason why it is not believed; empty if it is."""
        self.received = -math.inf
        """Time at which the last believed sample came."""

    def update(self, pose: Pose, now: float) -> None:
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
            self.pose, self.problem, self.received = pose, "", now

    def _alone(self, pose: Pose) -> str:
        """The fault of a sample by itself."""
        if not is_finite(pose):
            return f"the measured pose {pose.position}, {pose.quaternion} is not finite"
        far = metres_outside(pose.position, self.limits)
        if far > self._config.margin:
            place = ", ".join(f"{x:.4g}" for x in pose.position)
            return f"the measured position ({place}) is {far:.3g} m outside of the workspace: is it in metres?"
        return ""

    def _jump(self, pose: Pose, now: float) -> str:
        """The fault of a sample that follows the last one."""
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


STEP_TOLERANCE = 1e-6
"""How far beyond [-1, 1] an action may be without counting as an intervention."""


@dataclass(frozen=True)
class SafeCommand:
    """The command to the arm."""

    goal: Pose
    """Absolute hand pose to be at one tick from now."""
    gripper: float
    """+1 opens, -1 closes."""
    action: np.ndarray
    """(A,) float32: the action from the last goal to this one."""
    interventions: tuple[str, ...]
    """Limits that changed the action: finite, step, workspace, tilt, windup."""


class SafetyFilter:
    """Stands between a policy's action and the goal that the arm is told: step, box and tilt are limited.

    Each limit that intervenes is named. Executed actions are read from the published target.
    """

    def __init__(self, limits: MotionLimits, spec: Spec):
        self._limits, self._spec = limits, spec
        self._goal: Pose | None = None

    def reset(self, target: Pose, gripper: float | None = None) -> np.ndarray:
        """Start from the published `target`; the null action (A,), which stands before the first observation.

        `gripper` is the last command to it, open if None.
        """
        if not is_finite(target):
            raise ValueError(f"the target {target} is not finite")
        self._goal, self._executed = target, ExecutedActions(target, self._spec.action)
        self._gripper = self._spec.action.gripper_open if gripper is None else gripper
        return self._spec.action.null

    def executed(self, target: Pose) -> np.ndarray:
        """(A,) float32: the action that led from the last published target asked about to this one, as in datasets."""
        return self._executed.read(target, self._gripper)

    def step(self, action: np.ndarray, target: Pose) -> SafeCommand:
        """The goal after one raw action (A,); one that is not finite holds the published `target`.

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
        self._gripper = self._spec.action.gripper_command(clamped)
        start, wound_up = self._near(target)
        limited = limit_goal(integrate(start, clamped, self._spec.action), self._limits)
        return self._command(start, limited.pose, interventions + wound_up + limited.interventions)

    def _near(self, target: Pose) -> tuple[Pose, tuple[str, ...]]:
        """The goal, drawn back to within one lead of the published target."""
        assert self._goal is not None
        ahead = lead(self._goal, target, self._limits)
        if ahead <= 1.0 + STEP_TOLERANCE:
            return self._goal, ()
        both = [(pose.position, pose.rotation.as_matrix()) for pose in (self._goal, target)]
        position, rotation = near(np, *both[0], *both[1], self._limits)
        return Pose(position, Rotation.from_matrix(rotation)), ("windup",)

    def _command(self, start: Pose, goal: Pose, interventions: tuple[str, ...]) -> SafeCommand:
        self._goal = goal
        action = relative_action(start, goal, self._gripper, self._spec.action)
        return SafeCommand(goal, self._gripper, action, interventions)
