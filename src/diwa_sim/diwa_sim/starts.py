"""Start states of table and hand, drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose

DRAWER_OPEN = 0.16
SLIDER_LEFT = 0.22
"""Ends of travel of drawer and slider, metres; the other ends are 0."""
LEVER_ON = 0.5
"""End of the lever's travel, rad; the other end is -LEVER_ON."""
HOME_POSITION = np.array([0.42, 0.0, 0.30])
"""Centre of the hand's start positions, metres."""
GRIPPER_DOWN = Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))
"""Hand frame with its fingers pointing down and its x axis forward."""


@dataclass(frozen=True)
class StartConfig:
    """Spread of the hand's start. Wider starts make a skill harder to imitate."""

    spread_pos: tuple[float, float, float] = (0.14, 0.26, 0.12)
    """Half widths of the box of hand positions along x, y and z, in metres."""
    spread_yaw: float = 0.5
    """Largest turn about the vertical, in radians."""
    spread_tilt: float = 0.12
    """Largest tilt about each horizontal axis, in radians."""


@dataclass(frozen=True, eq=False)
class Start:
    """One start state of scene and hand."""

    drawer: float
    slider: float
    lever: float
    led: bool
    cube: np.ndarray
    """x, y in metres, yaw in rad; on the table."""
    hand: Pose
    objects: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The same three numbers of further objects, by name; those that are not named lie anywhere."""

    @property
    def bulb(self) -> bool:
        """The lever's side decides."""
        return self.lever > 0


def any_start(
    rng: np.random.Generator,
    config: StartConfig,
    drawer: bool | None = None,
    slider: bool | None = None,
    bulb: bool | None = None,
    led: bool | None = None,
) -> Start:
    """A start with everything at random, except for what is given.

    `drawer` is near its open end (True) or its closed one (False), `slider` near its left or right end, the lights are
    on or off.
    """
    drawer_at, slider_at = _two_ends(rng, DRAWER_OPEN), _two_ends(rng, SLIDER_LEFT)
    lever_at, led_on = rng.uniform(0.8, 1.0) * LEVER_ON * (1 if rng.random() < 0.5 else -1), rng.random() < 0.5
    if drawer is not None:
        drawer_at = _near_end(rng, DRAWER_OPEN, drawer)
    if slider is not None:
        slider_at = _near_end(rng, SLIDER_LEFT, slider)
    if bulb is not None:
        lever_at = abs(lever_at) * (1 if bulb else -1)
    if led is not None:
        led_on = led
    cube = lying(rng, (0.29, 0.42), (-0.19, -0.02), np.pi / 4)
    return Start(drawer_at, slider_at, lever_at, bool(led_on), cube, _hand(rng, config))


def lying(
    rng: np.random.Generator, x: tuple[float, float], y: tuple[float, float], yaw: float = np.pi / 4
) -> np.ndarray:
    """A place on the table for an object (3,): x and y between the given ends, metres, turned at most by `yaw`, rad."""
    return np.array([rng.uniform(*x), rng.uniform(*y), rng.uniform(-yaw, yaw)])


def _hand(rng: np.random.Generator, config: StartConfig) -> Pose:
    position = HOME_POSITION + rng.uniform(-1, 1, 3) * config.spread_pos
    tilt, yaw = rng.uniform(-1, 1, 2) * config.spread_tilt, rng.uniform(-1, 1) * config.spread_yaw
    return Pose(position, Rotation.from_euler("xyz", [*tilt, yaw]) * GRIPPER_DOWN)


def _near_end(rng: np.random.Generator, travel: float, far: bool) -> float:
    """Within 15 % of one end of the travel."""
    offset = rng.uniform(0, 0.15) * travel
    return travel - offset if far else offset


def _two_ends(rng: np.random.Generator, travel: float) -> float:
    """Near either end, or (one in five) anywhere."""
    if rng.random() < 0.2:
        return rng.uniform(0, travel)
    return _near_end(rng, travel, bool(rng.random() < 0.5))
