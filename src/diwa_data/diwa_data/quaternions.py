"""Single rotations as quaternions x y z w of floats: the arithmetic of scipy's `Rotation`, bit by bit, without objects.

A `Rotation` costs 10 microseconds an operation, these less than one: they serve what runs at every control step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Quaternion = tuple[float, float, float, float]
_SMALL = 1e-3  # rad: below it, series are more exact


def normalised(quaternion: Sequence[float]) -> Quaternion:
    """The unit quaternion of the same rotation."""
    x, y, z, w = quaternion
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    return x / norm, y / norm, z / norm, w / norm


def product(left: Sequence[float], right: Sequence[float]) -> Quaternion:
    """The rotation `right`, then `left`."""
    a, b, c, d = left
    x, y, z, w = right
    return normalised(
        (
            d * x + w * a + (b * z - c * y),
            d * y + w * b + (c * x - a * z),
            d * z + w * c + (a * y - b * x),
            d * w - a * x - b * y - c * z,
        )
    )


def inverse(quaternion: Sequence[float]) -> Quaternion:
    """The rotation back."""
    x, y, z, w = quaternion
    return -x, -y, -z, w


def difference(start: Sequence[float], end: Sequence[float]) -> Quaternion:
    """The rotation, in the base frame, that leads from `start` to `end`."""
    return product(end, inverse(start))


def angle(quaternion: Sequence[float]) -> float:
    """How far it turns, rad, 0 to pi."""
    x, y, z, w = quaternion
    return 2.0 * math.atan2(math.sqrt(x * x + y * y + z * z), abs(w))


def as_rotvec(quaternion: Sequence[float]) -> tuple[float, float, float]:
    """Its rotation vector, rad."""
    x, y, z, w = quaternion
    if w < 0:
        x, y, z = -x, -y, -z
    turn = angle(quaternion)
    scale = turn / math.sin(turn / 2) if turn > _SMALL else 2 + turn * turn / 12 + 7 * turn**4 / 2880
    return scale * x, scale * y, scale * z


def from_rotvec(vector: Sequence[float]) -> Quaternion:
    """The rotation of a rotation vector, rad."""
    x, y, z = vector
    turn = math.sqrt(x * x + y * y + z * z)
    square = turn * turn
    scale = math.sin(turn / 2) / turn if turn > _SMALL else 0.5 - square / 48 + square * square / 3840
    return scale * x, scale * y, scale * z, math.cos(turn / 2)


def about_z(turn: float) -> Quaternion:
    """The rotation by `turn` rad about the z axis."""
    return 0.0, 0.0, math.sin(turn / 2), math.cos(turn / 2)
