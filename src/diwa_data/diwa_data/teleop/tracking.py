"""From a tracking system's room to the robot's base frame."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.files import read_object, write_json
from diwa_data.pose import Pose

SHORTEST_BASELINE = 0.10
"""Metres that the controller must move along the robot's +x to find the yaw."""
LEAST_LEVEL = 0.5
"""Horizontal share of a unit vector that can tell where forward is: up to 60 degrees from level."""

_AXES = Rotation.from_matrix([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""OpenVR and WebXR (x right, y up, -z forward) to the robot's axes: (x, y, z) -> (-z, -x, y)."""


class Calibration(NamedTuple):
    """How a tracking room lies to the robot, and on what that rests."""

    yaw: float
    """Turn about the vertical for `to_robot`, rad."""
    baseline: float
    """Metres that the controller was moved to find it."""


def to_robot(position: np.ndarray, rotation: Rotation, yaw: float) -> Pose:
    """A controller's pose in the tracking system's room, in axes parallel to the robot's base after a turn by `yaw`.

    Only motion matters to the clutch, so the two origins need not agree; the rotation is that of the controller's
    motion: R' R^T of two results is the controller's own turn, seen in base axes.
    """
    turn = Rotation.from_euler("z", yaw) * _AXES
    return Pose(turn.apply(position), turn * rotation)


def find_yaw(start: np.ndarray, end: np.ndarray) -> Calibration:
    """The yaw from two positions (3,) of a controller moved along the robot's +x.

    Raises `DiwaError` if they are less than 10 cm apart in the horizontal plane.
    """
    x, y, _ = _AXES.apply(np.asarray(end, float) - start)
    baseline = float(np.hypot(x, y))
    if not baseline >= SHORTEST_BASELINE:
        raise DiwaError(
            f"the controller moved {100 * baseline:.1f} cm in the horizontal plane: move it at least "
            f"{100 * SHORTEST_BASELINE:.0f} cm straight along the robot's +x (forward), then calibrate again"
        )
    return Calibration(float(-np.arctan2(y, x)), baseline)


def facing_yaw(rotation: Rotation) -> float:
    """The yaw (rad) in which a device of that rotation in its room points along the robot's +x (its own forward: -z).

    Raises `DiwaError` if it points too steeply up or down to tell.
    """
    x, y, _ = _AXES.apply(rotation.apply([0.0, 0.0, -1.0]))
    if np.hypot(x, y) < LEAST_LEVEL:
        raise DiwaError("the device points up or down: hold it level, towards the robot's forward")
    return float(-np.arctan2(y, x))


def save_yaw(path: Path, yaw: float) -> None:
    """Store a calibration."""
    write_json(path, {"yaw": yaw})


def load_yaw(path: Path) -> float:
    """The stored calibration. Raises `DiwaError` if there is none, or a damaged one."""
    if not path.is_file():
        raise DiwaError(f"no calibration at {path}: run `diwa calibrate` first")
    yaw = read_object(path, "run `diwa calibrate` again").get("yaw")
    if not isinstance(yaw, int | float) or isinstance(yaw, bool) or not np.isfinite(yaw):
        raise DiwaError(f"{path} holds yaw {yaw!r:.100}: run `diwa calibrate` again")
    return float(yaw)
