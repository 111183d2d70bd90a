"""How near the Panda's joints are to their limits and to a singularity: what a Cartesian target does not see."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diwa_data.robot_config import JointConfig

LIMITS = {
    "panda": [(-2.8973, 2.8973), (-1.7628, 1.7628), (-2.8973, 2.8973), (-3.0718, -0.0698), (-2.8973, 2.8973),
              (-0.0175, 3.7525), (-2.8973, 2.8973)],
    "fr3": [(-2.7437, 2.7437), (-1.7837, 1.7837), (-2.9007, 2.9007), (-3.0421, -0.1518), (-2.8065, 2.8065),
            (0.5445, 4.5169), (-3.0159, 3.0159)],
}  # fmt: skip
"""Lower and upper limits of the seven joints, rad, by what their names hold (Franka's documentation)."""
_A = (0.0, 0.0, 0.0, 0.0825, -0.0825, 0.0, 0.088)  # metres, Craig's convention
_D = (0.333, 0.0, 0.316, 0.0, 0.384, 0.0, 0.0)
_ALPHA = (0.0, -np.pi / 2, np.pi / 2, np.pi / 2, -np.pi / 2, np.pi / 2, np.pi / 2)
_TIP = 0.107 + 0.1034  # metres from the last joint to the fingertips
_ARM_JOINT = re.compile(r"(?<!finger_)joint([1-7])$")


@dataclass(frozen=True)
class Margin:
    """How near the arm is to where it cannot go on."""

    level: str
    """ok, warn or hold."""
    reason: str
    """Which joint, or the singularity; empty if all is well."""


def margin(names: Sequence[str], positions: Sequence[float], config: JointConfig) -> Margin:
    """The margin at a JointState's `names` and `positions`, rad; an arm of other joint names has none."""
    joints = {int(found[1]): index for index, name in enumerate(names) if (found := _ARM_JOINT.search(name))}
    if len(joints) < 7:
        return Margin("ok", "")
    angles = np.array([positions[joints[number]] for number in range(1, 8)], float)
    if not np.isfinite(angles).all():
        return Margin("hold", f"the joint positions {angles} are not finite")
    limits = np.array(LIMITS["fr3" if "fr3" in names[joints[1]] else "panda"])  # (7, 2)
    left = np.minimum(angles - limits[:, 0], limits[:, 1] - angles)
    nearest = int(left.argmin())
    joint = f"joint {nearest + 1} is {left[nearest]:.2f} rad from its limit"
    singular = float(np.linalg.svd(jacobian(angles), compute_uv=False)[-1])
    singularity = f"the arm is near a singularity (smallest singular value {singular:.3f})"
    for level, near, small in (
        ("hold", config.hold, config.hold_singular),
        ("warn", config.warn, config.warn_singular),
    ):
        if near and left[nearest] < near:
            return Margin(level, joint)
        if small and singular < small:
            return Margin(level, singularity)
    return Margin("ok", "")


def jacobian(angles: np.ndarray) -> np.ndarray:
    """(6, 7): velocity and angular velocity of the fingertips in the base frame, per joint, at `angles` (7,) rad."""
    frames = _frames(angles)
    tip = frames[-1][:3, 3] + _TIP * frames[-1][:3, 2]
    axes = np.array([frame[:3, 2] for frame in frames])
    arms = np.array([tip - frame[:3, 3] for frame in frames])
    return np.concatenate([np.cross(axes, arms).T, axes.T])


def fingertips(angles: np.ndarray) -> np.ndarray:
    """(3,): their position in the base frame at `angles` (7,) rad, metres."""
    last = _frames(angles)[-1]
    return last[:3, 3] + _TIP * last[:3, 2]


def _frames(angles: np.ndarray) -> list[np.ndarray]:
    """The seven joints' frames (4, 4) in the base frame."""
    frames, frame = [], np.eye(4)
    for angle, a, d, alpha in zip(angles, _A, _D, _ALPHA, strict=True):
        ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(angle), np.sin(angle)
        step = np.array(
            [[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]]
        )
        frame = frame @ step
        frames.append(frame)
    return frames
