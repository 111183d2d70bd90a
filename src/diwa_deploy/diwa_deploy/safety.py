"""May the arm go on? Verdicts on the ages of what a skill needs, and on the joints, which no target shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diwa_data.robot_config import JointConfig


@dataclass(frozen=True)
class Verdict:
    """Whether the arm may go on."""

    level: str
    """ok, warn, hold or abort."""
    reason: str
    """Why it is not ok; empty if it is."""


@dataclass(frozen=True)
class WatchdogConfig:
    """Ages of frames, pose and inference at which something happens, in seconds."""

    warn: float = 0.1
    """Age at which it is counted and reported."""
    hold: float = 0.2
    """Age at which the target brakes until the stream is younger again."""
    abort: float = 1.0
    """Age at which the skill ends and the node must be rearmed."""


def judge(ages: Mapping[str, float], config: WatchdogConfig) -> Verdict:
    """The verdict on the oldest of `ages` (name -> seconds). NaN counts as infinitely old."""
    finite = {name: age if age == age else float("inf") for name, age in ages.items()}
    name, age = max(finite.items(), key=lambda item: item[1], default=("", 0.0))
    for level in ("abort", "hold", "warn"):
        if age > getattr(config, level):
            return Verdict(level, f"{name} is {age:.2f} s old")
    return Verdict("ok", "")


JOINT_LIMITS = {
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


def judge_joints(names: Sequence[str], positions: Sequence[float], config: JointConfig) -> Verdict:
    """The verdict on a JointState's `names` and `positions`, rad: how near they are to limits and to a singularity.

    An arm of other joint names is always ok.
    """
    joints = {int(found[1]): index for index, name in enumerate(names) if (found := _ARM_JOINT.search(name))}
    if len(joints) < 7:
        return Verdict("ok", "")
    angles = np.array([positions[joints[number]] for number in range(1, 8)], float)
    if not np.isfinite(angles).all():
        return Verdict("hold", f"the joint positions {angles} are not finite")
    limits = np.array(JOINT_LIMITS["fr3" if "fr3" in names[joints[1]] else "panda"])  # (7, 2)
    left = np.minimum(angles - limits[:, 0], limits[:, 1] - angles)
    nearest = int(left.argmin())
    singular = float(np.linalg.svd(fingertips(angles)[1], compute_uv=False)[-1])
    for level, near, small in (
        ("hold", config.hold, config.hold_singular),
        ("warn", config.warn, config.warn_singular),
    ):
        if near and left[nearest] < near:
            return Verdict(level, f"joint {nearest + 1} is {left[nearest]:.2f} rad from its limit")
        if small and singular < small:
            return Verdict(level, f"the arm is near a singularity (smallest singular value {singular:.3f})")
    return Verdict("ok", "")


def fingertips(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Their position (3,) in the base frame at `angles` (7,) rad, and the Jacobian (6, 7) of position and rotation."""
    frame, axes, places = np.eye(4), [], []
    for angle, a, d, alpha in zip(angles, _A, _D, _ALPHA, strict=True):
        ca, sa, ct, st = np.cos(alpha), np.sin(alpha), np.cos(angle), np.sin(angle)
        frame = frame @ [
            [ct, -st, 0, a],
            [st * ca, ct * ca, -sa, -d * sa],
            [st * sa, ct * sa, ca, d * ca],
            [0, 0, 0, 1],
        ]
        axes.append(frame[:3, 2])
        places.append(frame[:3, 3])
    tip = places[-1] + _TIP * axes[-1]
    return tip, np.concatenate([np.cross(axes, tip - np.array(places)).T, np.array(axes).T])
