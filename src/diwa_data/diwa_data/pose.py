"""Poses, relative actions and their integration; all in the robot's base frame.

A relative action is A = 7 numbers in [-1, 1]: position delta / max_pos, rotation delta / max_rot, gripper (+1 opens,
-1 closes); 6 on a robot without a gripper. The rotation delta is R' R^T as extrinsic XYZ Euler angles, on the left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data import quaternions
from diwa_data.errors import DiwaError
from diwa_data.spec import ActionSpec

_SHORTEST, _LONGEST = 1e-6, 1e6  # of a quaternion that can be meant


class Pose:
    """Hand pose: `position` (3,) in metres, `rotation` of the hand frame in the base frame. It does not change.

    The rotation is kept as it was given, and made into the other form when that is first asked for.
    """

    def __init__(self, position: np.ndarray, rotation: Rotation):
        self.position, self.rotation = position, rotation

    @classmethod
    def from_unit(cls, position: np.ndarray, quaternion: Sequence[float] | np.ndarray) -> Pose:
        """Pose from a position (3,) and a unit quaternion (4,), x y z w, taken as it is."""
        pose = cls.__new__(cls)
        pose.position, pose.quaternion = position, np.asarray(quaternion)
        return pose

    @classmethod
    def from_quaternion(cls, position: np.ndarray, quaternion: Sequence[float] | np.ndarray) -> Pose:
        """Pose from a position (3,) and a quaternion (4,), x y z w as in ROS; the quaternion is normalised.

        Raises `DiwaError` for a quaternion that has no direction: not finite, too short or too long to be normalised.
        """
        parts = np.asarray(quaternion, float).tolist()
        if not _SHORTEST < math.hypot(*parts) < _LONGEST:
            raise DiwaError(f"the quaternion {np.asarray(quaternion)} has no direction: it must have length 1")
        return cls.from_unit(np.asarray(position, float), quaternions.normalised(parts))

    @classmethod
    def from_state(cls, state: np.ndarray) -> Pose:
        """The hand of a robot state (10,) or (9,), as `robot_state` makes it; its rotation is made orthonormal."""
        first, second = np.asarray(state[3:6], float), np.asarray(state[6:9], float)
        matrix = np.stack([first, second, np.cross(first, second)], axis=1)
        return cls(np.asarray(state[:3], float), Rotation.from_matrix(matrix))

    @cached_property
    def rotation(self) -> Rotation:
        """Rotation of the hand frame in the base frame."""
        return Rotation(self.quaternion, normalize=False)

    @cached_property
    def quaternion(self) -> np.ndarray:
        """(4,) x y z w."""
        return self.rotation.as_quat()

    def __repr__(self) -> str:
        return f"Pose({self.position}, {self.quaternion})"


def rotation_6d(rotation: Rotation) -> np.ndarray:
    """First two columns of R, stacked: [R00, R10, R20, R01, R11, R21] (6,)."""
    matrix = rotation.as_matrix()
    return np.concatenate([matrix[:, 0], matrix[:, 1]])


def robot_state(pose: Pose, gripper_width: float | None) -> np.ndarray:
    """The state vector (10,) float32: position, 6D rotation, gripper width; metres. (9,) if the width is None."""
    width = [] if gripper_width is None else [gripper_width]
    return np.concatenate([pose.position, rotation_6d(pose.rotation), width]).astype(np.float32)


def interpolate(start: Pose, end: Pose, fraction: float) -> Pose:
    """Linear in position, slerp in rotation; fraction 0 is `start`, 1 is `end`."""
    position = start.position + fraction * (end.position - start.position)
    begin = start.quaternion.tolist()
    delta = quaternions.as_rotvec(quaternions.difference(begin, end.quaternion.tolist()))
    turn = quaternions.from_rotvec([fraction * part for part in delta])
    return Pose.from_unit(position, quaternions.product(turn, begin))


def rotation_distance(first: Rotation, second: Rotation) -> float:
    """Angle between two rotations, rad."""
    return quaternions.angle(quaternions.difference(first.as_quat().tolist(), second.as_quat().tolist()))


def scaled_delta(start: Pose, end: Pose, spec: ActionSpec) -> np.ndarray:
    """Motion (6,) from `start` to `end` in units of one full-scale action, not clipped."""
    if spec.rotation == "extrinsic_xyz":
        angles = (end.rotation * start.rotation.inv()).as_euler("xyz")
    else:
        angles = end.rotation.as_euler("xyz") - start.rotation.as_euler("xyz")
        angles = (angles + np.pi) % (2 * np.pi) - np.pi
    return np.concatenate([(end.position - start.position) / spec.max_pos, angles / spec.max_rot])


def relative_action(start: Pose, end: Pose, gripper: float, spec: ActionSpec) -> np.ndarray:
    """The executed action (A,) float32 that moves the target from `start` to `end`, clipped to [-1, 1].

    `gripper` is the last gripper command at `end`; its sign is kept (>= 0 opens).
    """
    return _executed(scaled_delta(start, end, spec), gripper, spec)


def _executed(delta: np.ndarray, gripper: float, spec: ActionSpec) -> np.ndarray:
    return spec.executed(np.append(delta, gripper)[: spec.dim]).astype(np.float32)


def integrate(start: Pose, action: np.ndarray, spec: ActionSpec) -> Pose:
    """The target after one action (A,): inverse of `relative_action` wherever nothing was clipped."""
    action = np.asarray(action, float)
    angles = action[3:6] * spec.max_rot
    if spec.rotation == "extrinsic_xyz":
        rotation = Rotation.from_euler("xyz", angles) * start.rotation
    else:
        rotation = Rotation.from_euler("xyz", start.rotation.as_euler("xyz") + angles)
    return Pose(start.position + action[:3] * spec.max_pos, rotation)


class ExecutedActions:
    """Reads the actions that led from one published target to the next.

    Each delta is taken from the integrated, clipped target, so that clipping delays motion but loses none.
    """

    def __init__(self, target: Pose, spec: ActionSpec):
        self.reached, self._spec = target, spec
        """The first target, moved by all actions read so far."""
        self.clipped = False
        """The last action could not hold all of its motion."""

    def read(self, target: Pose, gripper: float) -> np.ndarray:
        """(A,) float32: the action that led to `target`; `gripper` is the last command to the gripper there."""
        delta = scaled_delta(self.reached, target, self._spec)
        self.clipped = bool(np.abs(delta).max() > 1.0 + 1e-6)
        action = _executed(delta, gripper, self._spec)
        self.reached = integrate(self.reached, action, self._spec)
        return action


@dataclass(frozen=True)
class ActionSequence:
    """Executed actions of a recording: `actions` (T-1, A) float32, `clipped` (T-1,) bool."""

    actions: np.ndarray
    clipped: np.ndarray


def action_sequence(targets: list[Pose], grippers: np.ndarray, spec: ActionSpec) -> ActionSequence:
    """Actions between consecutive targets at T ticks.

    `grippers` (T,) are the last gripper commands at the ticks; action t carries the one at t+1. They have no effect on
    a robot without a gripper.
    """
    executed = ExecutedActions(targets[0], spec)
    actions = np.empty((len(targets) - 1, spec.dim), np.float32)
    clipped = np.zeros(len(targets) - 1, bool)
    for t, target in enumerate(targets[1:]):
        actions[t] = executed.read(target, grippers[t + 1])
        clipped[t] = executed.clipped
    return ActionSequence(actions, clipped)


DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
"""The hand with its fingers straight down and its x axis forward: tilt and yaw are 0."""


def tilt_and_yaw(quaternion: Sequence[float]) -> np.ndarray:
    """(3,) rad, of a unit quaternion: the tilt's rotation vector (x, y), which is horizontal, and the yaw before it.

    R = exp(tilt) Rz(yaw) DOWN. The norm of the tilt is the angle between the approach axis and straight down, so the
    rotations within a tilt limit are a disc, whatever the yaw.
    """
    a, b, c, d = quaternion
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


def quaternion_of(angles: Sequence[float]) -> quaternions.Quaternion:
    """The unit quaternion x y z w with these `tilt_and_yaw` (3,), rad."""
    x, y, yaw = angles
    length = math.hypot(x, y)
    half = math.sin(length / 2) / length if length > 1e-12 else 0.5
    x, y, w = half * x, half * y, math.cos(length / 2)
    cos, sin = math.cos(yaw / 2), math.sin(yaw / 2)
    turned = (x * cos + y * sin, y * cos - x * sin, w * sin, w * cos)  # the tilt's quaternion times the yaw's
    return turned[3], turned[2], -turned[1], -turned[0]  # times DOWN
