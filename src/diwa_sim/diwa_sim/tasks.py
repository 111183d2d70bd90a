"""Task oracles with CALVIN's meaning, over the scene state at the reset and now.

They serve evaluation and DPPO, never DiWA's training.
"""

from __future__ import annotations

import numpy as np

from diwa_data.skills import require_skill
from diwa_sim.starts import DRAWER_OPEN, SLIDER_LEFT

SCENE_STATE = (
    "drawer",
    "slider",
    "lever",
    "button",
    "bulb",
    "led",
    "cube_x",
    "cube_y",
    "cube_z",
    "cube_qx",
    "cube_qy",
    "cube_qz",
    "cube_qw",
)
"""Names of the scene state (13,): metres, rad (lever), 0 or 1 (lights), quaternion x y z w. Drawer grows when it
opens, slider to the left, lever away from the robot, button when pressed."""

DRAWER_DISTANCE = 0.12
SLIDER_DISTANCE = 0.15
"""Metres that count as moved, relative to the reset."""

_TRAVEL = {"drawer": DRAWER_OPEN, "slider": SLIDER_LEFT}
_MOVES = {
    "open_drawer": ("drawer", DRAWER_DISTANCE),
    "close_drawer": ("drawer", -DRAWER_DISTANCE),
    "move_slider_left": ("slider", SLIDER_DISTANCE),
    "move_slider_right": ("slider", -SLIDER_DISTANCE),
}
_SWITCHES = {
    "turn_on_lightbulb": ("bulb", 1.0),
    "turn_off_lightbulb": ("bulb", 0.0),
    "turn_on_led": ("led", 1.0),
    "turn_off_led": ("led", 0.0),
}


def succeeded(skill: str, start: np.ndarray, now: np.ndarray) -> bool:
    """Whether `skill` is done, given the scene states (13,) at the reset and now."""
    require_skill(skill)
    if skill in _MOVES:
        name, distance = _MOVES[skill]
        i = SCENE_STATE.index(name)
        return bool((now[i] - start[i]) * np.sign(distance) >= abs(distance))
    name, value = _SWITCHES[skill]
    i = SCENE_STATE.index(name)
    return bool(start[i] != value and now[i] == value)


def is_done(skill: str, now: np.ndarray) -> bool:
    """Whether the scene state (13,) is one that `skill` leads to: had it begun from the far end, it would be done."""
    before = now.copy()
    if require_skill(skill) in _MOVES:
        name, distance = _MOVES[skill]
        before[SCENE_STATE.index(name)] = 0.0 if distance > 0 else _TRAVEL[name]
    else:
        name, value = _SWITCHES[skill]
        before[SCENE_STATE.index(name)] = 1.0 - value
    return succeeded(skill, before, now)
