"""How the scripted operator does the eight skills: come in from above, go down, stroke, mark the success."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from diwa_data.skills import DRAWER_OPEN, SLIDER_LEFT, require_skill
from diwa_sim.operator.operator import Habits, Mark, Reach, Scene, Step, Wait, up
from diwa_sim.tasks import LEVER_ON, SCENE_STATE

MISS_PROBABILITY = 0.6
"""Share of demonstrations in which the first try comes in too high, often misses, and is repeated."""
SLIP_LOW, SLIP_HIGH = (-0.02, -0.02, 0.055), (0.02, 0.02, 0.1)
"""Error of the aim of such a try, metres: from on top of the handle to above it."""
BLIND_PROBABILITY = 0.5
"""Share of those in which the operator makes the whole stroke before looking."""

NOTICED = 0.1
"""Metres of a stroke that moved nothing after which the operator notices."""


@dataclass(frozen=True)
class Technique:
    """Where to touch the furniture and how to move it."""

    part: str
    """The number of the scene state that it changes."""
    site: str
    """The furniture's point that the operator looks at."""
    entry: tuple[float, float, float]
    """Where the fingertips go down, from the site; metres."""
    stroke: tuple[float, float, float]
    """How far the fingertips move from there at most; metres."""
    aim: tuple[float, float]
    """Value of `part` at the start and at the end of a full stroke; the operator is content 4 % before the end."""

    def seen_done(self, value: float) -> bool:
        """The operator looks at `part` and is content."""
        begin, end = self.aim
        return (value - begin) / (end - begin) >= 0.96


TECHNIQUES = {
    "open_drawer": Technique("drawer", "drawer_handle", (0.07, 0, -0.018), (-0.25, 0, 0), (0, DRAWER_OPEN)),
    "close_drawer": Technique("drawer", "drawer_handle", (-0.055, 0, -0.012), (0.26, 0, 0), (DRAWER_OPEN, 0)),
    "move_slider_left": Technique("slider", "slider_knob", (-0.008, -0.065, 0.006), (0, 0.34, 0), (0, SLIDER_LEFT)),
    "move_slider_right": Technique("slider", "slider_knob", (-0.008, 0.065, 0.006), (0, -0.34, 0), (SLIDER_LEFT, 0)),
    "turn_on_lightbulb": Technique("lever", "lever_tip", (-0.055, 0, 0), (0.2, 0, 0), (-LEVER_ON, LEVER_ON)),
    "turn_off_lightbulb": Technique("lever", "lever_tip", (0.055, 0, 0), (-0.2, 0, 0), (LEVER_ON, -LEVER_ON)),
    "turn_on_led": Technique("led", "button_top", (0, 0, 0.02), (0, 0, -0.05), (0, 1)),
    "turn_off_led": Technique("led", "button_top", (0, 0, 0.02), (0, 0, -0.05), (1, 0)),
}


def look(sim: Scene, part: str) -> float:
    """One number of the scene state, as the operator sees it."""
    return float(sim.scene_state()[SCENE_STATE.index(part)])


def demonstration(sim: Scene, skill: str, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Do `skill`, mark the success when it is seen and hold still; ends without a mark after three failed tries."""
    technique = TECHNIQUES[require_skill(skill)]
    missed = rng.random() < MISS_PROBABILITY
    for attempt in range(3):
        slip, blind = np.zeros(3), False
        if missed and attempt == 0:
            slip = rng.uniform(SLIP_LOW, SLIP_HIGH)
            blind = bool(rng.random() < BLIND_PROBABILITY)
        yield from apply(sim, technique, habits, slip, blind=blind)
        if technique.seen_done(look(sim, technique.part)):
            yield Wait(habits.reaction)
            yield Mark("success")
            yield Wait(habits.hold)
            return
        yield from lift(sim, habits)


def apply(
    sim: Scene,
    technique: Technique,
    habits: Habits,
    slip: np.ndarray,
    share: float = 1.0,
    closed: bool = True,
    pace: float = 1.0,
    blind: bool = False,
) -> Iterator[Step]:
    """Come in above the furniture, go down and stroke.

    `slip` (3,) is an error of the aim in metres, `share` how much of the way is done before the operator stops. A
    `blind` operator makes the whole stroke whatever comes of it.
    """
    entry = np.array(technique.entry) + habits.aim + slip

    def above() -> np.ndarray:
        return sim.site(technique.site) + entry + up(habits.height)

    def beside() -> np.ndarray:
        return sim.site(technique.site) + entry

    via = (sim.target_pose.position + above()) / 2 + habits.detour
    yield Reach(lambda: via, 0.03, closed=closed, pace=pace)
    yield Reach(above, 0.025, closed=closed, pace=pace)
    yield Wait(habits.hesitation)
    yield Reach(beside, 0.010, closed=closed, pace=0.8 * pace)
    begin, value = sim.site(technique.site) + entry, look(sim, technique.part)
    goal = begin + technique.stroke
    end = value + share * (technique.aim[1] - value)

    def enough() -> bool:
        if blind:
            return False
        now = look(sim, technique.part)
        missed = abs(now - value) < 0.01 and np.linalg.norm(sim.target_pose.position - begin) > NOTICED
        return technique.seen_done(now) or (share < 1 and abs(now - value) >= abs(end - value)) or bool(missed)

    def in_the_middle() -> bool:
        gone = np.linalg.norm(sim.target_pose.position - begin)
        return enough() or bool(gone > 0.4 * np.linalg.norm(technique.stroke))

    if habits.pause:
        yield Reach(lambda: goal, 0.01, in_the_middle, 0.8 * pace, closed)
        if not enough():
            yield Wait(habits.pause)
    yield Reach(lambda: goal, 0.01, enough, 0.8 * pace, closed)


def lift(sim: Scene, habits: Habits, closed: bool = True) -> Iterator[Step]:
    """Straight up, clear of the handle."""
    place = sim.target_pose.position + up(habits.height + 0.03)
    yield Reach(lambda: place, 0.02, closed=closed)
