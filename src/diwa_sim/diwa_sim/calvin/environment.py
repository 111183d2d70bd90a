"""CALVIN's own environment (`calvin_env`, installed by the user) behind the `Environment` protocol, and to record in.

Commands become CALVIN's relative actions at its 30 Hz, the skill's goal is judged on the scene state against that of
the reset. Images are rendered when they are asked for: on the CPU they take most of the time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.calvin.format import pose_of
from diwa_data.calvin.tasks import GOALS, require_task
from diwa_data.errors import DiwaError
from diwa_data.interpolator import Interpolator
from diwa_data.limits import MotionLimits
from diwa_data.motion import is_finite, outside
from diwa_data.pose import ExecutedActions, Pose
from diwa_data.recording import messages
from diwa_data.robot import Observation
from diwa_data.spec import CALVIN
from diwa_sim.calvin.config import CalvinConfig
from diwa_sim.calvin.loading import make_calvin
from diwa_sim.calvin.starts import CalvinStart, annotated_starts, drawn_start
from diwa_sim.calvin.tasks import PLAYGROUND, points
from diwa_sim.steps import CONTROL_RATE

JOINTS = (*(f"panda_joint{number}" for number in range(1, 8)), "panda_finger_joint1", "panda_finger_joint2")
STEPS_PER_ACTION = round(CONTROL_RATE / CALVIN.rate)
"""Steps of teleoperation in one action of CALVIN's, 1/30 s."""


class CalvinEnvironment:
    """CALVIN's arm and table.

    At 30 Hz a command is one of CALVIN's actions, within its own limits. At 7.5 Hz the target follows the goals within
    the motion limits, as on our table, and can be led by hand (`advance`), which is how recordings are made.
    """

    playground = PLAYGROUND

    def __init__(self, config: CalvinConfig | None = None, limits: MotionLimits | None = None):
        """`limits` bound how the target follows goals at 7.5 Hz. Raises as `make_calvin` does."""
        self.config = config = config or CalvinConfig()
        self.spec = config.spec
        self._interpolator: Interpolator | None = None
        if self.spec.rate != CALVIN.rate:
            limits = limits or MotionLimits()
            self.spec = dataclasses.replace(self.spec, limits=limits)
            self._interpolator = Interpolator(limits.within(self.spec), CONTROL_RATE)
        self._environment = make_calvin(config)
        self._cameras, self._environment.cameras = self._environment.cameras, []  # or every step would render
        self._starts: dict[str, list[CalvinStart]] = {}
        self._images: dict[str, np.ndarray] | None = None

    def reset(self, skill: str, seed: int) -> None:
        """Begin as one of the data's segments of `skill` did, or as drawn; same seed, same start.

        An empty skill is play: a drawn start, and nothing to succeed at.
        """
        start = self._start(require_task(skill) if skill else "", seed)
        self._take(self._environment.reset(robot_obs=start.robot, scene_obs=start.scene))
        self._goal, self._begun, self._succeeded, self._steps = GOALS.get(skill), self._scene, False, 0
        self._executed = ExecutedActions(self.measured_pose, CALVIN.action)
        self.target_pose = self._executed.reached
        if self._interpolator:
            if problem := outside(self.target_pose, self._interpolator.limits):
                raise DiwaError(f"{problem}: CALVIN's scene needs limits of its own, those of --preset calvin_laptop")
            self._interpolator.reset(self.target_pose)

    def observe(self) -> Observation:
        """Images of both cameras, measured pose, target, gripper width and scene state now."""
        if self._images is None:
            self._images = rendered(self._cameras)
        time, pose, target = self.time, self.measured_pose, self.target_pose
        return Observation(dict(self._images), pose, target, self.gripper_width, time, time, self._scene)

    def command(self, goal: Pose, gripper: float) -> None:
        """Move the target to `goal` over one tick; what is farther than an action reaches is left to the next command.

        Raises `DiwaError` for a NaN goal.
        """
        if not is_finite(goal):
            raise DiwaError(f"the goal {goal.position}, {goal.quaternion} is not finite")
        if not self._interpolator:
            self._act(goal, gripper)
            self._steps += STEPS_PER_ACTION
            self.target_pose = self._executed.reached
            return
        if self._interpolator.target is not self.target_pose:  # it was moved by `advance`
            self._interpolator.reset(self.target_pose)
        self._interpolator.command(goal, self.spec.tick)
        for _ in range(round(self.spec.tick * CONTROL_RATE)):
            self.advance(self._interpolator.step(self.measured_pose).pose, gripper)

    def advance(self, target: Pose, gripper: float) -> None:
        """One step of 1/60 s with the target at `target`, as it is published; CALVIN acts on every other one.

        Raises `DiwaError` for a NaN target.
        """
        if not is_finite(target):
            raise DiwaError(f"the target {target.position}, {target.quaternion} is not finite")
        self.target_pose = target
        self._steps += 1
        if self._steps % STEPS_PER_ACTION == 0:
            self._act(target, gripper)

    @property
    def judged(self) -> bool:
        """The scene was reset for a skill."""
        return self._goal is not None

    def succeeded(self) -> bool:
        """The skill's goal has been met at least once since `reset`. Raises `DiwaError` where nothing is judged."""
        if not self.judged:
            raise DiwaError(f"the scene was reset for none of CALVIN's tasks: {', '.join(GOALS)}")
        return self._succeeded

    def labels(self, skill: str) -> dict[str, Any]:
        """Labels of an episode of `skill`: what replay needs, and when the skill is done."""
        return {"calvin": dataclasses.asdict(self.config), **(GOALS[skill].label(skill) if skill else {})}

    @property
    def time(self) -> float:
        """Seconds since the reset."""
        return self._steps / CONTROL_RATE

    @property
    def measured_pose(self) -> Pose:
        """Pose of the point between the fingertips in the world."""
        return self._pose

    @property
    def hand(self) -> Pose:
        """Where an operator sees the hand: measured, as the arm stays behind its target by up to 10 cm."""
        return self._pose

    @property
    def gripper_width(self) -> float:
        """Metres between the fingers."""
        return float(self._robot[6])

    @property
    def scene_names(self) -> tuple[str, ...]:
        """Names of the numbers of the scene state."""
        return self.spec.scene_state

    def scene_state(self) -> np.ndarray:
        """(24,) as named by `spec.scene_state`."""
        return self._scene

    def site(self, name: str) -> np.ndarray:
        """Position (3,) of a point of the furniture: drawer_handle, slider_handle, switch_bar or button_top."""
        return points(self._scene)[name]

    def body(self, name: str) -> Pose:
        """Pose of a block: red, blue or pink."""
        at = self.scene_names.index(f"{name}_x")
        return pose_of(self._scene[at : at + 6])

    def frame_messages(self, now: float, base_frame: str = "world") -> Iterator[tuple[str, memoryview]]:
        """Topics and messages of a frame, stamped `now` seconds; the first camera, the clock, comes last."""
        seen, fingers = self.observe(), np.full(2, self.gripper_width / 2)
        positions = np.concatenate([self._robot[7:14], fingers])
        yield messages.CURRENT_POSE, messages.encode_pose(seen.pose, now, base_frame)
        yield messages.JOINT_STATES, messages.encode_joints(list(JOINTS), positions, np.zeros(len(JOINTS)), now)
        yield messages.SCENE_STATE, messages.encode_vector(self._scene)
        for name in reversed(seen.images):
            yield messages.image_topic(name), messages.encode_image(seen.images[name], now, f"{name}_camera")

    def close(self) -> None:
        """End the physics server."""
        self._environment.close()

    def _start(self, skill: str, seed: int) -> CalvinStart:
        if not self.config.data or not skill:
            return drawn_start(skill, seed, self.config.spread_joints)
        if skill not in self._starts:
            self._starts[skill] = annotated_starts(Path(self.config.data), skill)
        return self._starts[skill][seed % len(self._starts[skill])]

    def _act(self, target: Pose, gripper: float) -> None:
        """One action of CALVIN's, 1/30 s, towards `target`."""
        action = self._executed.read(target, gripper)
        self._take(self._environment.step(action.astype(float))[0])
        if self._goal:
            done = self._goal.achieved(self.spec.scene_state, self._begun, self._scene)
            self._succeeded = self._succeeded or bool(done)

    def _take(self, latest: dict[str, Any]) -> None:
        self._robot, self._scene = (np.asarray(latest[key], float) for key in ("robot_obs", "scene_obs"))
        self._pose, self._images = pose_of(self._robot), None


def rendered(cameras: list[Any]) -> dict[str, np.ndarray]:
    """Name -> image (H, W, 3) uint8 of CALVIN's `cameras`, in the contract's order. Raises `DiwaError` if one lacks."""
    known = {camera.name: camera for camera in cameras}
    if missing := [camera.name for camera in CALVIN.cameras if camera.name not in known]:
        raise DiwaError(f"CALVIN's environment has no camera {', '.join(missing)}, only {', '.join(known)}")
    return {camera.name: np.asarray(known[camera.name].render()[0], np.uint8) for camera in CALVIN.cameras}
