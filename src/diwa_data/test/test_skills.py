import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_data.skills import GOALS, SKILLS, require_skill


def test_margins_are_signed_distances_beyond_the_least_change() -> None:
    drawer = np.array([0.0, 0.12, 0.16])
    np.testing.assert_allclose(GOALS["open_drawer"].margin(drawer), [-0.12, 0.0, 0.04])
    np.testing.assert_allclose(GOALS["close_drawer"].margin(drawer), [0.04, -0.08, -0.12])
    np.testing.assert_allclose(GOALS["open_drawer"].margin(drawer, np.array([0.02, 0.0, 0.1])), [-0.14, 0.0, -0.06])
    assert GOALS["move_slider_right"].margin(0.05) == pytest.approx(0.02)
    assert GOALS["turn_off_led"].margin(np.array([0.0, 1.0])).tolist() == [0.5, -0.5]


def test_every_skill_has_a_goal_and_others_are_refused() -> None:
    assert len(SKILLS) == 8
    assert SKILLS[0] == require_skill("open_drawer")
    with pytest.raises(DiwaError, match="unknown skill 'fly'; choose one of open_drawer, close_drawer"):
        require_skill("fly")
