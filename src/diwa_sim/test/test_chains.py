"""Sequences that the scene allows, and starts from which they are possible."""

import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_sim.chains import chain_start, draw_chain
from diwa_sim.starts import StartConfig
from diwa_sim.tasks import PAPER_TASKS, TASKS, sample_start

THINGS = {"drawer": 0.08, "slider": 0.11, "bulb": 0.5, "led": 0.5}
"""Quantity -> the middle of its travel."""


def test_every_skill_of_a_chain_begins_where_those_before_it_left_its_thing():
    first = set()
    for seed in range(200):
        chain = draw_chain(seed, PAPER_TASKS, 5, StartConfig())
        assert len(set(chain.skills)) == 5
        far = {name: float(getattr(chain.start, name)) > middle for name, middle in THINGS.items()}
        for skill in chain.skills:
            goal = TASKS[skill].goal
            assert far[goal.quantity] == (goal.before > 0), f"{skill} in {chain.skills} of seed {seed}"
            far[goal.quantity] = goal.change > 0
        first.add(chain.skills[0])
    assert first == set(PAPER_TASKS)


def test_a_seed_is_a_chain():
    one, same, other = (draw_chain(seed, PAPER_TASKS, 5, StartConfig()) for seed in (3, 3, 4))
    assert (one.skills, one.start.drawer) == (same.skills, same.start.drawer)
    np.testing.assert_array_equal(one.start.hand.position, same.start.hand.position)
    assert one.start.drawer != other.start.drawer
    assert len(draw_chain(0, PAPER_TASKS, 8, StartConfig()).skills) == 8


@pytest.mark.parametrize(
    ("skills", "length", "message"),
    [
        (PAPER_TASKS, 9, "no 9 different skills of open_drawer"),
        (("open_drawer",), 2, "no 2 different skills of open_drawer can follow each other: choose fewer"),
        (("open_drawer", "lift_cube"), 2, "'lift_cube' cannot be part of a sequence"),
    ],
)
def test_what_cannot_follow_each_other_is_refused(skills, length, message):
    with pytest.raises(DiwaError, match=message):
        draw_chain(0, skills, length, StartConfig())


def test_a_start_is_what_the_first_skill_of_each_thing_needs():
    for seed in range(20):
        start = chain_start(["close_drawer", "turn_on_led", "open_drawer", "turn_off_lightbulb"], seed, StartConfig())
        assert (start.drawer > 0.08, start.led, start.bulb) == (True, False, True)
    one, alone = (
        start(skill, 5, StartConfig())
        for start, skill in ((chain_start, ["turn_on_led"]), (sample_start, "turn_on_led"))
    )
    np.testing.assert_array_equal(one.hand.position, alone.hand.position)
    assert (one.drawer, one.lever, one.led) == (alone.drawer, alone.lever, alone.led)
    assert chain_start(["open_drawer", "pick_cup"], 0, StartConfig()) is None
