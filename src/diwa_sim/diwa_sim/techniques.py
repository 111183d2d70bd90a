"""How an operator does a task: steps of the hand, relative to where things are at that moment.

A try comes in from above, goes down, and strokes, pushes or carries. It knows what an operator sees: where furniture,
objects and the hand are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from diwa_data.pose import Pose
from diwa_sim.steps import Habits, Reach, Scene, Step, Wait, up

NOTICED = 0.1
"""Metres of a stroke that moved nothing after which the operator notices."""
ALIGNED = 0.15
"""Radians that may be missing to how a part or an object wants the hand to be held before it goes down."""
CLOSING = 0.4
"""Seconds that the fingers take to close on an object, or to let it go."""


@dataclass(frozen=True, eq=False)
class Manner:
    """How one try is made."""

    slip: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """Error of the aim (3,), metres."""
    share: float = 1.0
    """How much of the way is done before the operator stops."""
    closed: bool = True
    """Fingers are closed where they should be; else they stay open throughout."""
    pace: float = 1.0
    """Share of the operator's usual speed."""
    blind: bool = False
    """The operator makes the whole movement, or its `share` of a stroke, whatever comes of it."""


class Technique(ABC):
    """How an operator makes a try at a task."""

    misses: float = 0.6
    """Share of demonstrations whose first try comes in too high, often misses, and is repeated."""
    grasps: ClassVar[bool] = False
    """Fingers that open and close are needed."""

    @abstractmethod
    def attempt(
        self, scene: Scene, habits: Habits, manner: Manner, margin: Callable[[], float] = lambda: -1.0
    ) -> Iterator[Step]:
        """The steps of one try. `margin` tells by how much the task's goal is exceeded now."""

    @property
    def travel(self) -> np.ndarray:
        """The hand's way (3,) from where it goes down to where the task is done at the latest, metres."""
        return np.zeros(3)

    @property
    def lasts(self) -> bool:
        """The task stays done when the hand goes away."""
        return True

    def leave(self, scene: Scene, habits: Habits, closed: bool = True) -> Iterator[Step]:
        """The steps that follow a try: straight up."""
        yield from lift(scene, habits, closed)

    def content(self, scene: Scene, margin: float) -> bool:
        """The operator looks, and takes the task for done."""
        return margin >= 0

    def ready(self, scene: Scene) -> bool:
        """There is something to do in the present state: play asks before a try."""
        return True


@dataclass(frozen=True)
class Stroke(Technique):
    """Touch a point of the furniture and move it."""

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
    yaw: float = 0.0
    """Turn of the hand about the vertical from how it is at rest, rad."""
    tilt: tuple[float, float] = (0.0, 0.0)
    """Rotation vector (x, y) of the hand from pointing straight down, rad."""
    above: float = 0.0
    """How much higher than usual the hand comes in, to clear what stands out; lower if negative, metres."""
    care: float = 1.0
    """Share of the operator's usual error of aim."""
    pace: float = 1.0
    """Speed, as a share of the operator's usual one."""
    misses: float = 0.6

    @property
    def travel(self) -> np.ndarray:
        """The whole stroke."""
        return np.array(self.stroke)

    def leave(self, scene: Scene, habits: Habits, closed: bool = True) -> Iterator[Step]:
        """Straight up, held as in the stroke."""
        yield from lift(scene, habits, closed, yaw=self.yaw, tilt=self.tilt)

    def progress(self, value: float) -> float:
        """Share of a full stroke that is done where `part` has this value."""
        begin, end = self.aim
        return (value - begin) / (end - begin)

    def content(self, scene: Scene, margin: float = 0.0) -> bool:
        """The operator looks at `part`."""
        return self._seen_done(look(scene, self.part))

    def ready(self, scene: Scene) -> bool:
        """A third of the way is left."""
        return self.progress(look(scene, self.part)) < 0.7

    def _seen_done(self, value: float) -> bool:
        return self.progress(value) >= 0.96

    def attempt(
        self, scene: Scene, habits: Habits, manner: Manner, margin: Callable[[], float] = lambda: -1.0
    ) -> Iterator[Step]:
        """Come in above the furniture, go down and stroke."""
        entry, pace = np.array(self.entry) + self.care * habits.aim + manner.slip, self.pace * manner.pace
        options: dict[str, Any] = {"closed": manner.closed, "yaw": self.yaw, "tilt": self.tilt}
        aligned = ALIGNED if self.yaw or any(self.tilt) else np.inf
        place = lambda: scene.site(self.site) + entry  # noqa: E731
        yield from come_in(scene, place, habits, pace, self.above, aligned=aligned, **options)
        begin, value = scene.site(self.site) + entry, look(scene, self.part)
        goal = begin + (manner.share if manner.blind else 1.0) * np.array(self.stroke)
        end = value + manner.share * (self.aim[1] - value)

        def enough() -> bool:
            if manner.blind:
                return False
            now = look(scene, self.part)
            missed = abs(now - value) < 0.01 and np.linalg.norm(scene.hand.position - begin) > NOTICED
            part_done = manner.share < 1 and abs(now - value) >= abs(end - value)
            return self._seen_done(now) or part_done or bool(missed)

        yield from stroke(
            scene, lambda: goal, begin, float(np.linalg.norm(self.stroke)), enough, habits, pace, **options
        )


@dataclass(frozen=True)
class Push(Technique):
    """Push an object over the table with the fingertips."""

    body: str
    """`cube`, or the name of a task's object."""
    way: tuple[float, float, float]
    """Direction in the base frame and how far at most, metres."""
    behind: float = 0.065
    """Where the fingertips go down: metres from the object's centre, against the way."""
    height: float = 0.0
    """How far the fingertips are above the object's centre, metres."""
    care: float = 0.5
    """Share of the operator's usual error of aim."""
    pace: float = 1.25
    """Speed, as a share of the operator's usual one."""
    surplus: float = 0.01
    """By how much the goal must be exceeded for the operator to be content, in its unit."""
    misses: float = 0.35

    @property
    def travel(self) -> np.ndarray:
        """The whole push."""
        return np.array(self.way)

    def content(self, scene: Scene, margin: float) -> bool:
        """A little beyond the goal."""
        return margin >= self.surplus

    def ready(self, scene: Scene) -> bool:
        """The object lies where the hand gets behind it and has room in front of it."""
        place, reach = scene.body(self.body).position, scene.playground.reach
        return reach.holds(place) and reach.holds(place + 0.5 * np.array(self.way))

    def attempt(
        self, scene: Scene, habits: Habits, manner: Manner, margin: Callable[[], float] = lambda: -1.0
    ) -> Iterator[Step]:
        """Go down behind the object and push, following it with the eyes as it slides aside."""
        way = np.array(self.way)
        ahead, error = way / np.linalg.norm(way), self.care * habits.aim + manner.slip
        pace = self.pace * manner.pace
        entry = up(self.height) - self.behind * ahead + error
        yield from come_in(scene, lambda: scene.body(self.body).position + entry, habits, pace, closed=manner.closed)
        start, begin = scene.body(self.body).position, scene.body(self.body).position + entry

        def gone() -> float:
            return float(ahead @ (scene.body(self.body).position - start))

        def goal() -> np.ndarray:
            aside = scene.body(self.body).position - start
            return begin + self.behind * ahead + way + (aside - ahead * (ahead @ aside)) * [1, 1, 0]

        def enough() -> bool:
            if manner.blind:
                return False
            missed = gone() < 0.01 and np.linalg.norm(scene.hand.position - begin) > self.behind + 0.04
            part_done = manner.share < 1 and gone() >= manner.share * np.linalg.norm(way)
            return self.content(scene, margin()) or bool(missed or part_done)

        length = float(np.linalg.norm(way)) + self.behind
        yield from stroke(scene, goal, begin, length, enough, habits, pace, closed=manner.closed)


@dataclass(frozen=True)
class Carry(Technique):
    """Grasp an object, lift it, and put it somewhere if a place is given."""

    body: str
    """`cube`, or the name of a task's object."""
    to: Callable[[Scene], np.ndarray] | None = None
    """Where the object's centre is let go (3,), base frame; None = it is held up."""
    grip: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Where the fingertips close, from the object's centre, metres."""
    height: float = 0.10
    """How far it is lifted, or how far above `to` it is carried, metres."""
    yaw: Callable[[float], float] | None = None
    """Turn of the hand from that of the object, rad; None: the object is square, and the least turn will do."""
    pace: float = 1.1
    """Speed, as a share of the operator's usual one."""
    care: float = 0.35
    """Share of the operator's usual error of aim."""
    surplus: float = 0.0
    """By how much the goal must be exceeded for the operator to be content, in its unit."""
    misses: float = 0.3
    grasps: ClassVar[bool] = True

    @property
    def lasts(self) -> bool:
        """It lies where it was put; what is held up falls."""
        return self.to is not None

    def content(self, scene: Scene, margin: float) -> bool:
        """A little beyond the goal."""
        return margin >= self.surplus

    def ready(self, scene: Scene) -> bool:
        """The object lies within reach."""
        return scene.playground.reach.holds(scene.body(self.body).position)

    def attempt(
        self, scene: Scene, habits: Habits, manner: Manner, margin: Callable[[], float] = lambda: -1.0
    ) -> Iterator[Step]:
        """Come in over the object with open fingers, go down, close them, lift, and carry it to its place."""
        grip, pace = np.array(self.grip) + self.care * habits.aim + manner.slip, self.pace * manner.pace
        turn, closed = self._yaw(scene.body(self.body)), manner.closed
        over = lambda: scene.body(self.body).position + grip  # noqa: E731
        yield from come_in(scene, over, habits, pace, closed=False, yaw=turn, aligned=ALIGNED)
        lying, place = scene.body(self.body).position, over()
        yield Reach.at(place, 0.0, closed=closed, yaw=turn, timeout=CLOSING)
        target, holding = scene.hand.position, {"pace": pace, "closed": closed}

        def lost() -> bool:
            risen = scene.hand.position[2] - target[2]
            return risen > 0.04 and scene.body(self.body).position[2] - lying[2] < 0.3 * risen

        missed = lambda: lost() and not manner.blind  # noqa: E731

        if self.to is None:
            enough = lambda: missed() or self.content(scene, margin())  # noqa: E731
            yield Reach.at(target + up(manner.share * self.height), 0.01, until=enough, **holding, yaw=turn)
            return
        put = self.to(scene) + grip
        high = np.array([target[0], target[1], max(target[2] + 0.06, put[2] + self.height)])
        yield Reach.at(high, 0.02, until=missed, **holding, yaw=turn)
        if lost():  # the blindest looks before carrying it away
            return
        there = high + manner.share * (put - high) * [1, 1, 0]
        yield Reach.at(there, 0.015, until=missed, **holding)
        if missed() or manner.share < 1:
            return
        yield Reach.at(there * [1, 1, 0] + up(put[2]), 0.008, pace=0.8 * pace, closed=closed)
        yield Reach.at(there * [1, 1, 0] + up(put[2]), 0.0, closed=False, timeout=CLOSING)

    def _yaw(self, body: Pose) -> float:
        """Turn of the hand about the vertical, rad."""
        turn = float(body.rotation.as_euler("zyx")[0])
        return self.yaw(turn) if self.yaw else (turn + np.pi / 4) % (np.pi / 2) - np.pi / 4


def come_in(
    scene: Scene, place: Callable[[], np.ndarray], habits: Habits, pace: float, higher: float = 0.0, **options: Any
) -> Iterator[Step]:
    """In an arc to above a place, `higher` than usual, then down to it; `options` are those of `Reach`."""
    above = lambda: place() + up(habits.height + higher)  # noqa: E731
    via, hovering = (scene.hand.position + above()) / 2 + habits.detour, dict(options)
    options.pop("aligned", None)
    yield Reach.at(via, 0.03, pace=pace, **options)
    yield Reach(above, 0.025, pace=pace, **hovering)
    yield Wait(habits.hesitation)
    yield Reach(place, 0.010, pace=0.8 * pace, **options)


def stroke(
    scene: Scene,
    goal: Callable[[], np.ndarray],
    begin: np.ndarray,
    length: float,
    enough: Callable[[], bool],
    habits: Habits,
    pace: float,
    **options: Any,
) -> Iterator[Step]:
    """Move in contact from `begin` (3,) to `goal`, `length` metres, until it is enough; some rest on the way.

    `options` are those of `Reach`.
    """

    def in_the_middle() -> bool:
        gone = np.linalg.norm(scene.hand.position - begin)
        return enough() or bool(gone > 0.4 * length)

    if habits.pause:
        yield Reach(goal, 0.01, in_the_middle, 0.8 * pace, **options)
        if not enough():
            yield Wait(habits.pause)
    yield Reach(goal, 0.01, enough, 0.8 * pace, **options)


def lift(scene: Scene, habits: Habits, closed: bool = True, **options: Any) -> Iterator[Step]:
    """Straight up, clear of the handle; `options` are those of `Reach`."""
    yield Reach.at(scene.hand.position + up(habits.height + 0.03), closed=closed, **options)


def look(scene: Scene, part: str) -> float:
    """One number of the scene state, as the operator sees it."""
    return float(scene.scene_state()[scene.scene_names.index(part)])
