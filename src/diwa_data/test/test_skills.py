import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_data.calvin.tasks import GOALS, require_task
from diwa_data.errors import DiwaError
from diwa_data.skills import RESERVED, Goal, recorded_goal, skill_name


def test_margins_are_signed_distances_beyond_the_least_change() -> None:
    drawer = np.array([0.0, 0.12, 0.16])
    np.testing.assert_allclose(GOALS["open_drawer"].margin(drawer), [-0.12, 0.0, 0.04])
    np.testing.assert_allclose(Goal("drawer", 0.16, -0.12).margin(drawer), [0.04, -0.08, -0.12])
    np.testing.assert_allclose(GOALS["open_drawer"].margin(drawer, np.array([0.02, 0.0, 0.1])), [-0.14, 0.0, -0.06])
    assert GOALS["move_slider_right"].margin(0.11) == pytest.approx(0.02)
    assert GOALS["turn_off_led"].margin(np.array([0.0, 1.0])).tolist() == [0.5, -0.5]


@given(st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True).filter(lambda name: name not in RESERVED))
def test_any_small_name_names_a_skill(name: str) -> None:
    assert skill_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "Pick", "pick cup", "pick-cup", "../pick", "a/b", "9lives", "_x", "a" * 41, "tür", "pick\n", None, 3, "play"],
)
def test_other_names_are_refused_in_one_line(name: object) -> None:
    with pytest.raises(DiwaError, match="cannot name a skill: ") as refused:
        skill_name(name)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 220


def test_calvins_tasks_are_listed_to_who_names_another() -> None:
    assert require_task("open_drawer") == "open_drawer"
    with pytest.raises(DiwaError, match=r"'open_door'; choose one of open_drawer, .*\. Did you mean 'open_drawer'\?"):
        require_task("open_door")
    with pytest.raises(DiwaError, match=r"'xyz'; choose one of .*, turn_off_led$"):
        require_task("xyz")


def test_a_goal_comes_back_from_the_labels_of_its_skill_alone() -> None:
    goal = Goal("cup_height", 0.0, 0.05)
    labels = {"skill": "pick_cup", **goal.label("pick_cup")}
    assert recorded_goal(labels, "pick_cup", "demos.h5") == goal
    assert recorded_goal(labels, "drop_cup", "demos.h5") is None
    assert recorded_goal({"goal": "up"}, "pick_cup", "demos.h5") is None
    with pytest.raises(DiwaError, match=r"demos\.h5: goal: unknown key 'by'"):
        recorded_goal({"goal": {"skill": "pick_cup", "by": 1.0}}, "pick_cup", "demos.h5")
