"""Thresholds of the arm's own contact and collision detection."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from diwa_data.errors import DiwaError


@dataclass(frozen=True)
class CollisionConfig:
    """Thresholds at which the arm itself reports a contact, or stops with a reflex at a collision.

    All four together, or none, which leaves those of its driver.
    """

    contact_torque: tuple[float, ...] = ()
    """Newton metres of the seven joints from which on the arm reports a contact."""
    torque: tuple[float, ...] = ()
    """Newton metres of the seven joints at which it stops."""
    contact_force: tuple[float, ...] = ()
    """Newtons along x, y, z and newton metres about them from which on the arm reports a contact."""
    force: tuple[float, ...] = ()
    """Newtons along x, y, z and newton metres about them at which it stops."""

    def __post_init__(self) -> None:
        if not self:
            return
        for each in fields(self):
            values, count = getattr(self, each.name), 6 if "force" in each.name else 7
            if len(values) != count:
                raise DiwaError(
                    f"collision.{each.name} has {len(values)} numbers; give {count}, or no threshold at all"
                )
            if not np.isfinite(values).all() or min(values) <= 0:
                raise DiwaError(f"collision.{each.name} is {[*values]}; thresholds must be finite and above 0")
        for low, high in (("contact_torque", "torque"), ("contact_force", "force")):
            if any(a > b for a, b in zip(getattr(self, low), getattr(self, high), strict=True)):
                raise DiwaError(f"collision.{low} lies above collision.{high}: a contact comes before a collision")

    def __bool__(self) -> bool:
        """There are any."""
        return any(getattr(self, each.name) for each in fields(self))
