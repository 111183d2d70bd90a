"""Limits on the motion of the hand: part of the contract, and how those in force compare with those of recordings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from diwa_data.errors import DiwaError

if TYPE_CHECKING:
    from diwa_data.spec import Spec


@dataclass(frozen=True)
class MotionLimits:
    """Bounds on the published target's place and motion, in the base frame. Speeds and their changes are norms."""

    workspace_low: tuple[float, float, float] = (0.20, -0.50, 0.0)
    """Lower corner of the box that the hand stays in, metres."""
    workspace_high: tuple[float, float, float] = (0.80, 0.50, 0.80)
    """Upper corner of that box, metres."""
    max_speed: float = 0.52
    """Metres per second."""
    max_rotation_speed: float = 1.30
    """Radians per second."""
    max_acceleration: float = 4.0
    """Metres per second squared."""
    max_rotation_acceleration: float = 12.0
    """Radians per second squared."""
    max_jerk: float = 200.0
    """Metres per second cubed."""
    max_rotation_jerk: float = 600.0
    """Radians per second cubed."""
    max_lead_pos: float = 0.05
    """Metres that the target may be ahead of the measured position: it brakes to stay within."""
    max_lead_rot: float = 0.3
    """Radians that the target may be ahead of the measured rotation: it brakes to stay within."""
    max_tilt: float = 1.2
    """Radians between the hand's approach axis (its z) and straight down: the limit on pitch and roll."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.isfinite(value).all():
                raise DiwaError(f"limits.{field.name} is {value}: it must be finite")
            if field.name.startswith("max_") and value <= 0:
                raise DiwaError(f"limits.{field.name} is {value:g}: it must be positive")
        if not np.less(self.workspace_low, self.workspace_high).all():
            raise DiwaError(
                f"limits.workspace_low {self.workspace_low} must be below workspace_high {self.workspace_high}"
            )

    def within(self, spec: Spec) -> MotionLimits:
        """These limits, with speeds at which a tick's motion along an axis fits into one action of `spec`."""
        speed = math.sqrt(3) * spec.action.max_pos * spec.rate
        rotation_speed = math.sqrt(3) * spec.action.max_rot * spec.rate
        return replace(
            self,
            max_speed=min(self.max_speed, speed),
            max_rotation_speed=min(self.max_rotation_speed, rotation_speed),
        )

    @property
    def description(self) -> str:
        """The workspace, the speeds and leads, in a line."""
        box = f"{_brief(self.workspace_low)} to {_brief(self.workspace_high)} m, tilt {self.max_tilt:g} rad"
        speeds = f"{self.max_speed:g} m/s, {self.max_rotation_speed:g} rad/s"
        return f"{box}; {speeds}; lead {self.max_lead_pos:g} m, {self.max_lead_rot:g} rad"

    def compared(self, recorded: MotionLimits | None) -> str:
        """A line on how these limits, in force now, differ from those of recordings; empty if they do not.

        Narrower ones are fine, and make a skill slower. Wider ones let it do what no recording shows: the line begins
        with `WIDER`, and is a warning.
        """
        if recorded is None or recorded == self:
            return ""
        pairs = {each.name: (getattr(self, each.name), getattr(recorded, each.name)) for each in fields(self)}
        wider = [name for name, (here, then) in pairs.items() if _wider(name, here, then) != then]
        differing = wider or [name for name, (here, then) in pairs.items() if here != then]
        found = ", ".join(f"{name} {_brief(pairs[name][0])} for {_brief(pairs[name][1])}" for name in differing)
        if wider:
            return f"{WIDER} ({found}): a skill can do here what no recording shows; set them as they were"
        return f"motion limits are narrower than those of the recordings ({found})"


WIDER = "motion limits are wider than those of the recordings"
"""Begins the line of `MotionLimits.compared` that is a warning."""


def widest(known: Iterable[MotionLimits | None]) -> MotionLimits | None:
    """The narrowest limits within which all was recorded that was recorded under these; None if none are known.

    Recordings of others, and older ones of ours, do not say theirs, and do not count.
    """
    found = [each for each in known if each is not None]
    if not found:
        return None
    values = {}
    for field in fields(MotionLimits):
        value = getattr(found[0], field.name)
        for other in found[1:]:
            value = _wider(field.name, value, getattr(other, field.name))
        values[field.name] = value
    return MotionLimits(**values)


def _wider(name: str, one: Any, other: Any) -> Any:
    """The value of the limit `name` that lets more through, in each axis."""
    wider = min if name == "workspace_low" else max
    return tuple(map(wider, one, other)) if isinstance(one, tuple) else wider(one, other)


def _brief(value: Any) -> str:
    return f"({', '.join(f'{each:g}' for each in value)})" if isinstance(value, tuple) else f"{value:g}"
