"""Where the demonstrations of a skill began: a policy knows nothing of other starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError
from diwa_data.pose import Pose

_CURE = "move it there, or call /policy/go_to_start"


@dataclass(frozen=True)
class StartRegion:
    """A box of hand positions, and how far the hand was turned from the middle of all first rotations."""

    low: tuple[float, float, float]
    """Lower corner, metres, base frame."""
    high: tuple[float, float, float]
    """Upper corner."""
    rotation: tuple[float, float, float, float]
    """Mean rotation, quaternion x y z w."""
    angle: float
    """Largest angle to it, rad."""

    def __post_init__(self) -> None:
        numbers = np.array([*self.low, *self.high, *self.rotation, self.angle])
        ordered = np.isfinite(numbers).all() and all(a <= b for a, b in zip(self.low, self.high, strict=True))
        if not ordered or abs(np.linalg.norm(self.rotation) - 1) > 1e-3 or not 0 <= self.angle <= np.pi + 1e-3:
            raise DiwaError(f"{self} is no box with a unit quaternion and an angle of 0 to pi")

    @classmethod
    def of(cls, poses: Sequence[Pose]) -> StartRegion:
        """The region of these first poses."""
        positions = np.array([pose.position for pose in poses])
        quaternions = np.array([pose.quaternion for pose in poses])
        _, vectors = np.linalg.eigh(quaternions.T @ quaternions)  # the mean of rotations, q and -q alike
        mean = Pose.from_quaternion(np.zeros(3), vectors[:, -1])
        angle = max((pose.rotation * mean.rotation.inv()).magnitude() for pose in poses)
        low, high = positions.min(axis=0).tolist(), positions.max(axis=0).tolist()
        return cls(tuple(low), tuple(high), tuple(mean.quaternion.tolist()), float(angle))

    @classmethod
    def from_card(cls, card: dict[str, Any], where: str) -> StartRegion | None:
        """The region in a bundle's card, if there is one. Raises `DiwaError` naming `where` if it is damaged."""
        return from_mapping(cls, card["start"], f"{where}: start") if "start" in card else None

    def to_card(self) -> dict[str, Any]:
        """What `from_card` reads under `start`."""
        return asdict(self)

    @property
    def middle(self) -> Pose:
        """The middle of the box, with the mean rotation."""
        return Pose.from_quaternion((np.array(self.low) + self.high) / 2, np.array(self.rotation))

    def problem(self, pose: Pose, distance: float, angle: float) -> str:
        """Why no skill may begin at `pose`: farther than `distance` m or `angle` rad outside; empty if it may."""
        outside = np.linalg.norm(pose.position - np.clip(pose.position, self.low, self.high))
        if outside > distance:
            box = " to ".join("(" + ", ".join(f"{x:.2f}" for x in corner) + ")" for corner in (self.low, self.high))
            return f"the hand is {100 * outside:.0f} cm outside of where its demonstrations began, {box}: {_CURE}"
        turned = (pose.rotation * self.middle.rotation.inv()).magnitude() - self.angle
        if turned > angle:
            degrees = np.degrees(turned)
            return f"the hand is turned {degrees:.0f} degrees more than when its demonstrations began: {_CURE}"
        return ""
