"""Plans of the scripted operator: demonstrations of the simulated tasks, and play.

A demonstration comes in from above, goes down, strokes, marks the success and goes away; a spoilt attempt misses or
stops short.
Play has no task: tries of all care, half-done ones, fumbling, poking, idle motion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from diwa_data.teleop.clutch import ControllerState
from diwa_sim.operator.operator import ScriptedOperator
from diwa_sim.steps import DT, Habits, Mark, Reach, Scene, Step, Wait, turned, up
from diwa_sim.tasks import Task
from diwa_sim.techniques import CLOSING, Manner, Technique, lift

SLIP_LOW, SLIP_HIGH = (-0.02, -0.02, 0.055), (0.02, 0.02, 0.1)
"""Error of the aim of a try that comes in too high, metres: from on top of the handle to above it."""
BLIND_PROBABILITY = 0.5
"""Share of those in which the operator makes the whole stroke before looking."""


def demonstration(sim: Scene, skill: str, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Do `skill`, mark the success when it is seen, hold still and go away; ends without a mark after three tries.

    What is undone when the hand goes away is marked failed.
    """
    chosen, begun = sim.playground.task(skill), sim.scene_state()
    technique, margin = chosen.technique, _margin(sim, chosen, begun)
    missed = rng.random() < technique.misses
    for attempt in range(3):
        slip, blind = np.zeros(3), False
        if missed and attempt == 0:
            slip = rng.uniform(SLIP_LOW, SLIP_HIGH)
            blind = bool(rng.random() < BLIND_PROBABILITY)
        yield from technique.attempt(sim, habits, Manner(slip, blind=blind), margin)
        if technique.content(sim, margin()):
            yield Wait(habits.reaction)
            yield Mark("success")
            yield Wait(habits.hold)
            yield from _go_away(sim, technique, habits, rng)
            if margin() < 0:
                yield Mark("fail")  # it did not last
            return
        yield from technique.leave(sim, habits)


MISS = (0.05, 0.07, 0.08)
"""Largest error of the aim of an attempt that is to miss: along a stroke, to the sides, and upwards, metres."""
AHEAD = (0.4, 0.8)
"""Share of a stroke by which a feint comes down ahead of where the stroke begins."""


def spoilt(sim: Scene, skill: str, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Fail at `skill` in a way that looks like it; hold still, go away, then mark it.

    Half go straight to where the hand is in the end, the others come down beside the object or stop short. A world
    model that never saw the first kind takes a hand behind the lever for light. Ends without a mark if it succeeds all
    the same.
    """
    chosen = sim.playground.task(skill)
    margin = _margin(sim, chosen, sim.scene_state())
    aside = turned(rng.uniform([-1, -1, 0], 1) * MISS, sim.playground.yaw)
    kind = rng.choice(("feint", "feint", "beside", "short"))
    if kind == "feint":
        ahead = rng.uniform(*AHEAD) * chosen.technique.travel * [1, 1, 0]
        manner = Manner(0.4 * aside + ahead, share=0.1, blind=True)
    elif kind == "beside":
        manner = Manner(aside, share=rng.uniform(0.3, 1.0), blind=True)
    else:
        manner = Manner(share=rng.uniform(0.2, 0.95))
    yield from chosen.technique.attempt(sim, habits, manner, margin)
    yield Wait(habits.reaction + habits.hold)  # a lever that was let go of late may still fall over
    if margin() < 0:
        yield from _go_away(sim, chosen.technique, habits, rng)
    if margin() < 0:
        yield Mark("fail")


def _go_away(sim: Scene, technique: Technique, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Leave what was done as it is, and move anywhere: not only the hand's place tells then whether it is done."""
    if technique.lasts:
        yield from technique.leave(sim, habits, not technique.grasps)
        yield Reach.at(sim.playground.roam.draw(rng), 0.03, pace=0.7, closed=not technique.grasps, timeout=AWAY)


def _margin(sim: Scene, task: Task, begun: np.ndarray) -> Callable[[], float]:
    """By how much the task's goal is exceeded now, for an operator who began at the scene state `begun` (N,)."""
    return lambda: float(task.margin(sim.scene_names, begun, sim.scene_state()))


def play(
    sim: Scene, habits: Habits, rng: np.random.Generator, tasks: Sequence[str] = (), share: float = 0.5
) -> Iterator[Step]:
    """An endless plan: one thing after another, from whatever state the table is in.

    With `tasks`, about `share` of it are tries at those.
    """
    others = [sim.playground.task(name) for name in tasks]
    behaviours: tuple[Callable[..., Iterator[Step]], ...] = (_skill, _half_done, _fumble, _poke, _cube, _roam)
    weights = (0.58, 0.1, 0.1, 0.1, 0.04, 0.08)
    while True:
        if others and rng.random() < share:
            yield from _task(sim, habits, rng, others)
        else:
            behaviour = behaviours[rng.choice(len(behaviours), p=weights)]
            yield from behaviour(sim, habits, rng)
        if rng.random() < 0.15:
            yield Wait(rng.uniform(0.2, 1.0))


def _skill(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """A try, from careful to careless: play shows what happens wherever a hand comes down, not only where it should."""
    closed, blind = bool(rng.random() < 0.85), bool(rng.random() < 0.4)
    slip, pace = _slip(sim, rng, rng.uniform(0.5, 4.5)), rng.uniform(0.8, 1.3)
    manner = Manner(slip, closed=closed, pace=pace, blind=blind)
    technique = _possible(sim, rng)
    yield from technique.attempt(sim, habits, manner)
    yield from technique.leave(sim, habits, closed)


def _task(sim: Scene, habits: Habits, rng: np.random.Generator, tasks: Sequence[Task]) -> Iterator[Step]:
    """A try at one of the `tasks`, whole or broken off; what the hand holds then is carried about and let go."""
    ready = [each for each in tasks if each.technique.ready(sim)]
    if not ready:
        yield from _roam(sim, habits, rng)
        return
    chosen, slip = ready[rng.integers(len(ready))], _slip(sim, rng, max(0.0, rng.uniform(-1.0, 1.5)))
    share = rng.uniform(0.15, 0.85) if rng.random() < 0.25 else 1.0
    closed, blind = bool(rng.random() < 0.9), bool(rng.random() < 0.3)
    manner = Manner(slip, share, closed, rng.uniform(0.8, 1.3), blind)
    yield from chosen.technique.attempt(sim, habits, manner, _margin(sim, chosen, sim.scene_state()))
    if rng.random() < 0.4:
        yield Reach.at(sim.playground.carry.draw(rng), tolerance=0.03, closed=closed, pace=rng.uniform(0.6, 1.2))
    if rng.random() < 0.5:
        low = np.minimum(sim.hand.position, [np.inf, np.inf, sim.playground.floor + rng.uniform(0.02, 0.10)])
        yield Reach.at(low, closed=closed, pace=rng.uniform(0.6, 1.2), timeout=2.0)
    yield Reach.at(sim.hand.position, 0.0, closed=False, timeout=CLOSING)
    yield from lift(sim, habits, bool(rng.random() < 0.3))


def _half_done(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    technique = _possible(sim, rng)
    yield from technique.attempt(sim, habits, Manner(_slip(sim, rng, 1.0), share=rng.uniform(0.15, 0.85)))
    yield from technique.leave(sim, habits)


def _fumble(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Touch a part and move around in contact with it."""
    technique = _possible(sim, rng)
    yield from technique.attempt(sim, habits, Manner(_slip(sim, rng, 1.5), share=rng.uniform(0.1, 0.6)))
    for _ in range(rng.integers(2, 5)):
        place = sim.hand.position + rng.uniform([-0.1, -0.08, -0.02], [0.1, 0.08, 0.02])
        yield Reach.at(place, closed=True, pace=rng.uniform(0.6, 1.2), timeout=1.5)
    yield from lift(sim, habits)


def _poke(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Come down anywhere until something is in the way, and press on sideways."""
    closed, above = bool(rng.random() < 0.8), sim.playground.poke.draw(rng)
    yield Reach.at(above, tolerance=0.04, closed=closed)
    yield Reach.at(above - up(0.3), closed=closed, pace=rng.uniform(0.6, 1.2), timeout=rng.uniform(1.0, 2.5))
    aside = sim.hand.position + rng.uniform([-0.15, -0.1, -0.02], [0.15, 0.1, 0.02])
    yield Reach.at(aside, closed=closed, pace=rng.uniform(0.6, 1.2), timeout=1.5)
    yield from lift(sim, habits, closed)


def _cube(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Push the cube or another block, or pick it up and put it elsewhere; nothing if all are out of reach."""
    room = sim.playground
    near = [body for body in map(sim.body, room.blocks) if room.reach.holds(body.position)]
    if not near:
        return
    block = near[rng.integers(len(near))] if len(near) > 1 else near[0]
    x, y, z = cube = block.position
    if rng.random() < 0.5:
        angle = rng.uniform(-np.pi, np.pi)
        way = np.array([np.cos(angle), np.sin(angle), 0.0])
        begin, end = cube - 0.07 * way, cube + rng.uniform(0.02, 0.10) * way
        yield Reach.at(begin + up(0.1))
        yield Reach.at(begin, tolerance=0.01)
        yield Reach.at(end, tolerance=0.01, pace=0.7)
    else:
        yaw = block.rotation.as_euler("zyx")[0]
        yaw = (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
        place = room.reach.nearest(cube + rng.uniform([-0.1, -0.15, 0], [0.1, 0.15, 0]))
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
        place, closed = sim.playground.roam.draw(rng), bool(rng.random() < 0.5)
        yaw, pace = rng.uniform(-0.5, 0.5), rng.uniform(0.8, 1.3)
        yield Reach.at(place, tolerance=0.03, closed=closed, yaw=yaw, pace=pace)


def _slip(sim: Scene, rng: np.random.Generator, scale: float) -> np.ndarray:
    """An error of the aim (3,), metres."""
    return turned(rng.normal(0, 1, 3) * [0.012, 0.014, 0.014] * scale, sim.playground.yaw)


def _possible(sim: Scene, rng: np.random.Generator) -> Technique:
    """A technique that has something to do in the table's present state."""
    techniques = [sim.playground.tasks[name].technique for name in sim.playground.usual]
    choices = [technique for technique in techniques if technique.ready(sim)]
    return choices[rng.integers(len(choices))]


AWAY = 2.0
"""Seconds that the hand moves on after it has risen from what it did."""
MAX_DEMONSTRATION = 18.0
"""Seconds after which the operator gives up a demonstration without success: a policy may not take as long."""
MAX_LEAVING = 8.0
"""Seconds that holding still and going away may take after that."""


class Performance:
    """Reads like a controller, 1/60 s at a time, until it is `over`."""

    def __init__(
        self,
        scene: Scene,
        skill: str,
        seconds: float,
        rng: np.random.Generator,
        tasks: Sequence[str] = (),
        share: float = 0.5,
        spoil: bool = False,
    ):
        """`skill`: to demonstrate, or to `spoil`; empty for play of `seconds`, about `share` of it with `tasks`."""
        habits = (Habits.draw(rng) if skill else Habits.at_play(rng)).facing(scene.playground.yaw)
        attempt = spoilt if spoil else demonstration
        plan = attempt(scene, skill, habits, rng) if skill else play(scene, habits, rng, tasks, share)
        self._operator = ScriptedOperator(scene, plan, habits, rng)
        self._skill, self._spoil, self._marked = skill, spoil, False
        self._mark = "fail" if spoil else "success"
        self._steps, self._limit = 0, round((MAX_DEMONSTRATION if skill else seconds) / DT)
        self._last = self._limit + (round(MAX_LEAVING / DT) if skill else 0)

    @property
    def over(self) -> bool:
        """The plan is through, or the time is up."""
        limit = self._last if self._marked or self._spoil else self._limit
        return self._operator.finished or self._steps >= limit

    @property
    def good(self) -> bool:
        """Play always is; a demonstration if it was marked a success, a spoilt one if it was marked a failure, in time,
        and the hand went away."""
        return not self._skill or (self._marked and self._operator.finished)

    def read(self) -> ControllerState:
        """The controller 1/60 s later."""
        controller = self._operator.read()
        self._steps += 1
        for event in controller.events:
            self._marked = event == self._mark
        return controller
