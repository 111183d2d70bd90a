"""A scene as its operator knows it without looking: its tasks, and where the hand and objects may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from diwa_sim.tasks import PAPER_TASKS, TASKS, Task, task

Place = tuple[float, float, float]


@dataclass(frozen=True)
class Box:
    """Places between two corners, metres."""

    low: Place
    high: Place

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A place (3,) in it at random."""
        return rng.uniform(self.low, self.high)

    def holds(self, place: np.ndarray) -> bool:
        """`place` (3,) is in it."""
        return bool((place >= self.low).all() and (place <= self.high).all())

    def nearest(self, place: np.ndarray) -> np.ndarray:
        """The place (3,) in it that is nearest to `place` (3,)."""
        return np.clip(place, self.low, self.high)


@dataclass(frozen=True, eq=False)
class Playground:
    """A scene as its operator knows it."""

    tasks: Mapping[str, Task]
    """Tasks that can be demonstrated, by name."""
    usual: tuple[str, ...]
    """Tasks that play is made of, whatever others it is told of."""
    blocks: tuple[str, ...]
    """Bodies that play pushes about and picks up."""
    reach: Box
    """Where a body can be reached."""
    poke: Box
    """From where the hand pokes downwards."""
    roam: Box
    """Where the hand moves idly."""
    carry: Box
    """Where play carries about what the hand holds."""
    floor: float = 0.0
    """Height of the table, metres."""
    yaw: float = 0.0
    """Turn of the hand at rest about the vertical from pointing its x axis along that of the frame, rad; the operator
    faces the same way."""

    def task(self, name: str) -> Task:
        """The task `name`. Raises `DiwaError` that lists them."""
        return task(name, self.tasks)


TABLE = Playground(
    TASKS,
    PAPER_TASKS,
    ("cube",),
    reach=Box((0.28, -0.34, 0.0), (0.50, 0.10, 0.06)),
    poke=Box((0.34, -0.32, 0.24), (0.64, 0.36, 0.30)),
    roam=Box((0.30, -0.32, 0.17), (0.60, 0.30, 0.42)),
    carry=Box((0.30, -0.20, 0.05), (0.50, 0.06, 0.25)),
)
"""Our simulated table."""
