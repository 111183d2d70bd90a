"""Plans of the scripted operator: demonstrations of the eight skills, and play.

A demonstration comes in from above, goes down, strokes and marks the success. Play has no task: tries of all care,
half-done ones, fumbling, poking, idle motion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.teleop.clutch import ControllerState
from diwa_sim.operator.operator import Habits, Mark, Reach, Scene, ScriptedOperator, Step, Wait, up
from diwa_sim.table import DT
from diwa_sim.tasks import DRAWER_OPEN, LEVER_ON, SCENE_STATE, SLIDER_LEFT, require_task

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

    def progress(self, value: float) -> float:
        """Share of a full stroke that is done where `part` has this value."""
        begin, end = self.aim
        return (value - begin) / (end - begin)

    def seen_done(self, value: float) -> bool:
        """The operator looks at `part` and is content."""
        return self.progress(value) >= 0.96


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
    technique = TECHNIQUES[require_task(skill)]
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
    yield Reach.at(via, 0.03, closed=closed, pace=pace)
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
    yield Reach.at(sim.target_pose.position + up(habits.height + 0.03), closed=closed)


CUBE_LOW, CUBE_HIGH = np.array([0.28, -0.34, 0.0]), np.array([0.50, 0.10, 0.06])
"""Where the cube can be reached, metres."""
POKE_LOW, POKE_HIGH = np.array([0.34, -0.32, 0.24]), np.array([0.64, 0.36, 0.30])
"""Box from which the hand pokes downwards, metres."""
ROAM_LOW, ROAM_HIGH = np.array([0.30, -0.32, 0.17]), np.array([0.60, 0.30, 0.42])
"""Box of idle motion, metres."""


def play(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """An endless plan: one thing after another, from whatever state the table is in."""
    behaviours: tuple[Callable[..., Iterator[Step]], ...] = (_skill, _half_done, _fumble, _poke, _cube, _roam)
    weights = (0.58, 0.1, 0.1, 0.1, 0.04, 0.08)
    while True:
        behaviour = behaviours[rng.choice(len(behaviours), p=weights)]
        yield from behaviour(sim, habits, rng)
        if rng.random() < 0.15:
            yield Wait(rng.uniform(0.2, 1.0))


def _skill(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """A try, from careful to careless: play shows what happens wherever a hand comes down, not only where it should."""
    closed, blind = bool(rng.random() < 0.85), bool(rng.random() < 0.4)
    slip, pace = _slip(rng, rng.uniform(0.5, 4.5)), rng.uniform(0.8, 1.3)
    yield from apply(sim, _possible(sim, rng), habits, slip, closed=closed, pace=pace, blind=blind)
    yield from lift(sim, habits, closed)


def _half_done(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    yield from apply(sim, _possible(sim, rng), habits, _slip(rng, 1.0), share=rng.uniform(0.15, 0.85))
    yield from lift(sim, habits)


def _fumble(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Touch a part and move around in contact with it."""
    yield from apply(sim, _possible(sim, rng), habits, _slip(rng, 1.5), share=rng.uniform(0.1, 0.6))
    for _ in range(rng.integers(2, 5)):
        place = sim.target_pose.position + rng.uniform([-0.1, -0.08, -0.02], [0.1, 0.08, 0.02])
        yield Reach.at(place, closed=True, pace=rng.uniform(0.6, 1.2), timeout=1.5)
    yield from lift(sim, habits)


def _poke(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Come down anywhere until something is in the way, and press on sideways."""
    closed, above = bool(rng.random() < 0.8), rng.uniform(POKE_LOW, POKE_HIGH)
    yield Reach.at(above, tolerance=0.04, closed=closed)
    yield Reach.at(above - up(0.3), closed=closed, pace=rng.uniform(0.6, 1.2), timeout=rng.uniform(1.0, 2.5))
    aside = sim.target_pose.position + rng.uniform([-0.15, -0.1, -0.02], [0.15, 0.1, 0.02])
    yield Reach.at(aside, closed=closed, pace=rng.uniform(0.6, 1.2), timeout=1.5)
    yield from lift(sim, habits, closed)


def _cube(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Push the cube, or pick it up and put it elsewhere; nothing if it is out of reach."""
    x, y, z = cube = sim.scene_state()[6:9]
    if (cube < CUBE_LOW).any() or (cube > CUBE_HIGH).any():
        return
    if rng.random() < 0.5:
        angle = rng.uniform(-np.pi, np.pi)
        way = np.array([np.cos(angle), np.sin(angle), 0.0])
        begin, end = cube - 0.07 * way, cube + rng.uniform(0.02, 0.10) * way
        yield Reach.at(begin + up(0.1))
        yield Reach.at(begin, tolerance=0.01)
        yield Reach.at(end, tolerance=0.01, pace=0.7)
    else:
        yaw = Rotation.from_quat(sim.scene_state()[9:13]).as_euler("zyx")[0]
        yaw = (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
        place = np.clip(cube + rng.uniform([-0.1, -0.15, 0], [0.1, 0.15, 0]), CUBE_LOW, CUBE_HIGH)
        yield Reach.at(np.array([x, y, z + 0.09]), closed=False, yaw=yaw)
        yield Reach.at(np.array([x, y, z]), tolerance=0.008, closed=False, yaw=yaw)
        yield Reach.at(np.array([x, y, z]), tolerance=0.0, yaw=yaw, timeout=0.5)
        yield Reach.at(np.array([x, y, z + 0.08]), yaw=yaw)
        yield Reach.at(place + up(0.02), tolerance=0.01)
        yield Reach.at(place + up(0.02), tolerance=0.0, closed=False, timeout=0.4)
        yield Reach.at(place + up(0.1), closed=False)
        return
    yield from lift(sim, habits)


def _roam(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Idle motion through the air, opening and closing the fingers."""
    for _ in range(rng.integers(1, 4)):
        place, closed = rng.uniform(ROAM_LOW, ROAM_HIGH), bool(rng.random() < 0.5)
        yaw, pace = rng.uniform(-0.5, 0.5), rng.uniform(0.8, 1.3)
        yield Reach.at(place, tolerance=0.03, closed=closed, yaw=yaw, pace=pace)


def _slip(rng: np.random.Generator, scale: float) -> np.ndarray:
    """An error of the aim (3,), metres."""
    return rng.normal(0, 1, 3) * [0.012, 0.014, 0.014] * scale


def _possible(sim: Scene, rng: np.random.Generator) -> Technique:
    """A technique that has something to do in the table's present state."""

    choices = [each for each in TECHNIQUES.values() if each.progress(look(sim, each.part)) < 0.7]
    return choices[rng.integers(len(choices))]


MAX_DEMONSTRATION = 18.0
"""Seconds after which the operator gives a demonstration up; the slower ones take longer than a policy may."""


class Performance:
    """Reads like a controller, 1/60 s at a time, until it is `over`."""

    def __init__(self, scene: Scene, skill: str, seconds: float, rng: np.random.Generator):
        """`skill`: to demonstrate, or empty for play of `seconds`."""
        habits = Habits.draw(rng) if skill else Habits.at_play(rng)
        plan = demonstration(scene, skill, habits, rng) if skill else play(scene, habits, rng)
        self._operator = ScriptedOperator(scene, plan, habits, rng)
        self._skill, self._marked = skill, False
        self._steps, self._limit = 0, round((MAX_DEMONSTRATION if skill else seconds) / DT)

    @property
    def over(self) -> bool:
        """The plan is through, or the time is up."""
        return self._operator.finished or self._steps >= self._limit

    @property
    def good(self) -> bool:
        """Play always is; a demonstration if it was marked a success and the hand held still, all in time."""
        return not self._skill or (self._marked and self._operator.finished)

    def read(self) -> ControllerState:
        """The controller 1/60 s later."""
        controller = self._operator.read()
        self._steps += 1
        self._marked = self._marked or "success" in controller.events
        return controller
