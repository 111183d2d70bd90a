"""Task oracles with CALVIN's meaning, over the scene state at the reset and now.

They serve evaluation and DPPO, never DiWA's training.
"""

from __future__ import annotations

import numpy as np

from diwa_data.skills import GOALS, require_skill

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


def succeeded(skill: str, start: np.ndarray, now: np.ndarray) -> bool:
    """Whether `skill` is done, given the scene states (13,) at the reset and now."""
    return bool(GOALS[require_skill(skill)].achieved(SCENE_STATE, start, now))


def is_done(skill: str, now: np.ndarray) -> bool:
    """Whether the scene state (13,) is one that `skill` leads to: had it begun from the far end, it would be done."""
    goal = GOALS[require_skill(skill)]
    return bool(goal.margin(now[SCENE_STATE.index(goal.quantity)]) >= 0)
