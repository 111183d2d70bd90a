"""CALVIN's own environment (`calvin_env`, installed by the user) behind the `Environment` protocol.

Commands become CALVIN's relative actions, the skill's goal is judged on the scene state against that of the reset.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.calvin.format import frame_path, pose_of, read_annotations, read_frame
from diwa_data.calvin.tasks import DRAWER_OPEN, GOALS, SLIDER_LEFT, require_task
from diwa_data.errors import DiwaError
from diwa_data.motion import is_finite
from diwa_data.pose import ExecutedActions, Pose
from diwa_data.robot import Observation
from diwa_data.spec import CALVIN

INSTALL = "git clone --recursive https://github.com/mees/calvin_env && pip install -e calvin_env/tacto -e calvin_env"
RENDERED = ".hydra/merged_config.yaml"
"""Scene and cameras with which the data of a folder were rendered."""


@dataclass(frozen=True)
class CalvinConfig:
    """CALVIN's environment and its start states."""

    data: str = ""
    """Folder of CALVIN's data (task_D_D/validation): the scene and cameras that it was rendered with, the starts of its
    annotated segments in turn. Empty: scene D as calvin_env ships it, starts drawn by seed."""
    egl: bool = True
    """Render with EGL, as CALVIN's data were; false draws on the CPU, and looks different."""
    spread_joints: float = 0.1
    """How far each joint of a drawn start is from the scene's home, at most; rad."""


class CalvinEnvironment:
    """CALVIN's arm and table: one command is one step at 30 Hz."""

    def __init__(self, config: CalvinConfig = CalvinConfig()):
        """Raises `DiwaError` with the line that installs it where `calvin_env` is missing."""
        self.spec, self.config = CALVIN, config
        self._environment = make_calvin(config)
        self._starts: dict[str, list[CalvinStart]] = {}

    def reset(self, skill: str, seed: int) -> None:
        """Begin as one of the data's segments of `skill` did, or as drawn; same seed, same start."""
        start = self._start(require_task(skill), seed)
        self._take(self._environment.reset(robot_obs=start.robot, scene_obs=start.scene), ticks=0)
        self._goal, self._begun, self._succeeded = GOALS[skill], self._scene, False
        self._executed = ExecutedActions(pose_of(np.asarray(self._latest["robot_obs"], float)), self.spec.action)

    def observe(self) -> Observation:
        """Images of both cameras, measured pose, gripper width and scene state now."""
        return observation_of(self._latest, self._executed.reached, self._ticks / self.spec.rate)

    def command(self, goal: Pose, gripper: float) -> None:
        """Move the target towards `goal`, at most one full-scale action, over one tick of 1/30 s.

        What is farther is made up for by the next command. Raises `DiwaError` for a NaN goal.
        """
        if not is_finite(goal):
            raise DiwaError(f"the goal {goal.position}, {goal.quaternion} is not finite")
        action = self._executed.read(goal, gripper)
        self._take(self._environment.step(action.astype(float))[0], self._ticks + 1)
        done = self._goal.achieved(self.spec.scene_state, self._begun, self._scene)
        self._succeeded = self._succeeded or bool(done)

    @property
    def judged(self) -> bool:
        """Always: `reset` takes nothing else."""
        return True

    def succeeded(self) -> bool:
        """The skill's goal has been met at least once since `reset`."""
        return self._succeeded

    def close(self) -> None:
        """End the physics server."""
        self._environment.close()
        self._environment.ownsPhysicsClient = False  # or its destructor closes it again, with an error

    def _start(self, skill: str, seed: int) -> CalvinStart:
        if not self.config.data:
            return drawn_start(skill, seed, self.config.spread_joints)
        if skill not in self._starts:
            self._starts[skill] = annotated_starts(Path(self.config.data), skill)
        return self._starts[skill][seed % len(self._starts[skill])]

    def _take(self, latest: Mapping[str, Any], ticks: int) -> None:
        self._latest, self._ticks = latest, ticks
        self._scene = np.asarray(latest["scene_obs"], float)


def observation_of(latest: Mapping[str, Any], target: Pose, time: float) -> Observation:
    """CALVIN's observation as ours, at `time` seconds, with the `target` that was commanded.

    Raises `DiwaError` if it lacks a camera.
    """
    missing = [camera.name for camera in CALVIN.cameras if f"rgb_{camera.name}" not in latest["rgb_obs"]]
    if missing:
        raise DiwaError(f"CALVIN's environment has no camera {', '.join(missing)}, only {', '.join(latest['rgb_obs'])}")
    images = {camera.name: np.asarray(latest["rgb_obs"][f"rgb_{camera.name}"], np.uint8) for camera in CALVIN.cameras}
    robot = np.asarray(latest["robot_obs"], float)
    scene = np.asarray(latest["scene_obs"], float)
    return Observation(images, pose_of(robot), target, float(robot[6]), time, time, scene)


def make_calvin(config: CalvinConfig) -> Any:
    """CALVIN's own environment object, with the static and the gripper camera."""
    package, hydra, omegaconf = (_imported(name) for name in ("calvin_env", "hydra", "omegaconf"))
    _imported("calvin_env.envs.play_table_env")
    if config.data:
        path = Path(config.data) / RENDERED
        if not path.is_file():
            raise DiwaError(f"{path} is missing: name a folder of CALVIN's data, such as task_D_D/validation")
        settings = omegaconf.OmegaConf.load(path)
    else:
        settings = _shipped(hydra, Path(package.__file__).parents[1] / "conf")
    wanted = [camera.name for camera in CALVIN.cameras]
    for name in [name for name in settings.cameras if name not in wanted]:
        del settings.cameras[name]
    settings.env.use_egl = config.egl
    return hydra.utils.instantiate(settings.env, show_gui=False, use_vr=False, use_scene_info=True)


def _shipped(hydra: Any, folder: Path) -> Any:
    """The settings in `calvin_env`'s own repository: scene D."""
    if not folder.is_dir():
        raise DiwaError(f"calvin_env has no {folder}: install it from its repository: {INSTALL}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hydra's releases differ in an argument they warn about
        with hydra.initialize_config_dir(str(folder)):
            return hydra.compose("config_data_collection", overrides=["cameras=static_and_gripper"])


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DiwaError(f"CALVIN's environment cannot be imported ({error}): {INSTALL}") from error


ARM_HOME = np.array([-1.21779206, 1.03987646, 2.11978261, -2.34205014, -0.87015947, 1.64119353, 0.55344866])
"""Joint angles in which scene D begins, rad."""
GRIPPER_OPEN = 0.08
"""Metres between the fingers."""
SWITCH_ON = 0.088
"""End of the switch's travel at which the bulb is lit; the other is 0."""
ON_TABLE = np.array([[0.05, -0.12, 0.46], [0.23, -0.12, 0.46]])
IN_CABINET = np.array([[-0.241, 0.092, 0.461], [0.070, 0.092, 0.461]])
"""Places of blocks, metres: left and right of the table, left and right behind the slider."""
BLOCK_YAW = (3 / 8 * np.pi, 5 / 8 * np.pi)
"""Range of the blocks' rotation about the vertical, rad."""


@dataclass(frozen=True, eq=False)
class CalvinStart:
    """One start state, as `reset` of CALVIN's environment takes it."""

    robot: np.ndarray
    """(15,) robot_obs; the joint angles and the gripper width count."""
    scene: np.ndarray
    """(24,) scene_obs."""


def annotated_starts(folder: Path, skill: str) -> list[CalvinStart]:
    """First frames of all segments of a CALVIN folder in which `skill` was recognised, in their order there."""
    segments = [each.segment for each in read_annotations(folder) if each.task == require_task(skill)]
    if not segments:
        raise DiwaError(f"{folder} has no annotated segment of {skill}: choose another folder")
    frames = [read_frame(frame_path(folder, segment.first)) for segment in segments]
    return [CalvinStart(frame.robot.astype(float), frame.scene.astype(float)) for frame in frames]


def drawn_start(skill: str, seed: int, spread: float) -> CalvinStart:
    """The skill's furniture in its pre-state, the rest and the blocks at random; same arguments, same start.

    The arm's joints lie within `spread` rad of `ARM_HOME`.
    """
    if seed < 0:
        raise DiwaError(f"seed {seed} must not be negative")
    rng = np.random.default_rng((seed, list(GOALS).index(require_task(skill))))
    ends = {"slider": SLIDER_LEFT, "drawer": DRAWER_OPEN, "bulb": 1.0, "led": 1.0}
    state = {name: end * float(rng.integers(2)) for name, end in ends.items()}
    goal = GOALS[skill]
    state[goal.quantity] = 0.0 if goal.change > 0 else ends[goal.quantity]
    state["switch"] = SWITCH_ON * state["bulb"]
    places = [*rng.permutation(ON_TABLE), IN_CABINET[rng.integers(2)]]
    for colour, place in zip(rng.permutation(["red", "blue", "pink"]), places, strict=True):
        state |= dict(zip((f"{colour}_x", f"{colour}_y", f"{colour}_z"), place, strict=True))
        state[f"{colour}_rz"] = rng.uniform(*BLOCK_YAW)
    robot = np.zeros(15)
    robot[6], robot[7:14], robot[14] = GRIPPER_OPEN, ARM_HOME + rng.uniform(-spread, spread, 7), 1.0
    return CalvinStart(robot, np.array([state.get(name, 0.0) for name in CALVIN.scene_state]))
