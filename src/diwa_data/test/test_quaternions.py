"""Quaternions of floats give what scipy's `Rotation` gives."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data import quaternions

LENGTHS = (0.0, 1e-9, 0.5e-3, 1e-3, 2e-3, 0.1, 3.0, np.pi)
"""Rad: on both sides of where scipy changes to a series, up to half a turn."""
VECTORS = [
    length * axis / np.linalg.norm(axis) for length in LENGTHS for axis in np.random.default_rng(0).normal(size=(8, 3))
]


def same(found: tuple[float, ...], expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_rotation_vectors(vector: np.ndarray) -> None:
    rotation = Rotation.from_rotvec(vector)
    same(quaternions.from_rotvec(vector.tolist()), rotation.as_quat())
    for sign in (1, -1):
        quaternion = (sign * rotation.as_quat()).tolist()
        same(quaternions.as_rotvec(quaternion), Rotation.from_quat(quaternion).as_rotvec())
        assert quaternions.angle(quaternion) == pytest.approx(rotation.magnitude(), abs=1e-14)


def test_products_and_differences() -> None:
    rng = np.random.default_rng(1)
    for left, right in zip(rng.normal(size=(100, 4)), 10 * rng.normal(size=(100, 4)), strict=True):
        first, second = Rotation.from_quat(left), Rotation.from_quat(right)
        a, b = quaternions.normalised(left.tolist()), quaternions.normalised(right.tolist())
        same(a, first.as_quat())
        same(quaternions.product(a, b), (first * second).as_quat())
        same(quaternions.difference(a, b), (second * first.inv()).as_quat())


def test_about_z() -> None:
    same(quaternions.about_z(-2.0), Rotation.from_euler("z", -2.0).as_quat())
