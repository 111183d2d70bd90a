"""`/diwa/gripper_command` -> the actions of a Franka gripper, whose goals block and hang."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node

from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.node import every, read_parameters, run_node
from diwa_data.ros.topics import LATCHED, subscribe
from diwa_deploy.gripper import GripperConfig, GripperWorker


@dataclass(frozen=True)
class GripperNodeConfig:
    """Parameters of `gripper`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot's file; every node is given the same."""
    namespace: str = "/franka_gripper"
    """Where the actions `grasp` and `move` are."""
    open_width: float = 0.08
    """Metres between the fingers when open."""
    speed: float = 0.1
    """Metres per second."""
    force: float = 20.0
    """Newton with which it closes."""
    worker: GripperConfig = field(default_factory=GripperConfig)
    """Patience with goals."""


class ActionGoal:
    """A goal of an action server, from the moment it is sent."""

    def __init__(self, client: ActionClient, goal: Any):
        self._cancelled = self._ended = False
        self._result: Any = None
        self._handle: Any = None
        client.send_goal_async(goal).add_done_callback(self._on_answer)

    def done(self) -> bool:
        """It has ended, was refused or cancelled."""
        return self._ended or (self._result is not None and self._result.done())

    def cancel(self) -> None:
        """Ask the server to end it, also if it has not even answered yet."""
        self._cancelled = True
        if self._handle is not None:
            self._handle.cancel_goal_async()

    def _on_answer(self, answer: Any) -> None:
        self._handle = answer.result()
        if not self._handle.accepted:
            self._ended = True
            return
        self._result = self._handle.get_result_async()
        if self._cancelled:
            self._handle.cancel_goal_async()


class GripperNode(Node):
    """Closes by grasping whatever is between the fingers, opens by moving to the full width."""

    def __init__(self) -> None:
        super().__init__("gripper", automatically_declare_parameters_from_overrides=True)
        self._config = read_parameters(self, GripperNodeConfig)
        try:
            self._actions = importlib.import_module("franka_msgs.action")
        except ModuleNotFoundError as error:
            raise DiwaError(
                "no franka_msgs here: source the workspace of your arm's driver, which brings it"
            ) from error
        self._grasp = ActionClient(self, self._actions.Grasp, f"{self._config.namespace}/grasp")
        self._move = ActionClient(self, self._actions.Move, f"{self._config.namespace}/move")
        self._worker = GripperWorker(self._send, self._config.worker, self.get_logger().error)
        subscribe(self, messages.GRIPPER_COMMAND, self._worker.command, LATCHED)
        every(self, 1.0, self._look)

    def close(self) -> None:
        """Cancel what is under way."""
        self._worker.close()

    def _send(self, wish: bool) -> ActionGoal:
        config = self._config
        if wish:
            return ActionGoal(self._move, self._actions.Move.Goal(width=config.open_width, speed=config.speed))
        goal = self._actions.Grasp.Goal(width=0.0, speed=config.speed, force=config.force)
        goal.epsilon.inner, goal.epsilon.outer = 0.0, config.open_width
        return ActionGoal(self._grasp, goal)

    def _look(self) -> None:
        if not (self._grasp.server_is_ready() and self._move.server_is_ready()):
            self.get_logger().warn(f"no gripper at {self._config.namespace}: is it started?", throttle_duration_sec=5.0)


def main() -> None:
    """The node `gripper`."""
    run_node(GripperNode)


if __name__ == "__main__":
    main()
