"""Limits on the motion of the hand, and the goals that keep to them: pure functions of poses.

A policy or an operator moves the *goal*; what is published follows it (`diwa_data.interpolator`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.spec import Spec

DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
"""The hand with its fingers straight down and its x axis forward: tilt and yaw are 0."""
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class MotionLimits:
    """Where and how the published target may move, in the base frame. Speeds and their changes are norms."""

    workspace_low: tuple[float, float, float] = (0.20, -0.50, 0.0)
    """Lower corner of the box that the hand stays in, metres."""
    workspace_high: tuple[float, float, float] = (0.80, 0.50, 0.80)
    """Upper corner of that box, metres."""
    max_speed: float = 0.52
    """Metres per second."""
    max_rotation_speed: float = 1.30
    """Radians per second."""
    max_acceleration: float = 4.0
    """Metres per second squared."""
    max_rotation_acceleration: float = 12.0
    """Radians per second squared."""
    max_jerk: float = 200.0
    """Metres per second cubed."""
    max_rotation_jerk: float = 600.0
    """Radians per second cubed."""
    max_lead_pos: float = 0.05
    """Metres that the target may be ahead of the measured position: it brakes to stay within."""
    max_lead_rot: float = 0.3
    """Radians that the target may be ahead of the measured rotation: it brakes to stay within."""
    max_tilt: float = 1.2
    """Radians between the hand's approach axis (its z) and straight down: the limit on pitch and roll."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.isfinite(value).all():
                raise DiwaError(f"limits.{field.name} is {value}: it must be finite")
            if field.name.startswith("max_") and value <= 0:
                raise DiwaError(f"limits.{field.name} is {value:g}: it must be positive")
        if not np.less(self.workspace_low, self.workspace_high).all():
            raise DiwaError(
                f"limits.workspace_low {self.workspace_low} must be below workspace_high {self.workspace_high}"
            )

    def within(self, spec: Spec) -> MotionLimits:
        """These limits, with speeds at which a tick's motion along an axis fits into one action of `spec`."""
        speed = math.sqrt(3) * spec.action.max_pos * spec.rate
        rotation_speed = math.sqrt(3) * spec.action.max_rot * spec.rate
        return replace(
            self,
            max_speed=min(self.max_speed, speed),
            max_rotation_speed=min(self.max_rotation_speed, rotation_speed),
        )


class Limited(NamedTuple):
    """A pose after limits, and the names of those that changed it."""

    pose: Pose
    interventions: tuple[str, ...]


def is_finite(pose: Pose) -> bool:
    """No NaN or infinity in the pose."""
    return bool(np.isfinite(pose.position).all() and np.isfinite(pose.quaternion).all())


def limit_goal(goal: Pose, limits: MotionLimits) -> Limited:
    """The nearest pose inside the box whose approach axis is at most `max_tilt` away from straight down."""
    position, rotation, interventions = goal.position, goal.rotation, []
    inside = np.clip(position, limits.workspace_low, limits.workspace_high)
    if not np.array_equal(inside, position):
        position = inside
        interventions.append("workspace")
    angles = tilt_and_yaw(rotation)
    tilt = math.hypot(angles[0], angles[1])
    if tilt > limits.max_tilt + _TOLERANCE:
        angles[:2] *= limits.max_tilt / tilt
        rotation = from_tilt_and_yaw(angles)
        interventions.append("tilt")
    return Limited(Pose(position, rotation) if interventions else goal, tuple(interventions))


def outside(pose: Pose, limits: MotionLimits) -> str:
    """Why the target may not begin at `pose`; empty if it is within box and tilt."""
    if not is_finite(pose):
        return f"the pose {pose.position}, {pose.quaternion} is not finite"
    low, high = np.array(limits.workspace_low), np.array(limits.workspace_high)
    far = max(float((low - pose.position).max()), float((pose.position - high).max()))
    if far > _TOLERANCE:
        place, box = ", ".join(f"{x:.3f}" for x in pose.position), f"{limits.workspace_low} to {limits.workspace_high}"
        return f"the hand at ({place}) m is {far:.3f} m outside of the workspace {box}"
    tilt = math.hypot(*tilt_and_yaw(pose.rotation)[:2])
    if tilt > limits.max_tilt + _TOLERANCE:
        return f"the hand is tilted by {tilt:.2f} rad, {limits.max_tilt:g} is the limit"
    return ""


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
    low, high = np.array(limits.workspace_low), np.array(limits.workspace_high)
    used["workspace"] = 1.0 + max(0.0, float((low - positions).max()), float((positions - high).max()))
    tilts = np.arccos(np.clip(-rotations.as_matrix()[:, 2, 2], -1.0, 1.0))
    used["max_tilt"] = float(tilts.max()) / limits.max_tilt
    return used


def tilt_and_yaw(rotation: Rotation) -> np.ndarray:
    """(3,) rad: the tilt's rotation vector (x, y), which is horizontal, and the yaw before it.

    R = exp(tilt) Rz(yaw) DOWN. The norm of the tilt is the angle between the approach axis and straight down.
    """
    a, b, c, d = rotation.as_quat().tolist()
    x, y, z, w = -d, -c, b, a  # times the inverse of DOWN, (-1, 0, 0, 0)
    yaw = 2.0 * math.atan2(z, w)
    cos, sin = math.cos(yaw / 2), math.sin(yaw / 2)
    swing_x, swing_y, swing_w = x * cos - y * sin, y * cos + x * sin, w * cos + z * sin  # q times the inverse yaw
    if swing_w < 0:
        swing_x, swing_y, swing_w = -swing_x, -swing_y, -swing_w
    length = math.hypot(swing_x, swing_y)
    scale = 2.0 * math.atan2(length, swing_w) / length if length > 1e-12 else 2.0
    yaw = (yaw + math.pi) % (2 * math.pi) - math.pi
    return np.array([scale * swing_x, scale * swing_y, yaw])


def quaternion_of(angles: Sequence[float]) -> tuple[float, float, float, float]:
    """The unit quaternion x y z w with these `tilt_and_yaw` (3,), rad."""
    x, y, yaw = angles
    length = math.hypot(x, y)
    half = math.sin(length / 2) / length if length > 1e-12 else 0.5
    x, y, w = half * x, half * y, math.cos(length / 2)
    cos, sin = math.cos(yaw / 2), math.sin(yaw / 2)
    turned = (x * cos + y * sin, y * cos - x * sin, w * sin, w * cos)  # the tilt's quaternion times the yaw's
    return turned[3], turned[2], -turned[1], -turned[0]  # times DOWN


def from_tilt_and_yaw(angles: np.ndarray) -> Rotation:
    """The rotation with these `tilt_and_yaw` (3,), rad."""
    return Rotation.from_quat(quaternion_of(angles.tolist()))
