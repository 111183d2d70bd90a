"""The simulated environments: by their configuration, and as `gymnasium` environments.

`import diwa_sim` registers `diwa/Table-v0` and `diwa/Calvin-v0`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from diwa_data.calvin import tasks as calvin_tasks
from diwa_data.images import preprocess_observation
from diwa_data.limits import MotionLimits
from diwa_data.motion import SafetyFilter
from diwa_data.pose import robot_state
from diwa_data.spec import CALVIN, Spec
from diwa_sim import tasks
from diwa_sim.calvin.config import CalvinConfig
from diwa_sim.calvin.environment import CalvinEnvironment
from diwa_sim.calvin.starts import annotated_segments
from diwa_sim.table import ROBOT, SimConfig, SimulatedPanda

Simulated = SimulatedPanda | CalvinEnvironment


@dataclass(frozen=True)
class EnvironmentConfig:
    """Choice of the environment in which policies act."""

    environment: Literal["table", "calvin"] = "table"
    """Our simulated table, or CALVIN's own environment (docs/calvin.md)."""
    calvin: CalvinConfig = field(default_factory=CalvinConfig)
    """CALVIN's environment."""

    def chosen(self, table: SimConfig) -> SimConfig | CalvinConfig:
        """The configuration of the chosen one; `table` is our table's."""
        return self.calvin if self.environment == "calvin" else table


def seeing(config: SimConfig | CalvinConfig, spec: Spec) -> SimConfig | CalvinConfig:
    """`config` as `spec`, the contract of a checkpoint, has it: our table's cameras, gripper and objects, or CALVIN's
    rate and renderer."""
    return config.like(spec) if isinstance(config, CalvinConfig) or spec.robot == ROBOT else config


def open_environment(config: SimConfig | CalvinConfig, limits: MotionLimits) -> Simulated:
    """Our table or CALVIN's, within the motion `limits` (at 30 Hz CALVIN's has its own); `close` it in the end.

    Raises `DiwaError` where CALVIN's is not installed.
    """
    kind = CalvinEnvironment if isinstance(config, CalvinConfig) else SimulatedPanda
    return kind(config, limits)  # type: ignore[arg-type]


@cache
def shared_robot(config: SimConfig | CalvinConfig, limits: MotionLimits | None = None) -> Simulated:
    """One robot of each configuration, made when it is first asked for; whoever uses it resets it."""
    return open_environment(config, limits or MotionLimits())


def require_task(skill: str, config: SimConfig | CalvinConfig) -> str:
    """`skill`, if the environment of this `config` can judge it; otherwise an error that lists what it can."""
    return (calvin_tasks if isinstance(config, CalvinConfig) else tasks).require_task(skill)


def goal_labels(skill: str, config: SimConfig | CalvinConfig) -> dict[str, Any]:
    """Labels that say when `skill` is done, for the success classifier."""
    return calvin_tasks.GOALS[skill].label(skill) if isinstance(config, CalvinConfig) else tasks.goal_labels(skill)


def is_done(skill: str, start: np.ndarray, now: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """As `tasks.is_done`, of CALVIN's scene too; `names` are those of the scene states' numbers."""
    if tuple(names) == CALVIN.scene_state:
        goal = calvin_tasks.GOALS[calvin_tasks.require_task(skill)]
        return goal.margin(now[..., names.index(goal.quantity)]) >= 0
    return tasks.is_done(skill, start, now, names)


def achieved(
    skill: str, config: SimConfig | CalvinConfig, start: np.ndarray, now: np.ndarray, names: Sequence[str]
) -> bool | None:
    """Whether `skill` is done, given the scene states at its start and now, whose numbers have these `names`.

    None where the environment of this `config` has no such task.
    """
    if isinstance(config, CalvinConfig):
        goal = calvin_tasks.GOALS.get(skill)
        return None if goal is None else bool(goal.achieved(names, start, now))
    return tasks.succeeded(skill, start, now, names) if skill in tasks.TASKS else None


def start_states(skill: str, config: SimConfig | CalvinConfig) -> int | None:
    """Number of start states of `skill` that there are: CALVIN's annotated segments. None: there is no end of them.

    Consecutive seeds begin at each of them once. Raises `DiwaError` if the data have none.
    """
    if isinstance(config, CalvinConfig) and config.data:
        return len(annotated_segments(Path(config.data), skill))
    return None


class SkillEnvironment(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """One skill of a simulated robot behind the safety filter, as the control loop runs it.

    An observation holds what the networks see: an image (H, W, 3) per camera, `state` (10,), `scene_state`, `target`
    (9,), the pose published last, and `executed` (A,), the action that led to it after all limits. An action (A,) is
    relative (`diwa_data.pose`). The reward is 1 and the episode is terminated once the skill is done. A seed fixes the
    start.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self,
        skill: str,
        config: SimConfig | CalvinConfig | None = None,
        limits: MotionLimits | None = None,
        render_mode: str | None = None,
    ):
        """Our table unless `config` is of CALVIN's environment. Raises `DiwaError` for an unknown skill."""
        config, limits = config or SimConfig(), limits or MotionLimits()
        self.skill, self.render_mode = require_task(skill, config), render_mode
        if isinstance(config, SimConfig):
            tasks.require_objects(skill, config.objects)
        self._robot = open_environment(config, limits)
        self.contract = spec = self._robot.spec
        """Cameras, state, action and rate."""
        self._safety = SafetyFilter(limits, spec)
        spaces: dict[str, gymnasium.Space[Any]] = {
            "state": Box(-np.inf, np.inf, (spec.state_dim,), np.float32),
            "scene_state": Box(-np.inf, np.inf, (len(spec.scene_state),), np.float64),
            "target": Box(-np.inf, np.inf, (9,), np.float32),
            "executed": Box(-1, 1, (spec.action_dim,), np.float32),
        }
        images = {camera.name: Box(0, 255, (*camera.size, 3), np.uint8) for camera in spec.cameras}
        self.observation_space: gymnasium.Space[Any] = Dict(images | spaces)
        self.action_space = Box(-1, 1, (spec.action_dim,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start as `diwa evaluate` does from the same seed; without one, from the next random number."""
        super().reset(seed=seed)
        self._robot.reset(self.skill, int(self.np_random.integers(2**32)) if seed is None else seed)
        self._seen = self._robot.observe()
        return self._observation(self._safety.reset(self._seen.target)), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """One control tick. A number beyond its bounds is clipped; an action of NaN holds."""
        command = self._safety.step(action, self._seen.target)
        self._robot.command(command.goal, command.gripper)
        self._seen, success = self._robot.observe(), self._robot.succeeded()
        observation = self._observation(self._safety.executed(self._seen.target))
        return observation, float(success), success, False, {"is_success": success}

    def render(self) -> np.ndarray:
        """The first camera's image (H, W, 3) uint8 at its `record_size`."""
        return self._seen.images[self.contract.cameras[0].name]

    def close(self) -> None:
        """Free the simulator."""
        self._robot.close()

    def _observation(self, executed: np.ndarray) -> dict[str, np.ndarray]:
        frame = preprocess_observation(self._seen, self.contract)
        assert frame.scene_state is not None
        target = robot_state(self._seen.target, None)
        vectors = {"state": frame.state, "scene_state": frame.scene_state, "target": target, "executed": executed}
        return frame.images | vectors
