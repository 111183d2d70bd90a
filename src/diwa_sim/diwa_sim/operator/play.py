"""Play: the scripted operator without a task. Tries of all care, half-done ones, fumbling, poking, idle motion."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.teleop.clutch import ControllerState
from diwa_sim.operator.operator import DT, Habits, Reach, Scene, ScriptedOperator, Step, Wait, up
from diwa_sim.operator.plans import TECHNIQUES, Technique, apply, demonstration, lift, look

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
        yield _reach(place, closed=True, pace=rng.uniform(0.6, 1.2), timeout=1.5)
    yield from lift(sim, habits)


def _poke(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Come down anywhere until something is in the way, and press on sideways."""
    closed, above = bool(rng.random() < 0.8), rng.uniform(POKE_LOW, POKE_HIGH)
    yield _reach(above, tolerance=0.04, closed=closed)
    yield _reach(above - up(0.3), closed=closed, pace=rng.uniform(0.6, 1.2), timeout=rng.uniform(1.0, 2.5))
    aside = sim.target_pose.position + rng.uniform([-0.15, -0.1, -0.02], [0.15, 0.1, 0.02])
    yield _reach(aside, closed=closed, pace=rng.uniform(0.6, 1.2), timeout=1.5)
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
        yield _reach(begin + up(0.1))
        yield _reach(begin, tolerance=0.01)
        yield _reach(end, tolerance=0.01, pace=0.7)
    else:
        yaw = Rotation.from_quat(sim.scene_state()[9:13]).as_euler("zyx")[0]
        yaw = (yaw + np.pi / 4) % (np.pi / 2) - np.pi / 4
        place = np.clip(cube + rng.uniform([-0.1, -0.15, 0], [0.1, 0.15, 0]), CUBE_LOW, CUBE_HIGH)
        yield _reach(np.array([x, y, z + 0.09]), closed=False, yaw=yaw)
        yield _reach(np.array([x, y, z]), tolerance=0.008, closed=False, yaw=yaw)
        yield _reach(np.array([x, y, z]), tolerance=0.0, yaw=yaw, timeout=0.5)
        yield _reach(np.array([x, y, z + 0.08]), yaw=yaw)
        yield _reach(place + up(0.02), tolerance=0.01)
        yield _reach(place + up(0.02), tolerance=0.0, closed=False, timeout=0.4)
        yield _reach(place + up(0.1), closed=False)
        return
    yield from lift(sim, habits)


def _roam(sim: Scene, habits: Habits, rng: np.random.Generator) -> Iterator[Step]:
    """Idle motion through the air, opening and closing the fingers."""
    for _ in range(rng.integers(1, 4)):
        yield _reach(
            rng.uniform(ROAM_LOW, ROAM_HIGH),
            tolerance=0.03,
            closed=bool(rng.random() < 0.5),
            yaw=rng.uniform(-0.5, 0.5),
            pace=rng.uniform(0.8, 1.3),
        )


def _reach(
    place: np.ndarray,
    tolerance: float = 0.02,
    closed: bool = True,
    yaw: float = 0.0,
    pace: float = 1.0,
    timeout: float = 4.0,
) -> Reach:
    return Reach(lambda: place, tolerance, closed=closed, yaw=yaw, pace=pace, timeout=timeout)


def _slip(rng: np.random.Generator, scale: float) -> np.ndarray:
    """An error of the aim (3,), metres."""
    return rng.normal(0, 1, 3) * [0.012, 0.014, 0.014] * scale


def _possible(sim: Scene, rng: np.random.Generator) -> Technique:
    """A technique that has something to do in the table's present state."""

    def left_to_do(technique: Technique) -> bool:
        begin, end = technique.aim
        return (look(sim, technique.part) - begin) / (end - begin) < 0.7

    choices = [technique for technique in TECHNIQUES.values() if left_to_do(technique)]
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
