"""A scripted operator: a virtual VR controller in a hand with a pace, an aim, a tremor and a short arm.

It reads like any other controller (`diwa_data.teleop.devices.Controller`) and drives the robot through the same clutch.
It knows only what an operator sees: where the furniture and the robot's hand are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import mujoco
import numpy as np

from diwa_data import quaternions
from diwa_data.pose import Pose
from diwa_data.teleop.clutch import ControllerState
from diwa_sim.table import DT, load_model
from diwa_sim.tasks import GRIPPER_DOWN, SCENE_STATE


class Scene(Protocol):
    """The view of an operator; `SimulatedPanda` is one."""

    @property
    def target_pose(self) -> Pose:
        """Commanded hand pose."""

    def scene_state(self) -> np.ndarray:
        """(13,) as named by `SCENE_STATE`."""

    def site(self, name: str) -> np.ndarray:
        """Position (3,) of a named point of the furniture."""


@dataclass(frozen=True, eq=False)
class Reach:
    """Bring the hand to a place."""

    goal: Callable[[], np.ndarray]
    """Position (3,) of the point between the fingertips, base frame; looked at anew all the time."""
    tolerance: float = 0.02
    """Metres from the goal at which the hand goes on to the next step."""
    until: Callable[[], bool] = lambda: False
    """Ends the step early, once the operator sees that this is true."""
    pace: float = 1.0
    """Share of the operator's usual speed."""
    closed: bool = True
    """The trigger is pulled: fingers closed."""
    yaw: float = 0.0
    """Turn of the hand about the vertical, rad."""
    timeout: float = 4.0
    """Seconds after which the operator goes on anyway."""

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

_DOWN = GRIPPER_DOWN.as_quat().tolist()


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


class ScriptedOperator:
    """Follows a plan of steps; one `read` is 1/60 s of its time."""

    _GAIN = 5.0  # 1/s: the hand slows down within speed / gain of its goal
    _SMOOTHING = 0.09  # s: how quickly a hand changes its speed
    _TREMOR = 0.006  # m/s

    def __init__(self, scene: Scene, plan: Iterator[Step], habits: Habits, rng: np.random.Generator):
        self._scene, self._plan, self._habits, self._rng = scene, plan, habits, rng
        self._position = rng.uniform(-0.3, 0.3, 3)  # the controller's own whereabouts: only its motion matters
        self._quaternion = quaternions.about_z(rng.uniform(-1, 1))
        self._tilt = quaternions.from_rotvec(habits.tilt.tolist())
        self._rest = self._position.copy()
        self._velocity, self._turn, self._tremor = np.zeros(3), np.zeros(3), np.zeros(3)
        self._step: Step | None = Wait(rng.uniform(0.15, 0.35))
        self._seconds = 0.0  # since the step began
        self._closed = False
        self._reclutching = 0.0  # seconds left with the deadman released
        self._pressed = False

    @property
    def finished(self) -> bool:
        """The plan is through."""
        return self._step is None

    def read(self) -> ControllerState:
        """The controller 1/60 s later."""
        events = self._follow_plan()
        held = not self._reclutch()
        if held:
            self._move()
        trigger = self._rng.uniform(0.7, 1.0) if self._closed else 0.0
        deadman, self._pressed = held and self._pressed, True  # the first reading is never held
        return ControllerState(Pose.from_unit(self._position.copy(), self._quaternion), deadman, trigger, events)

    def _follow_plan(self) -> tuple[str, ...]:
        """Go on to the step that is due; returns the events marked on the way."""
        events: list[str] = []
        self._seconds += DT
        while self._step is not None and self._is_over(self._step):
            if isinstance(self._step, Mark):
                events.append(self._step.event)
            self._step, self._seconds = next(self._plan, None), 0.0
        if isinstance(self._step, Reach):
            self._closed = self._step.closed
        return tuple(events)

    def _is_over(self, step: Step) -> bool:
        if isinstance(step, Mark):
            return True
        if isinstance(step, Wait):
            return self._seconds >= step.seconds
        near = np.linalg.norm(step.goal() - self._scene.target_pose.position) < step.tolerance
        return bool(near) or self._seconds >= step.timeout or step.until()

    def _reclutch(self) -> bool:
        """Out of reach on a free motion: release, bring the controller back, press again. True while released."""
        if self._reclutching > 0:
            self._reclutching -= DT
            self._position += (self._rest - self._position) * min(1.0, 8.0 * DT)
            return True
        stretched = np.linalg.norm(self._position - self._rest) > self._habits.arm
        if stretched and isinstance(self._step, Reach) and self._step.tolerance >= 0.02:
            self._reclutching = self._rng.uniform(0.25, 0.45)
            self._velocity, self._turn = np.zeros(3), np.zeros(3)
            return True
        return False

    def _move(self) -> None:
        """Move the controller towards where the step wants the hand, smoothly and with a tremor."""
        velocity, turn = np.zeros(3), np.zeros(3)
        if isinstance(self._step, Reach):
            hand = self._scene.target_pose
            velocity = _limited(self._GAIN * (self._step.goal() - hand.position), self._habits.speed * self._step.pace)
            wanted = quaternions.product(quaternions.product(quaternions.about_z(self._step.yaw), self._tilt), _DOWN)
            way = quaternions.as_rotvec(quaternions.difference(hand.quaternion.tolist(), wanted))
            turn = _limited(3.0 * np.array(way), self._habits.turn_speed)
        change = DT / self._SMOOTHING
        self._velocity += change * (velocity - self._velocity)
        self._turn += change * (turn - self._turn)
        calm = 1.0 if isinstance(self._step, Reach) else 0.2
        self._tremor += 0.1 * (self._rng.normal(0, 2.2 * self._TREMOR * calm, 3) - self._tremor)
        self._position += (self._velocity + self._tremor) * DT
        turned = quaternions.from_rotvec((self._turn * DT).tolist())
        self._quaternion = quaternions.product(turned, self._quaternion)


def up(metres: float) -> np.ndarray:
    """Offset (3,) straight up."""
    return np.array([0.0, 0.0, metres])


def _limited(vector: np.ndarray, length: float) -> np.ndarray:
    """`vector`, at most `length` long."""
    norm = np.linalg.norm(vector)
    return vector if norm <= length else vector * (length / norm)


class SceneMirror:
    """Furniture and cube where a scene state says, without physics; `Scene` of the scripted operator."""

    def __init__(self, scene_state: np.ndarray, target_pose: Pose):
        self._model = load_model()
        self._data = mujoco.MjData(self._model)
        self._furniture = [self._model.joint(name).qposadr[0] for name in SCENE_STATE[:4]]
        self._cube = self._model.joint("cube").qposadr[0]
        self.update(scene_state, target_pose)

    def update(self, scene_state: np.ndarray, target_pose: Pose) -> None:
        """Take the published scene state (13,), as named by `SCENE_STATE`, and the commanded hand pose."""
        self.target_pose = target_pose
        self._scene_state = np.array(scene_state)
        self._data.qpos[self._furniture] = scene_state[:4]
        self._data.qpos[self._cube : self._cube + 7] = [*scene_state[6:9], *scene_state[[12, 9, 10, 11]]]
        mujoco.mj_kinematics(self._model, self._data)

    def scene_state(self) -> np.ndarray:
        """(13,) as it was published."""
        return self._scene_state

    def site(self, name: str) -> np.ndarray:
        """Position (3,) of a named point of the furniture: drawer_handle, slider_knob, lever_tip, button_top."""
        return self._data.site(name).xpos.copy()
