"""The simulated robot: a Panda at the table behind the `Environment` protocol of `diwa_data.robot`."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import mujoco
import numpy as np

from diwa_data.errors import DiwaError, unknown
from diwa_data.interpolator import Interpolator
from diwa_data.limits import MotionLimits
from diwa_data.motion import is_finite
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.robot import Observation
from diwa_data.robot_config import CAMERAS
from diwa_data.spec import ActionSpec, CameraSpec, Spec, require_names, require_network_size
from diwa_sim.kinematics import ARM_JOINTS, HOME, Kinematics
from diwa_sim.playground import TABLE
from diwa_sim.render import Cameras
from diwa_sim.scene import SCENE_STATE, Layout, load_model, move_camera, objects_named
from diwa_sim.scenery import Scenery
from diwa_sim.starts import Start, StartConfig
from diwa_sim.steps import CONTROL_RATE
from diwa_sim.tasks import TASKS, goal_labels, require_objects, sample_start, scene_objects
from diwa_sim.urdf import transforms

ROBOT = "panda_sim"
"""Its name in the contract."""
JOINTS = (*ARM_JOINTS, "finger1", "finger2")
FINGER_TRAVEL = 0.04
"""How far each finger opens, metres."""
BULB_COLOURS = ((0.22, 0.22, 0.25, 1.0), (1.0, 0.95, 0.1, 1.0))
LED_COLOURS = ((0.05, 0.2, 0.1, 1.0), (0.2, 1.0, 0.35, 1.0))
"""Off, on."""
LEVER_SWITCHES = 0.2
"""The bulb follows the lever beyond this angle to either side, rad."""
BUTTON_PRESSED, BUTTON_RELEASED = 0.010, 0.005
"""Travel at which the button toggles the LED, and below which it can do so again, metres."""


@dataclass(frozen=True)
class SimConfig:
    """The simulated robot and table."""

    start: StartConfig = field(default_factory=StartConfig)
    """Distribution of start states."""
    objects: tuple[str, ...] = ()
    """Objects on the table beside the cube, by the names that tasks give them.
    Recordings, play and evaluation of a model must have the same ones."""
    cameras: tuple[str, ...] = ()
    """Cameras to record, each with the sizes (height x width) for networks and recordings if not 64x64 and 200x200:
    `static gripper side:96x128 front:64x64:240x240`. Empty = static gripper."""
    fixed_gripper: bool = False
    """Keep the fingers closed and leave them out of the contract: an action has 6 numbers, a state 9."""
    static_moved: tuple[float, float, float, float, float, float] = (0.0,) * 6
    """Shift of the camera `static` along x, y, z of the base (metres), and rotation about them (radians).
    The contract does not record it, so models that were trained before cannot know of it."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.static_moved).all():
            raise DiwaError(f"sim.static_moved is {self.static_moved}: give finite metres and radians")
        require_names([camera.name for camera in self.seen], "sim.cameras")
        for camera in self.seen:
            require_network_size(camera, "sim.cameras: ")

    @property
    def seen(self) -> tuple[CameraSpec, ...]:
        """The cameras that are recorded; the first is the clock."""
        return tuple(map(_camera, self.cameras or CAMERAS))

    def like(self, spec: Spec) -> SimConfig:
        """The same with the cameras, the gripper and the objects of `spec`."""
        objects = objects_named(spec.scene_state) or self.objects
        return replace(self.seeing(spec.cameras), fixed_gripper=not spec.action.gripper, objects=objects)

    def seeing(self, cameras: Sequence[CameraSpec]) -> SimConfig:
        """The same with these `cameras`; their crops are drivers' own and left out."""
        texts = tuple(":".join([c.name, *(f"{h}x{w}" for h, w in (c.size, c.record_size))]) for c in cameras)
        other = replace(self, cameras=texts)
        return self if other.seen == self.seen else other


_CAMERA = re.compile(r"(\w+)(?::(\d+)x(\d+))?(?::(\d+)x(\d+))?")


def _camera(text: str) -> CameraSpec:
    """The camera of an entry of `SimConfig.cameras`."""
    if not (found := _CAMERA.fullmatch(text)):
        raise DiwaError(f"sim.cameras: {text!r} is not a camera: write a name, or one with sizes, as in side:96x128")
    name, *sides = found.groups()
    height, width, *record_size = (int(side) if side else 0 for side in sides)
    usual = CameraSpec(name)
    return CameraSpec(
        name,
        record_size=tuple(record_size) if all(record_size) else usual.record_size,  # type: ignore[arg-type]
        size=(height, width) if height else usual.size,
    )


class SimulatedPanda:
    """An arm under Cartesian control, one to four cameras, and a table whose state can be reset and judged.

    Deterministic: the same reset and the same commands give bit-same states and images on one machine.
    """

    playground = TABLE

    def __init__(self, config: SimConfig = SimConfig(), limits: MotionLimits | None = None):
        """`limits` bound how the target follows the goals that are commanded."""
        objects = scene_objects(config.objects)
        names = [name for each in objects for name in each.state_names]
        action = ActionSpec(gripper=not config.fixed_gripper)
        scene_state, limits = (*SCENE_STATE, *names), limits or MotionLimits()
        self.spec = Spec(ROBOT, config.seen, action, action.state, scene_state=scene_state, limits=limits)
        self.config = config
        self.model = load_model(objects)
        move_camera(self.model, "static", config.static_moved)
        self._require_cameras()
        self._data = mujoco.MjData(self.model)
        self._kinematics = Kinematics(self.model)
        self._interpolator = Interpolator(limits.within(self.spec), CONTROL_RATE)
        self._substeps = round(1.0 / CONTROL_RATE / self.model.opt.timestep)
        self._cameras: dict[tuple[int, int], Cameras] = {}  # by size, made when needed: physics needs no OpenGL
        self._scenery: Scenery | None = None
        joints = [self.model.joint(name) for name in JOINTS]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dof = np.array([joint.dofadr[0] for joint in joints])
        self._layout = Layout(self.model, config.objects)
        self._tcp = self.model.site("tcp").id
        self.reset("", 0)

    def reset(self, skill: str, seed: int) -> None:
        """Put the skill's furniture in its pre-state and everything else at random; same seed, same start.

        An empty skill is play: all is at random, and there is nothing to succeed at. So it is with a skill that is none
        of the simulated tasks.
        """
        skill = skill if skill in TASKS else ""
        self.place(sample_start(skill, seed, self.config.start, self.config.objects), skill)

    def place(self, start: Start, skill: str = "") -> None:
        """Put scene and hand exactly as in `start`, everything at rest, time at 0; `skill` will be judged.

        Raises `DiwaError` if the hand would be outside of the motion limits, or the skill needs an object that is
        not on the table.
        """
        if skill:
            require_objects(skill, self.config.objects)
        mujoco.mj_resetData(self.model, self._data)
        qpos = self._data.qpos
        angles = self._kinematics.solve(start.hand, HOME, iterations=60)
        fingers = 0.0 if self.config.fixed_gripper else FINGER_TRAVEL
        qpos[self._qpos] = [*angles, fingers, fingers]
        qpos[self._layout.furniture] = [start.drawer, start.slider, start.lever, 0.0]
        places = {"cube": start.cube, **start.objects}
        for name, at in self._layout.starts.items():
            x, y, yaw = places.get(name, (*self.model.qpos0[at : at + 2], 0.0))
            qpos[at : at + 7] = [x, y, self.model.qpos0[at + 2], np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        self._data.ctrl[:] = qpos[self._qpos]
        self._angles, self.target_pose = angles, self._kinematics.forward(angles)
        self._interpolator.reset(self.target_pose)
        self._bulb, self._led, self._pressed = start.bulb, start.led, False
        self._ticks, self._succeeded = 0, False
        mujoco.mj_forward(self.model, self._data)
        self._show_lights()
        self._task, self._start_state = TASKS[skill] if skill else None, self.scene_state()

    def show(self, hand: Pose, width: float, scene_state: np.ndarray) -> None:
        """Put arm, fingers (`width` metres apart) and scene as a recording has them, to draw them; nothing moves."""
        qpos, layout = self._data.qpos, self._layout
        self._angles = self._kinematics.solve(hand, self._angles, iterations=20)
        qpos[self._qpos] = [*self._angles, width / 2, width / 2]
        qpos[layout.furniture], qpos[layout.poses] = scene_state[:4], scene_state[6:]
        self._bulb, self._led = (bool(lamp > 0.5) for lamp in scene_state[4:6])
        mujoco.mj_fwdPosition(self.model, self._data)
        self._show_lights()

    def observe(self) -> Observation:
        """Images of all cameras, measured pose, target, gripper width and scene state now."""
        sizes: dict[tuple[int, int], list[str]] = {}
        for camera in self.spec.cameras:
            sizes.setdefault(camera.record_size, []).append(camera.name)
        found = [self.images(tuple(names), size) for size, names in sizes.items()]
        images = {camera.name: next(i[camera.name] for i in found if camera.name in i) for camera in self.spec.cameras}
        time, pose, target = self.time, self.measured_pose, self.target_pose
        return Observation(images, pose, target, self.gripper_width, time, time, self.scene_state())

    def images(self, names: tuple[str, ...], size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Camera name -> image (H, W, 3) uint8 of any `size` (height, width) up to 640."""
        if size not in self._cameras:
            self._cameras[size] = Cameras(self.model, size)
        return self._cameras[size].render(self._data, names)

    def film(self) -> np.ndarray:
        """Picture (480, 640, 3) uint8 for films, by a camera that no policy sees: shadows, floor, sky."""
        if self._scenery is None:
            self._scenery = Scenery(scene_objects(self.config.objects))
        return self._scenery.draw(self.model, self._data, (self._bulb, self._led))

    def frame_messages(self, now: float, base_frame: str = messages.BASE_FRAME) -> Iterator[tuple[str, memoryview]]:
        """Topics and messages of a frame, stamped `now` seconds; the first camera, the clock, comes last."""
        seen = self.observe()
        yield messages.CURRENT_POSE, messages.encode_pose(seen.pose, now, base_frame)
        yield messages.JOINT_STATES, messages.encode_joints(list(JOINTS), *self.joints(), now)
        yield messages.SCENE_STATE, messages.encode_vector(self.scene_state())
        for name in reversed(seen.images):
            yield messages.image_topic(name), messages.encode_image(seen.images[name], now, f"{name}_camera")

    def transforms(self, base: str) -> Iterator[tuple[str, str, Pose]]:
        """Parent, child and pose of the arm's links and the recorded cameras; `base` is the base link's frame."""
        names = tuple(camera.name for camera in self.spec.cameras)
        return transforms(self.model, self._data, names, base)

    def intrinsics(self, name: str, size: tuple[int, int]) -> np.ndarray:
        """Camera matrix K (3, 3) of a camera's images of `size` (height, width), pixels."""
        height, width = size
        focal = height / 2 / np.tan(np.radians(self.model.camera(name).fovy[0]) / 2)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])

    def command(self, goal: Pose, gripper: float) -> None:
        """Have the target follow the goal to `goal` over one tick (1 / 7.5 s) and simulate it."""
        if not is_finite(goal):
            raise DiwaError(f"the goal {goal.position}, {goal.quaternion} is not finite")
        if self._interpolator.target is not self.target_pose:  # it was moved by `advance`
            self._interpolator.reset(self.target_pose)
        self._interpolator.command(goal, self.spec.tick)
        for _ in range(round(self.spec.tick * CONTROL_RATE)):
            self.advance(self._interpolator.step(self.measured_pose).pose, gripper)

    def advance(self, target: Pose, gripper: float) -> None:
        """Simulate 1/60 s with the target at `target`, as it is published. Raises `DiwaError` for a NaN target."""
        if not is_finite(target):
            raise DiwaError(f"the target {target.position}, {target.quaternion} is not finite")
        self._data.ctrl[7:] = FINGER_TRAVEL if gripper >= 0 and not self.config.fixed_gripper else 0.0
        self.target_pose = target
        self._angles = self._kinematics.solve(target, self._angles, iterations=2)
        self._data.ctrl[:7] = self._angles
        mujoco.mj_step(self.model, self._data, self._substeps)
        mujoco.mj_kinematics(self.model, self._data)  # poses of the new state: mj_step leaves those before it
        self._ticks += 1
        self._switch()
        if self._task and not self._succeeded:
            margin = self._task.margin(self.spec.scene_state, self._start_state, self.scene_state())
            self._succeeded = bool(margin >= 0)

    @property
    def judged(self) -> bool:
        """The scene was reset for a simulated task."""
        return self._task is not None

    def succeeded(self) -> bool:
        """The task's oracle has been true at least once since `reset`. Raises `DiwaError` where nothing is judged."""
        if not self.judged:
            raise DiwaError(f"the scene was reset for none of the simulated tasks: {', '.join(TASKS)}")
        return self._succeeded

    def labels(self, skill: str) -> dict[str, Any]:
        """Labels of an episode of `skill`: what replay needs, and when the skill is done."""
        return {"sim": dataclasses.asdict(self.config), **goal_labels(skill)}

    @property
    def time(self) -> float:
        """Seconds since the reset."""
        return self._ticks / CONTROL_RATE

    @property
    def measured_pose(self) -> Pose:
        """Pose of the point between the fingertips, hand frame (z along the fingers), in the base frame."""
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, self._data.site_xmat[self._tcp])
        return Pose.from_quaternion(self._data.site_xpos[self._tcp].copy(), quaternion[[1, 2, 3, 0]])

    @property
    def hand(self) -> Pose:
        """Where an operator sees the hand: the target, which the arm follows at once."""
        return self.target_pose

    @property
    def gripper_width(self) -> float:
        """Metres between the fingers."""
        return float(self._data.qpos[self._qpos[7:]].sum())

    def joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities (9,) of the `JOINTS` now, rad and metres (per second)."""
        return self._data.qpos[self._qpos], self._data.qvel[self._dof]

    def scene_state(self) -> np.ndarray:
        """(13,) and 7 an object, as named by `spec.scene_state`."""
        qpos, layout = self._data.qpos, self._layout
        return np.concatenate([qpos[layout.furniture], [self._bulb, self._led], qpos[layout.poses]])

    @property
    def scene_names(self) -> tuple[str, ...]:
        """Names of the numbers of the scene state."""
        return self.spec.scene_state

    def site(self, name: str) -> np.ndarray:
        """Position (3,) of a named point: drawer_handle, slider_knob, lever_tip, button_top, or OBJECT/POINT."""
        return self._layout.point(self._data, name)

    def body(self, name: str) -> Pose:
        """Pose of the cube, or of an object by its name."""
        return self._layout.pose(self._data, name)

    @contextmanager
    def window(self) -> Iterator[Any]:
        """A window on the scene, with `sync()` and `is_running()`. Raises `DiwaError` without a display."""
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise DiwaError("no display to show the scene on: log in to a desktop, or use --device scripted")
        import mujoco.viewer

        with mujoco.viewer.launch_passive(self.model, self._data, show_left_ui=False, show_right_ui=False) as view:
            yield view

    def close(self) -> None:
        """Free the renderers."""
        for cameras in self._cameras.values():
            cameras.close()
        self._cameras.clear()
        if self._scenery is not None:
            self._scenery.close()
            self._scenery = None

    def _require_cameras(self) -> None:
        """Raise `DiwaError` for a camera that the scene does not have, or that cannot be drawn as large."""
        known = [self.model.camera(i).name for i in range(self.model.ncam)]
        most = int(self.model.vis.global_.offheight)
        for camera in self.spec.cameras:
            if camera.name not in known:
                raise unknown("camera of the simulated scene", camera.name, known)
            if max(camera.record_size) > most:
                height, width = camera.record_size
                raise DiwaError(
                    f"camera {camera.name!r}: the scene is drawn at {most}x{most} at most, not {height}x{width}"
                )

    def _switch(self) -> None:
        """Lever and button act on the lights."""
        lever, button = self._data.qpos[self._layout.furniture[2:]]
        if abs(lever) > LEVER_SWITCHES:
            self._bulb = bool(lever > 0)
        if button > BUTTON_PRESSED and not self._pressed:
            self._led, self._pressed = not self._led, True
        elif button < BUTTON_RELEASED:
            self._pressed = False
        self._show_lights()

    def _show_lights(self) -> None:
        self.model.geom("bulb").rgba = BULB_COLOURS[self._bulb]
        self.model.geom("led").rgba = LED_COLOURS[self._led]
