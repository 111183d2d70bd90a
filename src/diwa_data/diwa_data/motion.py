"""Motion limits as pure functions, shared by the teleoperation clutch and the deployed safety filter.

Every function returns the limited pose and whether it had to intervene; `limit_motion` applies them in
ROBOT's order: finite -> workspace box (and tilt) -> speed and rotation rate -> lead clamp. Speed has the last word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class MotionLimits:
    """Where and how fast the target may move; all in the base frame."""

    workspace_low: tuple[float, float, float] = (0.20, -0.50, 0.0)
    """Lower corner of the box that the hand stays in, metres."""
    workspace_high: tuple[float, float, float] = (0.80, 0.50, 0.80)
    """Upper corner of that box, metres."""
    max_speed: float = 0.30
    """Metres per second and axis."""
    max_rotation_speed: float = 0.75
    """Radians per second and axis."""
    max_lead_pos: float = 0.05
    """Metres that the target may be ahead of the measured position (anti-windup)."""
    max_lead_rot: float = 0.3
    """Radians that the target may be ahead of the measured rotation (anti-windup)."""
    max_tilt: float = 1.2
    """Radians between the hand's approach axis (its z) and straight down: the limit on pitch and roll."""


class Limited(NamedTuple):
    """A pose after one limit."""

    pose: Pose
    intervened: bool


class LimitedMotion(NamedTuple):
    """A pose after all limits, and the names of those that intervened."""

    pose: Pose
    interventions: tuple[str, ...]


def limit_motion(previous: Pose, target: Pose, measured: Pose, dt: float, limits: MotionLimits) -> LimitedMotion:
    """The pose nearest to `target` that may be commanded `dt` seconds after `previous`.

    Speed holds whatever the input; the others wherever it lets them: an arm found outside the box, or farther from
    `previous` than one step can mend, gets the target moved toward it at the speed limit. A target that is not finite,
    or an unknown `measured`, holds `previous`.
    """
    if not is_finite(measured):
        return LimitedMotion(previous, ("finite",))
    interventions = []
    pose = target
    if not is_finite(target):
        pose = previous
        interventions.append("finite")
    for name, limited in (
        ("workspace", clamp_workspace),
        ("tilt", clamp_tilt),
    ):
        pose, intervened = limited(pose, limits)
        interventions += [name] if intervened else []
    pose, intervened = clamp_speed(previous, pose, dt, limits)
    interventions += ["speed"] if intervened else []
    pose, intervened = clamp_lead(pose, measured, limits)
    interventions += ["lead"] if intervened else []
    return LimitedMotion(clamp_speed(previous, pose, dt, limits).pose, tuple(interventions))


def is_finite(pose: Pose) -> bool:
    """No NaN or infinity in the pose."""
    return bool(np.isfinite(pose.position).all() and np.isfinite(pose.quaternion).all())


def clamp_workspace(pose: Pose, limits: MotionLimits) -> Limited:
    """The nearest pose inside the workspace box."""
    position = np.clip(pose.position, limits.workspace_low, limits.workspace_high)
    if np.array_equal(position, pose.position):
        return Limited(pose, False)
    return Limited(Pose(position, pose.rotation), True)


def clamp_tilt(pose: Pose, limits: MotionLimits) -> Limited:
    """The nearest rotation whose approach axis is at most `max_tilt` away from straight down."""
    approach = pose.rotation.as_matrix()[:, 2]
    tilt = math.acos(min(1.0, max(-1.0, -approach[2])))
    if tilt <= limits.max_tilt + _TOLERANCE:
        return Limited(pose, False)
    axis = np.array([-approach[1], approach[0], 0.0])  # approach x down: turning about it lowers the tilt
    length = np.linalg.norm(axis)
    axis = axis / length if length > _TOLERANCE else np.array([1.0, 0.0, 0.0])
    return Limited(Pose(pose.position, Rotation.from_rotvec((tilt - limits.max_tilt) * axis) * pose.rotation), True)


def clamp_speed(previous: Pose, target: Pose, dt: float, limits: MotionLimits) -> Limited:
    """At most `max_speed * dt` and `max_rotation_speed * dt` per axis from `previous`, on the straight way."""
    step = target.position - previous.position
    fraction = _fraction(np.abs(step).max(), limits.max_speed * dt)
    position = target.position if fraction == 1.0 else previous.position + fraction * step
    if target.rotation is previous.rotation:
        return Limited(Pose(position, target.rotation), fraction < 1.0)
    turn = (target.rotation * previous.rotation.inv()).as_rotvec()
    turn_fraction = _fraction(np.abs(turn).max(), limits.max_rotation_speed * dt)
    if turn_fraction == 1.0:
        return Limited(Pose(position, target.rotation), fraction < 1.0)
    return Limited(Pose(position, Rotation.from_rotvec(turn_fraction * turn) * previous.rotation), True)


def clamp_lead(target: Pose, measured: Pose, limits: MotionLimits) -> Limited:
    """At most `max_lead_pos` metres and `max_lead_rot` radians ahead of `measured`, on the straight way."""
    lead = target.position - measured.position
    fraction = _fraction(math.sqrt(lead @ lead), limits.max_lead_pos)
    turn = (target.rotation * measured.rotation.inv()).as_rotvec()
    turn_fraction = _fraction(math.sqrt(turn @ turn), limits.max_lead_rot)
    if fraction == turn_fraction == 1.0:
        return Limited(target, False)
    position = target.position if fraction == 1.0 else measured.position + fraction * lead
    if turn_fraction == 1.0:
        return Limited(Pose(position, target.rotation), True)
    return Limited(Pose(position, Rotation.from_rotvec(turn_fraction * turn) * measured.rotation), True)


def _fraction(length: float, allowed: float) -> float:
    """Share of a motion of `length` that stays within `allowed`; exactly 1 where all of it does."""
    return 1.0 if length <= allowed + _TOLERANCE else allowed / length
