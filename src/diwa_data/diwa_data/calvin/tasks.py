"""The tasks of CALVIN whose success its scene state tells: their names and goals on CALVIN's table."""

from diwa_data.errors import unknown
from diwa_data.skills import Goal

DRAWER_OPEN = 0.22
SLIDER_LEFT = 0.28
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
"""Task -> its goal, with CALVIN's own distances."""


def require_task(name: str) -> str:
    """`name`, if it is one of these; otherwise an error that lists them."""
    if name not in GOALS:
        raise unknown("task of CALVIN's", name, GOALS)
    return name
