"""Steps of the scripted operator's hand, its habits, and what it sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from diwa_data.pose import Pose

if TYPE_CHECKING:
    from diwa_sim.playground import Playground

CONTROL_RATE = 60.0
"""Steps of teleoperation per second, Hz."""
DT = 1.0 / CONTROL_RATE


class Scene(Protocol):
    """The view of an operator; `SimulatedPanda` is one."""

    @property
    def playground(self) -> Playground:
        """Its tasks, and where hand and objects may be."""

    @property
    def hand(self) -> Pose:
        """Hand pose as the operator sees it: commanded where the arm follows at once, else measured."""

    @property
    def scene_names(self) -> tuple[str, ...]:
        """Names of the numbers of the scene state."""

    def scene_state(self) -> np.ndarray:
        """(N,) as named by `scene_names`."""

    def site(self, name: str) -> np.ndarray:
        """Position (3,) of a named point of the furniture, or of an object: `NAME/point`."""

    def body(self, name: str) -> Pose:
        """Pose of the cube, or of an object by its name."""


@dataclass(frozen=True, eq=False)
class Reach:
    """Bring the hand to a place."""

    goal: Callable[[], np.ndarray]
    """Position (3,) of the point between the fingertips, base frame; looked at again all the time."""
    tolerance: float = 0.02
    """Metres from the goal at which the hand goes on to the next step."""
    until: Callable[[], bool] = lambda: False
    """Ends the step early, once the operator sees that this is true."""
    pace: float = 1.0
    """Share of the operator's usual speed."""
    closed: bool = True
    """The trigger is pulled: fingers closed."""
    yaw: float = 0.0
    """Turn of the hand about the vertical from how it is at rest, rad."""
    tilt: tuple[float, float] = (0.0, 0.0)
    """Rotation vector (x, y) of the hand from pointing straight down, rad."""
    timeout: float = 4.0
    """Seconds after which the operator goes on anyway."""
    aligned: float = np.inf
    """Largest turn that may be missing before the hand goes on to the next step, rad."""

    @classmethod
    def at(cls, place: np.ndarray, tolerance: float = 0.02, **options: Any) -> Reach:
        """Reach a `place` (3,) that does not move."""
        return cls(lambda: place, tolerance, **options)


@dataclass(frozen=True)
class Wait:
    """Hold still for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Mark:
    """Press the button for an event, such as success."""

    event: str


Step = Reach | Wait | Mark


@dataclass(frozen=True, eq=False)
class Habits:
    """How one operator moves in one episode."""

    speed: float
    """Usual speed, m/s."""
    turn_speed: float
    """Usual turning speed, rad/s."""
    aim: np.ndarray
    """Constant error of the aim (3,), metres."""
    tilt: np.ndarray
    """Constant error of the hand's rotation (3,), rotation vector, rad."""
    height: float
    """How far above a handle the hand comes in before it goes down, metres."""
    detour: np.ndarray
    """How far off the straight way the hand comes in, at half of it (3,), metres."""
    hesitation: float
    """Seconds of aiming above a handle before the hand goes down."""
    pause: float
    """Seconds of rest in the middle of a stroke; often none."""
    reaction: float
    """Seconds from seeing to acting."""
    hold: float
    """Seconds of holding still after a success."""
    arm: float
    """Metres of controller travel after which the operator re-clutches."""

    @classmethod
    def at_play(cls, rng: np.random.Generator) -> Habits:
        """An operator at random who has nothing to prove: from as slow as in a demonstration to quick, seldom at rest.

        What a policy does must occur in play, or its dreams are of motions that the world model never saw.
        """
        pace = rng.uniform(0.08, 0.24)
        hesitation, pause = max(0.0, rng.uniform(-1.0, 0.8)), max(0.0, rng.uniform(-2.0, 1.2))
        return replace(cls.draw(rng), speed=pace, hesitation=hesitation, pause=pause)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Habits:
        """An operator at random who demonstrates a skill."""
        return cls(
            speed=rng.uniform(0.07, 0.18),
            turn_speed=rng.uniform(0.2, 0.5),
            aim=np.clip(rng.normal(0, 1, 3), -2, 2) * [0.008, 0.018, 0.005],
            tilt=np.clip(rng.normal(0, 1, 3), -2, 2) * [0.02, 0.02, 0.05],
            height=rng.uniform(0.06, 0.09),
            detour=rng.uniform([-0.06, -0.10, -0.02], [0.06, 0.10, 0.08]),
            hesitation=rng.uniform(0.0, 1.2),
            pause=max(0.0, rng.uniform(-1.0, 1.5)),
            reaction=rng.uniform(0.1, 0.3),
            hold=rng.uniform(1.1, 1.4),
            arm=rng.uniform(0.25, 0.5),
        )

    def facing(self, yaw: float) -> Habits:
        """The same of an operator who faces along `yaw`, rad: errors across the way are across that one."""
        return replace(self, aim=turned(self.aim, yaw), tilt=turned(self.tilt, yaw), detour=turned(self.detour, yaw))


def up(metres: float) -> np.ndarray:
    """Offset (3,) straight up."""
    return np.array([0.0, 0.0, metres])


def turned(vector: np.ndarray, yaw: float) -> np.ndarray:
    """`vector` (3,), turned about the vertical by `yaw`, rad."""
    x, y, z = vector
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([cos * x - sin * y, sin * x + cos * y, z])
