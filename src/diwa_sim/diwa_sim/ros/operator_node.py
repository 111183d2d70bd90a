"""The scripted operator as a node: sees the scene and the target, publishes the controller in its hand."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from rclpy.node import Node

from diwa_data import messages
from diwa_data.pose import Pose
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.controller_topics import ControllerPublisher
from diwa_data.ros.parameters import read_parameters
from diwa_data.ros.running import run_node
from diwa_data.ros.topics import LATCHED, SENSOR, hear
from diwa_data.skills import require_skill
from diwa_data.teleop import ControllerState
from diwa_sim.mirror import SceneMirror
from diwa_sim.operator import DT, Habits, ScriptedOperator
from diwa_sim.plans import demonstration
from diwa_sim.play import play
from diwa_sim.record import MAX_DEMONSTRATION

PAUSE = 1.0
"""Seconds between two episodes, in which the scene is put back; and between two tries to start one."""
_STILL = ControllerState(
    Pose(np.zeros(3), Pose.from_quaternion(np.zeros(3), np.array([0, 0, 0, 1.0])).rotation), False, 0
)


@dataclass(frozen=True)
class OperatorConfig:
    """Parameters of `operator`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """Told to every node."""
    skill: str = ""
    """Skill to demonstrate; empty plays."""
    episodes: int = 0
    """Episodes after which the operator goes home; 0 = never."""
    episode_seconds: float = 120.0
    """Length of an episode of play, seconds."""
    seed: int = 0
    """Of habits and plans."""


class OperatorNode(Node):
    """Starts an episode, performs, stops it or discards what failed, and begins again."""

    def __init__(self) -> None:
        super().__init__("operator", automatically_declare_parameters_from_overrides=True)
        self._config = read_parameters(self, OperatorConfig)
        if self._config.skill:
            require_skill(self._config.skill)
        self._scene: np.ndarray | None = None
        self._target: Pose | None = None
        self._recording = ""
        self._operator: ScriptedOperator | None = None
        self._tries, self._finished, self._marked = 0, 0, False
        self._next = time.monotonic() + PAUSE
        self._controller = ControllerPublisher(self)
        hear(self, messages.SCENE_STATE, self._on_scene, SENSOR)
        hear(self, messages.TARGET_POSE, self._on_target, SENSOR)
        hear(self, messages.RECORDING, self._on_recording, LATCHED)
        self.create_timer(DT, self._step)

    def close(self) -> None:
        """Nothing to give back."""

    def _on_scene(self, scene: np.ndarray) -> None:
        self._scene = np.asarray(scene)

    def _on_target(self, target: Pose) -> None:
        self._target = target

    def _on_recording(self, episode: str) -> None:
        self._recording = episode

    def _step(self) -> None:
        if self._operator is not None:
            self._perform(self._operator)
            return
        event = self._between()
        self._controller.publish(ControllerState(_STILL.pose, False, 0.0, event), time.time())

    def _between(self) -> tuple[str, ...]:
        """Ask for a start until the recorder has begun; then perform."""
        if self._recording and self._scene is not None and self._target is not None:
            self._begin(self._scene, self._target)
        elif time.monotonic() >= self._next and self._scene is not None and self._target is not None:
            self._next = time.monotonic() + PAUSE
            return ("start",)
        return ()

    def _begin(self, scene: np.ndarray, target: Pose) -> None:
        rng = np.random.default_rng((self._config.seed, self._tries))
        self._tries += 1
        self._mirror = SceneMirror(scene, target)
        habits = Habits.draw(rng) if self._config.skill else Habits.at_play(rng)
        skill = self._config.skill
        plan = demonstration(self._mirror, skill, habits, rng) if skill else play(self._mirror, habits, rng)
        self._operator, self._marked = ScriptedOperator(self._mirror, plan, habits, rng), False
        self._limit = time.monotonic() + (MAX_DEMONSTRATION if skill else self._config.episode_seconds)

    def _perform(self, operator: ScriptedOperator) -> None:
        assert self._scene is not None
        assert self._target is not None
        self._mirror.update(self._scene, self._target)
        state = operator.read()
        self._marked = self._marked or "success" in state.events
        events = state.events
        if operator.finished or time.monotonic() >= self._limit or not self._recording:
            good = not self._config.skill or (self._marked and operator.finished)
            events += ("stop" if good else "discard",) if self._recording else ()
            self._end(good and bool(self._recording))
        self._controller.publish(ControllerState(state.pose, state.deadman, state.trigger, events), time.time())

    def _end(self, good: bool) -> None:
        self._operator, self._recording = None, ""
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

        self.create_timer(PAUSE, leave)


def main() -> None:
    """The node `operator`."""
    run_node(OperatorNode)


if __name__ == "__main__":
    main()
