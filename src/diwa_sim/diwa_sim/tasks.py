"""Task oracles with CALVIN's meaning, over the scene state at the reset and now.

They serve evaluation and DPPO, never DiWA's training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError, unknown
from diwa_data.pose import Pose
from diwa_data.skills import Goal

SCENE_STATE = (
    "drawer", "slider", "lever", "button", "bulb", "led",
    "cube_x", "cube_y", "cube_z", "cube_qx", "cube_qy", "cube_qz", "cube_qw",
)  # fmt: skip
"""Names of the scene state (13,): metres, rad (lever), 0 or 1 (lights), quaternion x y z w. Drawer grows when it
opens, slider to the left, lever away from the robot, button when pressed."""


DRAWER_OPEN = 0.16
SLIDER_LEFT = 0.22
"""Ends of travel of drawer and slider, metres; the other ends are 0."""

GOALS = {
    "open_drawer": Goal("drawer", 0.0, 0.12),
    "close_drawer": Goal("drawer", DRAWER_OPEN, -0.12),
    "move_slider_left": Goal("slider", 0.0, 0.15),
    "move_slider_right": Goal("slider", SLIDER_LEFT, -0.15),
    "turn_on_lightbulb": Goal("bulb", 0.0, 0.5),
    "turn_off_lightbulb": Goal("bulb", 1.0, -0.5),
    "turn_on_led": Goal("led", 0.0, 0.5),
    "turn_off_led": Goal("led", 1.0, -0.5),
}
"""Task -> its goal, with CALVIN's distances."""


def require_task(name: str) -> str:
    """`name`, if the simulator has a task of that name; otherwise an error that lists its tasks."""
    if name not in GOALS:
        raise unknown("simulated task", name, GOALS)
    return name


def goal_labels(skill: str) -> dict[str, Any]:
    """Labels that say when `skill` is done, for the success classifier; none for play and for skills of others."""
    return GOALS[skill].label(skill) if skill in GOALS else {}


def succeeded(skill: str, start: np.ndarray, now: np.ndarray) -> bool:
    """Whether `skill` is done, given the scene states (13,) at the reset and now."""
    return bool(GOALS[require_task(skill)].achieved(SCENE_STATE, start, now))


def is_done(skill: str, now: np.ndarray) -> bool:
    """Whether the scene state (13,) is one that `skill` leads to: had it begun from the far end, it would be done."""
    goal = GOALS[require_task(skill)]
    return bool(goal.margin(now[SCENE_STATE.index(goal.quantity)]) >= 0)


LEVER_ON = 0.5
"""End of the lever's travel, rad; the other end is -LEVER_ON."""
HOME_POSITION = np.array([0.42, 0.0, 0.30])
"""Centre of the hand's start positions, metres."""


@dataclass(frozen=True)
class StartConfig:
    """How far the hand's start varies. Wider starts make a skill harder to imitate."""

    spread_pos: tuple[float, float, float] = (0.14, 0.26, 0.12)
    """Half widths of the box of hand positions along x, y, z; metres."""
    spread_yaw: float = 0.5
    """Largest turn about the vertical, rad."""
    spread_tilt: float = 0.12
    """Largest tilt about each horizontal axis, rad."""


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

    @property
    def bulb(self) -> bool:
        """The lever's side decides."""
        return self.lever > 0


def sample_start(skill: str, seed: int, config: StartConfig) -> Start:
    """A start for `skill`, or for play when it is empty; same arguments, same start."""
    if seed < 0:
        raise DiwaError(f"seed {seed} must not be negative")
    rng = np.random.default_rng((seed, 1 + list(GOALS).index(require_task(skill)) if skill else 0))
    drawer, slider = _two_ends(rng, DRAWER_OPEN), _two_ends(rng, SLIDER_LEFT)
    lever, led = rng.uniform(0.8, 1.0) * LEVER_ON * (1 if rng.random() < 0.5 else -1), rng.random() < 0.5
    if skill in ("open_drawer", "close_drawer"):
        drawer = _near_end(rng, DRAWER_OPEN, skill == "close_drawer")
    elif skill in ("move_slider_left", "move_slider_right"):
        slider = _near_end(rng, SLIDER_LEFT, skill == "move_slider_right")
    elif skill in ("turn_on_lightbulb", "turn_off_lightbulb"):
        lever = abs(lever) * (1 if skill == "turn_off_lightbulb" else -1)
    elif skill in ("turn_on_led", "turn_off_led"):
        led = skill == "turn_off_led"
    cube = np.array([rng.uniform(0.29, 0.42), rng.uniform(-0.19, -0.02), rng.uniform(-np.pi / 4, np.pi / 4)])
    return Start(drawer, slider, lever, bool(led), cube, _hand(rng, config))


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


GRIPPER_DOWN = Rotation.from_matrix(np.diag([1.0, -1.0, -1.0]))
"""Hand frame with its fingers pointing down and its x axis forward."""
