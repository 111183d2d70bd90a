"""Limits on the motion of the hand: part of the contract, compared with those of recordings, and applied.

The functions that apply them take arrays of NumPy or PyTorch alike, which `xp`, one of the two modules, goes with: the
safety filter calls them for one robot, dreams for N. Where nothing is beyond a limit, nothing changes, bit by bit.
A place is (..., 9): position in metres and 6D rotation, as in a robot's state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from diwa_data.errors import DiwaError

if TYPE_CHECKING:
    from diwa_data.spec import ActionSpec, Spec


@dataclass(frozen=True)
class MotionLimits:
    """Bounds on the published target's place and motion, in the base frame. Speeds and their changes are norms."""

    workspace_low: tuple[float, float, float] = (0.20, -0.50, 0.0)
    """Lower corner of the box that the hand stays in, in metres."""
    workspace_high: tuple[float, float, float] = (0.80, 0.50, 0.80)
    """Upper corner of that box, in metres."""
    max_speed: float = 0.52
    """Greatest speed, in metres per second."""
    max_rotation_speed: float = 1.30
    """Greatest rotation speed, in radians per second."""
    max_acceleration: float = 4.0
    """Greatest acceleration, in metres per second squared."""
    max_rotation_acceleration: float = 12.0
    """Greatest rotation acceleration, in radians per second squared."""
    max_jerk: float = 200.0
    """Greatest jerk, in metres per second cubed."""
    max_rotation_jerk: float = 600.0
    """Greatest rotation jerk, in radians per second cubed."""
    max_lead_pos: float = 0.05
    """Greatest lead of the target over the measured position, in metres; the target brakes to stay within it."""
    max_lead_rot: float = 0.3
    """Greatest lead of the target over the measured rotation, in radians; the target brakes to stay within it."""
    max_tilt: float = 1.2
    """Greatest angle between the hand's approach axis (its z) and straight down, in radians; limits pitch and roll."""

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


def limited_goal(xp: Any, position: Any, rotation: Any, limits: MotionLimits) -> tuple[Any, Any]:
    """The nearest positions (..., 3) in the box, and matrices (..., 3, 3) tilted by no more than `max_tilt`."""
    bounds = zip(limits.workspace_low, limits.workspace_high, strict=True)
    position = xp.stack([position[..., axis].clip(*bound) for axis, bound in enumerate(bounds)], -1)
    x, y, z = _parts(rotation[..., 2])  # the approach axis; straight down it is (0, 0, -1)
    across = xp.hypot(x, y)
    lost = across < _TINY  # upside down no direction of the tilt is better than another
    x, y = xp.where(lost, 0.0, x / across.clip(_TINY)), xp.where(lost, 1.0, y / across.clip(_TINY))
    axis = xp.stack([y, -x, 0 * x], -1)
    return position, turn(xp, axis, (limits.max_tilt - xp.arctan2(across, -z)).clip(None, 0.0)) @ rotation


def near(xp: Any, position: Any, rotation: Any, hand: Any, hand_rotation: Any, limits: MotionLimits) -> tuple[Any, Any]:
    """Positions (..., 3) and matrices (..., 3, 3), drawn back to within one lead of another place."""
    turned = rotation @ hand_rotation.swapaxes(-1, -2)
    return drawn_back(xp, position, hand, limits.max_lead_pos), no_further(xp, turned, limits.max_lead_rot) @ rotation


def executed_action(xp: Any, action: Any, target: Any, hand: Any, spec: ActionSpec, tick: float, limits: Any) -> Any:
    """The part of actions (..., A), in executed form, that a robot within `limits` makes of them in one tick, seconds.

    `target` (..., 9) is where its target is, `hand` (..., 9) where it is measured: the target keeps to the speeds as
    norms, to box and tilt, and leads the hand by no more than it may.
    """
    place, hand_place = target[..., :3], hand[..., :3]
    rotation, hand_rotation = matrix_of(xp, target[..., 3:9]), matrix_of(xp, hand[..., 3:9])
    step, turned = spec.max_pos * action[..., :3], rotated(xp, rotation, spec.max_rot * action[..., 3:6], spec)
    if limits.max_speed * tick < math.sqrt(3) * spec.max_pos:
        step = drawn_back(xp, step, 0.0, limits.max_speed * tick)
    if limits.max_rotation_speed * tick < math.sqrt(3) * spec.max_rot:
        further = turned @ rotation.swapaxes(-1, -2)
        turned = no_further(xp, further, limits.max_rotation_speed * tick) @ turned
    goal, turned = limited_goal(xp, place + step, turned, limits)
    goal, turned = near(xp, goal, turned, hand_place, hand_rotation, limits)
    moved = (goal - place) / spec.max_pos, angles_between(xp, rotation, turned, spec) / spec.max_rot
    return xp.concatenate([*(part.clip(-1.0, 1.0) for part in moved), action[..., 6:]], -1)


_TINY = 1e-12


def drawn_back(xp: Any, position: Any, origin: Any, most: float) -> Any:
    """Positions (..., 3) drawn straight back to within `most` of `origin`."""
    ahead = position - origin
    metres = xp.sqrt((ahead * ahead).sum(-1))[..., None]
    return position - ahead * (1.0 - most / metres.clip(_TINY)).clip(0.0)


def no_further(xp: Any, turned: Any, most: float) -> Any:
    """The rotations (..., 3, 3) that take back what rotations (..., 3, 3) turn beyond `most` radians."""
    difference = turned - turned.swapaxes(-1, -2)
    axis = xp.stack([difference[..., 2, 1], difference[..., 0, 2], difference[..., 1, 0]], -1)
    length = xp.sqrt((axis * axis).sum(-1))  # 2 sin of the angle
    angle = xp.arctan2(length, turned[..., 0, 0] + turned[..., 1, 1] + turned[..., 2, 2] - 1.0)
    return turn(xp, axis / length.clip(_TINY)[..., None], (most - angle).clip(None, 0.0))


def turn(xp: Any, axis: Any, angle: Any) -> Any:
    """The rotations (..., 3, 3) about unit axes (..., 3) by angles (...), rad (Rodrigues)."""
    (x, y, z), cos, sin = _parts(axis), xp.cos(angle), xp.sin(angle)
    rest = 1.0 - cos
    rx, ry, rz, sx, sy, sz = rest * x, rest * y, rest * z, sin * x, sin * y, sin * z
    rows = cos + rx * x, rx * y - sz, rx * z + sy, ry * x + sz, cos + ry * y, ry * z - sx, rz * x - sy, rz * y + sx
    return _square(xp, *rows, cos + rz * z)


def rotated(xp: Any, rotation: Any, angles: Any, spec: ActionSpec) -> Any:
    """Matrices (..., 3, 3) turned by the Euler angles (..., 3), rad, of an action: as `pose.integrate` does."""
    if spec.rotation == "euler_difference":
        return by_angles(xp, angles_of(xp, rotation) + angles)
    return by_angles(xp, angles) @ rotation


def angles_between(xp: Any, rotation: Any, turned: Any, spec: ActionSpec) -> Any:
    """The inverse: the Euler angles (..., 3), rad, of the action that leads from one matrix to the other."""
    if spec.rotation == "euler_difference":
        return (angles_of(xp, turned) - angles_of(xp, rotation) + math.pi) % (2 * math.pi) - math.pi
    return angles_of(xp, turned @ rotation.swapaxes(-1, -2))


def by_angles(xp: Any, angles: Any) -> Any:
    """Extrinsic XYZ Euler angles (..., 3), rad -> (..., 3, 3)."""
    (a, b, c), (d, e, f) = (_parts(wave) for wave in (xp.cos(angles), xp.sin(angles)))
    de, ae = d * e, a * e
    return _square(xp, b * c, de * c - a * f, ae * c + d * f, b * f, de * f + a * c, ae * f - d * c, -e, d * b, a * b)


def angles_of(xp: Any, rotation: Any) -> Any:
    """Matrices (..., 3, 3) -> extrinsic XYZ Euler angles (..., 3), rad."""
    low, side, end = _parts(rotation[..., 2, :])
    first, middle = xp.arctan2(side, end), xp.arctan2(-low, xp.hypot(side, end))
    return xp.stack([first, middle, xp.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])], -1)


def matrix_of(xp: Any, columns: Any) -> Any:
    """6D rotations (..., 6), of whatever length and angle -> the nearest that keep the first column (..., 3, 3)."""
    first, second = columns[..., :3], columns[..., 3:]
    first = first / xp.sqrt((first * first).sum(-1)).clip(_TINY)[..., None]
    second = second - (first * second).sum(-1)[..., None] * first
    second = second / xp.sqrt((second * second).sum(-1)).clip(_TINY)[..., None]
    (a, b, c), (d, e, f) = _parts(first), _parts(second)
    return xp.stack([first, second, xp.stack([b * f - c * e, c * d - a * f, a * e - b * d], -1)], -1)


def columns_of(xp: Any, rotation: Any) -> Any:
    """Matrices (..., 3, 3) -> 6D rotations (..., 6): their first two columns."""
    return xp.concatenate([rotation[..., 0], rotation[..., 1]], -1)


def _parts(vectors: Any) -> tuple[Any, Any, Any]:
    return vectors[..., 0], vectors[..., 1], vectors[..., 2]


def _square(xp: Any, *numbers: Any) -> Any:
    """Nine (...) -> (..., 3, 3), row by row."""
    return xp.stack(numbers, -1).reshape(*numbers[0].shape, 3, 3)
