"""From the numbers of a LeRobot dataset to poses, targets and gripper commands, frame by frame.

Row i holds what was measured at frame i and the command that followed it; so what is known at frame i is the command
of row i - 1, and at frame 0 the measured pose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data import quaternions
from diwa_data.errors import DiwaError
from diwa_data.lerobot.folder import CURE, Feature, LeRobotFolder
from diwa_data.lerobot.mapping import (
    GripperCommand,
    LeRobotMapping,
    Numbers,
    RotationMapping,
)
from diwa_data.pose import Pose

Rows = Mapping[str, np.ndarray]
"""Feature -> (L, D) float64, its numbers at each frame."""
JOINTS_ONLY = (
    "It has joint positions only: actions here are motions of the hand, which need its pose in every frame, so record "
    "that too, or add it by forward kinematics"
)
_JOINTS = ("joint", "shoulder", "elbow", "wrist_", "waist", "motor")


@dataclass(frozen=True, eq=False)
class Poses:
    """N poses."""

    position: np.ndarray
    """(N, 3), metres."""
    rotation: Rotation
    """N rotations."""

    def at(self, numbers: np.ndarray) -> list[Pose]:
        """Some of them, one by one."""
        return [Pose(self.position[i], self.rotation[int(i)]) for i in numbers]


def require_features(mapping: LeRobotMapping, folder: LeRobotFolder) -> None:
    """Raise `DiwaError` naming the key of the mapping that asks for what the dataset has not."""
    try:
        for number, camera in enumerate(mapping.cameras):
            feature = _feature(camera.feature, f"cameras[{number}].feature", folder)
            if not feature.is_image:
                raise DiwaError(f"cameras[{number}].feature: {feature.name} is {feature.dtype}, no video or image")
        for key, numbers, count in mapping.numbers():
            columns(_feature(numbers.feature, f"{key}.feature", folder), numbers, key, count)
    except DiwaError as error:
        if joint_only(folder.features):
            raise DiwaError(f"{error}. {JOINTS_ONLY}") from error
        raise


def columns(feature: Feature, numbers: Numbers | GripperCommand, key: str, count: int) -> list[int]:
    """Which of a feature's numbers are meant, `count` in all. Raises `DiwaError` naming `key` if there are others."""
    size = int(np.prod(feature.shape))
    there = f"{feature.name} has {size} numbers" + (
        f": {' '.join(feature.names)}" if feature.names else " without names"
    )
    if feature.is_image or feature.dtype == "string":
        raise DiwaError(f"{key}.feature: {feature.name} is {feature.dtype}, no numbers")
    found = []
    for which in numbers.at or range(size):
        if isinstance(which, str):
            if feature.names.count(which) != 1:
                raise DiwaError(f"{key}.at: no single number is named {which!r}; {there}")
            which = feature.names.index(which)
        if not 0 <= which < size:
            raise DiwaError(f"{key}.at: there is no number {which}; {there}, counted from 0")
        found.append(which)
    if len(found) != count:
        raise DiwaError(f"{key} needs {count} numbers and gets {len(found)}: set at; {there}")
    return found


def joint_only(features: Mapping[str, Feature]) -> bool:
    """Whether all named numbers of states and actions look like joints and grippers, as far as names tell."""
    names = [
        f"{feature.name}.{name}".lower()
        for feature in features.values()
        if not feature.is_image and feature.name.startswith(("observation", "action"))
        for name in feature.names
    ]
    return bool(names) and all("gripper" in name or any(word in name for word in _JOINTS) for name in names)


def _feature(name: str, key: str, folder: LeRobotFolder) -> Feature:
    if name in folder.features:
        return folder.features[name]
    raise DiwaError(f"{key}: {folder.path} has no feature {name!r}; it has {folder.list_features()}")


class Reader:
    """Reads what a mapping names out of an episode's rows."""

    def __init__(self, mapping: LeRobotMapping, features: Mapping[str, Feature]):
        """`features` have been checked by `require_features`."""
        self._mapping = mapping
        self._columns = {
            key: columns(features[numbers.feature], numbers, key, count) for key, numbers, count in mapping.numbers()
        }
        self.features = list(dict.fromkeys(numbers.feature for _, numbers, _ in mapping.numbers()))
        """Names of the features that are read, without cameras."""

    def require_finite(self, rows: Rows, where: str) -> None:
        """Raise `DiwaError` naming the feature if a number that is read is not finite."""
        for key, numbers, _ in self._mapping.numbers():
            wrong = ~np.isfinite(rows[numbers.feature][:, self._columns[key]]).all(axis=1)
            if wrong.any():
                raise DiwaError(f"{where}: {numbers.feature} is not finite at frame {int(np.argmax(wrong))}: {CURE}")

    def measured(self, rows: Rows) -> Poses:
        """The hand at each frame, L poses."""
        state = self._mapping.state
        position = self._scaled("state.position", state.position, rows)
        return Poses(position, self._rotation("state.rotation", state.rotation, rows))

    def widths(self, rows: Rows) -> np.ndarray | None:
        """(L,) metres between the fingers; None without a gripper."""
        gripper = self._mapping.state.gripper
        return self._scaled("state.gripper", gripper, rows)[:, 0] if gripper else None

    def targets(self, rows: Rows, measured: Poses) -> Poses:
        """Where commands had put the hand by each frame, L poses; the first is the measured one."""
        action, past = self._mapping.action, slice(0, len(measured.position) - 1)
        if action.kind == "measured" or not past.stop:
            return measured
        first, steps = Poses(measured.position[:1], measured.rotation[:1]), np.zeros((past.stop, 3))
        if action.position:
            steps = self._scaled("action.position", action.position, rows)[past]
        if action.kind == "delta":
            reached = self._moved(steps, rows, Poses(measured.position[past], measured.rotation[past]))
        elif action.rotation:
            reached = Poses(steps, self._rotation("action.rotation", action.rotation, rows)[past])
        else:
            reached = Poses(steps, Rotation.concatenate([first.rotation] * past.stop))
        rotation = Rotation.concatenate([first.rotation, reached.rotation])
        return Poses(np.concatenate([first.position, reached.position]), rotation)

    def grippers(self, rows: Rows, opens: float) -> np.ndarray:
        """(L,) the last gripper command by each frame, `opens` or its negative; frame 0 has that of its own row."""
        command = self._mapping.action.gripper
        if command is None:
            return np.full(len(next(iter(rows.values()))), opens)
        values = rows[command.feature][:, self._columns["action.gripper"][0]]
        choices = {command.open: opens, command.closed: -opens} | ({} if command.stay is None else {command.stay: 0.0})
        nearest = np.abs(values[:, None] - np.array(list(choices))).argmin(axis=1)
        commands = np.array(list(choices.values()))[nearest]
        since = np.maximum.accumulate(np.where(commands != 0, np.arange(len(commands)), -1))
        latched = np.where(since < 0, opens, commands[since])
        return np.concatenate([latched[:1], latched[:-1]])

    def success(self, rows: Rows, fps: float) -> tuple[np.ndarray, bool | None]:
        """(L,) bool, at or after success; and whether the episode succeeded at all, None if nothing says so."""
        success = self._mapping.success
        length = len(next(iter(rows.values())))
        if not success.feature and not success.seconds:
            return np.zeros(length, bool), None
        done = np.zeros(length, bool)
        if success.feature:
            true = rows[success.feature][:, self._columns["success"][0]] > success.threshold
            if not true.any():
                return done, False
            if not success.whole_episode:
                done = np.concatenate([[False], true[:-1]]) if success.feature.startswith("next.") else true
        if success.whole_episode or not success.feature or success.seconds:
            done = done | (np.arange(length) >= length - 1 - success.seconds * fps)
        done[-1] = True
        return np.logical_or.accumulate(done), True

    def _moved(self, steps: np.ndarray, rows: Rows, measured: Poses) -> Poses:
        """The targets that N motions lead to: `steps` (N, 3) metres, from the N poses measured before them."""
        action, count = self._mapping.action, len(steps)
        chained = action.relative_to == "target"
        rotation = self._turned(rows, measured.rotation, chained)
        if action.frame == "tool":
            before = (
                Rotation.concatenate([measured.rotation[:1], rotation[: count - 1]]) if chained else measured.rotation
            )
            steps = before.apply(steps)
        start = measured.position[0] if chained else measured.position
        return Poses(start + (np.cumsum(steps, axis=0) if chained else steps), rotation)

    def _turned(self, rows: Rows, measured: Rotation, chained: bool) -> Rotation:
        """The rotations of the targets that N motions lead to, from each other or from the N measured ones."""
        action, count = self._mapping.action, len(measured)
        if action.rotation is None:
            return Rotation.concatenate([measured[:1]] * count) if chained else measured
        if action.rotation.form == "euler_difference":
            angles = self._scaled("action.rotation", action.rotation, rows)[:count]
            start = measured.as_euler(action.rotation.order)
            angles = start[0] + np.cumsum(angles, axis=0) if chained else start + angles
            return Rotation.from_euler(action.rotation.order, angles)
        turn, tool = self._rotation("action.rotation", action.rotation, rows)[:count], action.frame == "tool"
        if not chained:
            return measured * turn if tool else turn * measured
        reached = [measured[0].as_quat().tolist()]
        for each in turn.as_quat().tolist():
            reached.append(quaternions.product(reached[-1], each) if tool else quaternions.product(each, reached[-1]))
        return Rotation.from_quat(reached[1:])

    def _scaled(self, key: str, numbers: Numbers, rows: Rows) -> np.ndarray:
        return rows[numbers.feature][:, self._columns[key]] * numbers.scale + numbers.offset

    def _rotation(self, key: str, mapping: RotationMapping, rows: Rows) -> Rotation:
        values = rows[mapping.feature][:, self._columns[key]]
        form = mapping.form
        if form == "euler":
            return Rotation.from_euler(mapping.order, values * mapping.scale)
        if form == "axis_angle":
            return Rotation.from_rotvec(values * mapping.scale)
        if form == "matrix":
            return Rotation.from_matrix(values.reshape(-1, 3, 3))
        if form == "rotation_6d":
            first, second = values[:, :3], values[:, 3:]
            return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], axis=2))
        if (np.linalg.norm(values, axis=1) < 0.5).any():
            raise DiwaError(f"{key}: a quaternion has no direction: it must have length 1")
        return Rotation.from_quat(values if form == "quaternion_xyzw" else values[:, [1, 2, 3, 0]])
