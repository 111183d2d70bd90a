"""CALVIN's eight tasks as the scripted operator does them, and where in scene D the hand and the blocks may be."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from diwa_data.calvin.tasks import GOALS
from diwa_data.spec import CALVIN
from diwa_sim.calvin.starts import BLOCKS, any_start
from diwa_sim.playground import Box, Playground
from diwa_sim.tasks import Task
from diwa_sim.techniques import Stroke

_SHUT = {
    "drawer_handle": (0.18, -0.21, 0.36),
    "slider_handle": (0.04, -0.005, 0.545),
    "switch_bar": (0.30, 0.02, 0.527),
    "button_top": (-0.12, -0.12, 0.484),
}
"""Where points of the furniture are while all joints are at 0, metres: middle of the gap behind the drawer's bar, lower
part of the slider's arch, middle of the switch's bar, top of the button."""
_MOVES = {
    "drawer_handle": ("drawer", (0.0, -1.0, 0.0)),
    "slider_handle": ("slider", (-1.0, 0.0, 0.0)),
    "switch_bar": ("switch", (0.0, 0.5, 0.866)),
    "button_top": ("button", (0.0, 0.0, -1.0)),
}
"""Joint that moves each point, and which way."""


def points(scene: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> position (3,) of points of the furniture at a scene state (24,)."""
    return {
        name: np.array(_SHUT[name]) + scene[CALVIN.scene_state.index(joint)] * np.array(way)
        for name, (joint, way) in _MOVES.items()
    }


_LEANING: dict[str, Any] = {"yaw": 0.7 - np.pi / 2, "tilt": (0.24, -0.32), "misses": 0.0}
"""How the hand is held at the switch, which a hand that hangs straight down does not reach: it faces away from the base
of the arm, its fingers 0.4 rad outwards. Much higher up it does not reach either."""
_stroke = partial(Stroke, pace=1.4, misses=0.3)


def _task(name: str, technique: Stroke, text: str) -> Task:
    return Task(name, GOALS[name], partial(any_start, name), technique, text)


_OURS = (
    _task(
        "open_drawer",
        _stroke("drawer", "drawer_handle", (0, 0, 0), (0, -0.26, 0), (0, 0.19)),
        "pull the drawer open",
    ),
    _task(
        "close_drawer",
        _stroke("drawer", "drawer_handle", (0, -0.085, 0), (0, 0.28, 0), (0.22, 0.03)),
        "push the drawer shut",
    ),
    _task(
        "move_slider_left",
        _stroke("slider", "slider_handle", (0.055, 0, 0), (-0.34, 0, 0), (0, 0.24), pace=1.8, misses=0.15),
        "push the sliding door to the left",
    ),
    _task(
        "move_slider_right",
        _stroke(
            "slider", "slider_handle", (-0.055, 0, 0), (0.34, 0, 0), (0.28, 0.04), above=0.09, pace=1.8, misses=0.15
        ),
        "push the sliding door to the right",
    ),
    _task(
        "turn_on_lightbulb",
        _stroke("switch", "switch_bar", (0, -0.045, -0.04), (0, 0.10, 0.09), (0, 0.07), care=0.6, **_LEANING),
        "push the switch up",
    ),
    _task(
        "turn_off_lightbulb",
        _stroke("switch", "switch_bar", (0, 0, 0.03), (0, -0.06, -0.09), (0.088, 0.018), above=-0.04, **_LEANING),
        "push the switch down",
    ),
    _task(
        "turn_on_led",
        _stroke("led", "button_top", (0, 0, 0.02), (0, 0, -0.06), (0, 1)),
        "press the button while the LED is off",
    ),
    _task(
        "turn_off_led",
        _stroke("led", "button_top", (0, 0, 0.02), (0, 0, -0.06), (1, 0)),
        "press the button while the LED is on",
    ),
)

PLAYGROUND = Playground(
    {task.name: task for task in _OURS},
    tuple(GOALS),
    BLOCKS,
    reach=Box((-0.05, -0.17, 0.43), (0.27, -0.05, 0.50)),
    poke=Box((-0.25, -0.30, 0.58), (0.22, -0.06, 0.64)),
    roam=Box((-0.20, -0.32, 0.50), (0.20, -0.06, 0.66)),
    carry=Box((-0.10, -0.22, 0.50), (0.20, -0.06, 0.62)),
    floor=0.44,
    yaw=np.pi / 2,
)
"""CALVIN's scene D."""
