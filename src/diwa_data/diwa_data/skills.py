"""The eight skills by name, and what each does to the scene; a skill is a value, never a file of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diwa_data.errors import unknown

DRAWER_OPEN = 0.16
SLIDER_LEFT = 0.22
"""Ends of travel of drawer and slider, metres; the other ends are 0."""
CALVIN_DRAWER_OPEN = 0.22
CALVIN_SLIDER_LEFT = 0.28
"""The same of CALVIN's table."""


@dataclass(frozen=True)
class Goal:
    """The change of one number of the scene state that makes a skill done."""

    quantity: str
    """Its name in `spec.scene_state`."""
    before: float
    """Its value at the far end, from which the skill leads away: metres, or 0 and 1 for lights."""
    change: float
    """Least change that counts, signed. Of a light it is half: true ones are 0 or 1, decoded ones between."""

    def margin(self, now: Any, start: Any = None) -> Any:
        """By how much the change from `start` to `now` exceeds the least one; >= 0 is done.

        Numbers, arrays or tensors of the quantity, of any shape. Without `start` the skill began at the far end.
        """
        moved = now - (self.before if start is None else start)
        return (moved if self.change > 0 else -moved) - abs(self.change)

    def achieved(self, names: Sequence[str], start: np.ndarray, now: np.ndarray) -> np.ndarray:
        """True where scene states `now` (..., N) are done, having begun at `start` (N,); `names` are those of the N."""
        i = names.index(self.quantity)
        return self.margin(now[..., i], start[i]) >= 0


def _goals(drawer: float, slider: float) -> dict[str, Goal]:
    """Skill -> its goal, with CALVIN's distances, on a table whose drawer and slider travel this far, metres."""
    return {
        "open_drawer": Goal("drawer", 0.0, 0.12),
        "close_drawer": Goal("drawer", drawer, -0.12),
        "move_slider_left": Goal("slider", 0.0, 0.15),
        "move_slider_right": Goal("slider", slider, -0.15),
        "turn_on_lightbulb": Goal("bulb", 0.0, 0.5),
        "turn_off_lightbulb": Goal("bulb", 1.0, -0.5),
        "turn_on_led": Goal("led", 0.0, 0.5),
        "turn_off_led": Goal("led", 1.0, -0.5),
    }


GOALS = _goals(DRAWER_OPEN, SLIDER_LEFT)
"""Skill -> its goal on our table."""

_CALVIN_GOALS = _goals(CALVIN_DRAWER_OPEN, CALVIN_SLIDER_LEFT)

SKILLS = tuple(GOALS)


def require_skill(name: str) -> str:
    """`name`, if it is a skill; otherwise an error that lists them."""
    if name not in SKILLS:
        raise unknown("skill", name, SKILLS)
    return name


def goal_of(skill: str, robot: str) -> Goal:
    """The goal of `skill` on the table of `robot` (`spec.robot`). Raises `DiwaError` for an unknown skill."""
    return (_CALVIN_GOALS if robot == "calvin" else GOALS)[require_skill(skill)]
