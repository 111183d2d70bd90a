"""A rotation of the hand as tilt and yaw: the coordinates in which its limits are simple.

R = exp(tilt) Rz(yaw) DOWN, with a horizontal rotation vector for the tilt. The norm of the tilt is the angle between
the hand's approach axis and straight down, so the rotations within a tilt limit are a disc, whatever the yaw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

DOWN = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
"""The hand with its fingers straight down and its x axis forward: tilt and yaw are 0."""


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
