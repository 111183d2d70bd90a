"""The eight skills by name; a skill is a value, never a file of its own."""

from diwa_data.errors import DiwaError

SKILLS = (
    "open_drawer",
    "close_drawer",
    "move_slider_left",
    "move_slider_right",
    "turn_on_lightbulb",
    "turn_off_lightbulb",
    "turn_on_led",
    "turn_off_led",
)


def require_skill(name: str) -> str:
    """`name`, if it is a skill; otherwise an error that lists them."""
    if name not in SKILLS:
        raise DiwaError(f"unknown skill {name!r}; choose one of {', '.join(SKILLS)}")
    return name
