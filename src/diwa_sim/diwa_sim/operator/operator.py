"""A scripted operator: a virtual VR controller in a hand with a pace, an aim, a tremor and a short arm.

It reads like any other controller (`diwa_data.teleop.devices.Controller`) and drives the robot through the same clutch.
It knows only what an operator sees: where the furniture and the robot's hand are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import mujoco
import numpy as np

from diwa_data import quaternions
from diwa_data.pose import Pose
from diwa_data.teleop.clutch import ControllerState
from diwa_sim.playground import TABLE
from diwa_sim.scene import SCENE_STATE, Layout, load_model, objects_named
from diwa_sim.starts import GRIPPER_DOWN
from diwa_sim.steps import DT, Habits, Mark, Reach, Scene, Step, Wait
from diwa_sim.tasks import scene_objects

_DOWN = GRIPPER_DOWN.as_quat().tolist()


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
        near = np.linalg.norm(step.goal() - self._scene.hand.position) < step.tolerance
        if near and np.isfinite(step.aligned):
            near = np.linalg.norm(self._way(step)) < step.aligned
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
            hand = self._scene.hand
            velocity = _limited(self._GAIN * (self._step.goal() - hand.position), self._habits.speed * self._step.pace)
            turn = _limited(3.0 * self._way(self._step), self._habits.turn_speed)
        change = DT / self._SMOOTHING
        self._velocity += change * (velocity - self._velocity)
        self._turn += change * (turn - self._turn)
        calm = 1.0 if isinstance(self._step, Reach) else 0.2
        self._tremor += 0.1 * (self._rng.normal(0, 2.2 * self._TREMOR * calm, 3) - self._tremor)
        self._position += (self._velocity + self._tremor) * DT
        turned = quaternions.from_rotvec((self._turn * DT).tolist())
        self._quaternion = quaternions.product(turned, self._quaternion)

    def _way(self, step: Reach) -> np.ndarray:
        """Rotation vector (3,) from the hand to where the step wants it, rad."""
        yaw = quaternions.about_z(self._scene.playground.yaw + step.yaw)
        wanted = quaternions.product(quaternions.product(yaw, self._tilt), _DOWN)
        if any(step.tilt):
            wanted = quaternions.product(quaternions.from_rotvec([*step.tilt, 0.0]), wanted)
        hand = self._scene.hand.quaternion.tolist()
        return np.array(quaternions.as_rotvec(quaternions.difference(hand, wanted)))


def _limited(vector: np.ndarray, length: float) -> np.ndarray:
    """`vector`, at most `length` long."""
    norm = np.linalg.norm(vector)
    return vector if norm <= length else vector * (length / norm)


class SceneMirror:
    """Furniture, cube and objects where a scene state says, without physics; `Scene` of the scripted operator."""

    playground = TABLE

    def __init__(self, scene_state: np.ndarray, target_pose: Pose, names: Sequence[str] = SCENE_STATE):
        """`names` are those of the scene state, and tell which objects there are."""
        objects = objects_named(names)
        model = load_model(scene_objects(objects))
        self.scene_names = tuple(names)
        self._model, self._data, self._layout = model, mujoco.MjData(model), Layout(model, objects)
        self.update(scene_state, target_pose)

    def update(self, scene_state: np.ndarray, target_pose: Pose) -> None:
        """Take the published scene state (N,) and the commanded hand pose."""
        self.hand = target_pose
        self._scene_state = np.array(scene_state)
        self._data.qpos[self._layout.furniture] = scene_state[:4]
        self._data.qpos[self._layout.poses] = scene_state[6:]
        mujoco.mj_kinematics(self._model, self._data)

    def scene_state(self) -> np.ndarray:
        """(N,) as it was published."""
        return self._scene_state

    def site(self, name: str) -> np.ndarray:
        """Position (3,) of a named point: drawer_handle, slider_knob, lever_tip, button_top, or OBJECT/POINT."""
        return self._layout.point(self._data, name)

    def body(self, name: str) -> Pose:
        """Pose of the cube, or of an object by its name."""
        return self._layout.pose(self._data, name)
