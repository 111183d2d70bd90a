import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_sim.tasks import PAPER_TASKS, SCENE_STATE, is_done, succeeded


def state(**values: float) -> np.ndarray:
    """A scene state that is zero but for `values`."""
    return np.array([values.get(name, 0.0) for name in SCENE_STATE])


@pytest.mark.parametrize(
    ("skill", "start", "done", "not_yet"),
    [
        ("open_drawer", {"drawer": 0.01}, {"drawer": 0.1301}, {"drawer": 0.1299}),
        ("close_drawer", {"drawer": 0.15}, {"drawer": 0.0299}, {"drawer": 0.0301}),
        ("move_slider_left", {"slider": 0.02}, {"slider": 0.1701}, {"slider": 0.1699}),
        ("move_slider_right", {"slider": 0.2}, {"slider": 0.0499}, {"slider": 0.0501}),
        ("turn_on_lightbulb", {"bulb": 0}, {"bulb": 1}, {"lever": 0.5}),
        ("turn_off_lightbulb", {"bulb": 1}, {"bulb": 0}, {"bulb": 1, "lever": -0.1}),
        ("turn_on_led", {"led": 0}, {"led": 1}, {"button": 0.009}),
        ("turn_off_led", {"led": 1}, {"led": 0}, {"led": 1}),
    ],
)
def test_oracles_judge_the_change_since_the_reset(skill: str, start: dict, done: dict, not_yet: dict) -> None:
    assert succeeded(skill, state(**start), state(**done))
    assert not succeeded(skill, state(**start), state(**not_yet))
    assert not succeeded(skill, state(**start), state(**start))


def test_the_wrong_direction_is_no_success() -> None:
    assert not succeeded("open_drawer", state(drawer=0.16), state(drawer=0.0))
    assert not succeeded("move_slider_right", state(slider=0.0), state(slider=0.2))


def test_a_light_that_was_on_already_is_no_success() -> None:
    assert not succeeded("turn_on_led", state(led=1), state(led=1))


def test_unknown_skill_is_refused() -> None:
    with pytest.raises(DiwaError, match="open_fridge"):
        succeeded("open_fridge", state(), state())


def test_a_state_is_done_if_the_skill_leads_there_from_the_far_end() -> None:
    one, other = state(drawer=0.121, slider=0.151, bulb=1, led=1), state(drawer=0.039, slider=0.069)
    led_to_one = ["open_drawer", "move_slider_left", "turn_on_lightbulb", "turn_on_led"]
    assert [skill for skill in PAPER_TASKS if is_done(skill, one, one)] == led_to_one
    assert [skill for skill in PAPER_TASKS if not is_done(skill, other, other)] == led_to_one
    assert not is_done("open_drawer", state(), state(drawer=0.119))
    assert not is_done("close_drawer", state(), state(drawer=0.041))
