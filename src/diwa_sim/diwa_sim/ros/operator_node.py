"""The scripted operator as a node: sees the scene and the target, publishes the controller in its hand."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
from rclpy.node import Node
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.node import every, read_parameters, run_node
from diwa_data.ros.topics import LATCHED, SENSOR, ControllerPublisher, subscribe
from diwa_data.teleop.clutch import ControllerState
from diwa_sim.operator.operator import SceneMirror
from diwa_sim.operator.plans import Performance
from diwa_sim.scene import SCENE_STATE, objects_named
from diwa_sim.steps import DT, Scene
from diwa_sim.tasks import require_objects

PAUSE = 1.0
"""Seconds between two episodes, in which the scene is put back; and between two tries to start one."""
_RESTING = ControllerState(Pose(np.zeros(3), Rotation.identity()), False, 0.0)


@dataclass(frozen=True)
class OperatorConfig:
    """Parameters of `operator`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot's file; every node is given the same."""
    skill: str = ""
    """Skill to demonstrate; empty = play."""
    episodes: int = 0
    """Number of episodes after which the operator stops; 0 = never."""
    episode_seconds: float = 120.0
    """Length of an episode of play, in seconds."""
    keep_failed: bool = False
    """Mark failed tries and keep them, instead of discarding them."""
    tasks: tuple[str, ...] = ()
    """Simulated tasks that are tried in play, beside the paper's eight."""
    task_share: float = 0.5
    """Share of play that goes to `tasks`, from 0 to 1."""
    seed: int = 0
    """Seed of the operator's habits and plans."""


class OperatorNode(Node):
    """Starts an episode, performs, stops it, discards or marks what failed, and begins again."""

    def __init__(self) -> None:
        super().__init__("operator", automatically_declare_parameters_from_overrides=True)
        self._config = read_parameters(self, OperatorConfig)
        for name in (*([self._config.skill] if self._config.skill else []), *self._config.tasks):
            require_objects(name, objects_named(self._config.robot.scene_state))
        self._scene: np.ndarray | None = None
        self._target: Pose | None = None
        self._mirror: SceneMirror | None = None
        self._recording = ""
        self._performance: Performance | None = None
        self._tries, self._finished = 0, 0
        self._next = time.monotonic() + PAUSE
        self._controller = ControllerPublisher(self, self._config.robot.base_frame)
        subscribe(self, messages.SCENE_STATE, self._on_scene, SENSOR)
        subscribe(self, messages.TARGET_POSE, self._on_target, SENSOR, self._config.robot.base_frame)
        subscribe(self, messages.RECORDING, self._on_recording, LATCHED)
        every(self, DT, self._step)

    def close(self) -> None:
        """Nothing to give back."""

    def _on_scene(self, scene: np.ndarray) -> None:
        self._scene = np.asarray(scene)

    def _on_target(self, target: Pose) -> None:
        self._target = target

    def _on_recording(self, episode: str) -> None:
        self._recording = episode

    def _step(self) -> None:
        if self._scene is None or self._target is None:
            return
        if self._mirror is None:
            names = self._config.robot.scene_state or SCENE_STATE  # a real robot's file has none
            self._mirror = SceneMirror(self._scene, self._target, names)
        self._mirror.update(self._scene, self._target)
        state = self._perform(self._performance) if self._performance else self._between(self._mirror)
        self._controller.publish(state, time.time())

    def _between(self, scene: Scene) -> ControllerState:
        """Ask for a start until the recorder has begun; then perform."""
        events: tuple[str, ...] = ()
        if self._recording:
            rng = np.random.default_rng((self._config.seed, self._tries))
            self._tries += 1
            c = self._config
            self._performance = Performance(scene, c.skill, c.episode_seconds, rng, c.tasks, c.task_share)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + PAUSE
            events = ("start",)
        return replace(_RESTING, events=events)

    def _perform(self, performance: Performance) -> ControllerState:
        if not self._recording:  # somebody else has stopped the episode
            self._end(False)
            return _RESTING
        state = performance.read()
        if not performance.over:
            return state
        self._end(performance.good)
        failed = ("fail", "stop") if self._config.keep_failed else ("discard",)
        return replace(state, events=(*state.events, *(("stop",) if performance.good else failed)))

    def _end(self, good: bool) -> None:
        self._performance, self._recording = None, ""
        self._next = time.monotonic() + PAUSE
        self._finished += good
        if self._config.episodes and self._finished >= self._config.episodes:
            self.get_logger().info(f"{self._finished} episodes are done")
            self._next = float("inf")
            self._go_home()

    def _go_home(self) -> None:
        """Leave once the last event is out."""

        def leave() -> None:
            raise SystemExit

        every(self, PAUSE, leave)


def main() -> None:
    """The node `operator`."""
    run_node(OperatorNode)


if __name__ == "__main__":
    main()
