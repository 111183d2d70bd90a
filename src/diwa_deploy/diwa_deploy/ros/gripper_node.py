"""`/diwa/gripper_command` -> the gripper, in the robot file's way: goals that block and hang, or a topic."""

from __future__ import annotations

from dataclasses import dataclass, field

from rclpy.node import Node

from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.node import every, read_parameters, run_node
from diwa_data.ros.topics import LATCHED, subscribe
from diwa_deploy.gripper import GripperConfig
from diwa_deploy.ros.gripper_commands import FrankaConfig, make_gripper


@dataclass(frozen=True)
class GripperNodeConfig(FrankaConfig):
    """Parameters of `gripper`; those of a Franka's count where `robot.topics.command` names nothing else."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot's file; every node is given the same."""
    worker: GripperConfig = field(default_factory=GripperConfig)
    """Patience with goals."""


class GripperNode(Node):
    """Tells the gripper what was commanded last, and the operator if nobody hears it."""

    def __init__(self) -> None:
        super().__init__("gripper", automatically_declare_parameters_from_overrides=True)
        config = read_parameters(self, GripperNodeConfig)
        command = config.robot.topics.command
        if not config.robot.action.gripper:
            raise DiwaError("robot.action.gripper is false: a robot without a gripper needs no node for it")
        if command.is_ours:
            raise DiwaError(f"robot.topics.command says that your gripper follows {messages.GRIPPER_COMMAND} itself")
        self._gripper = make_gripper(self, command, config, config.worker)
        subscribe(self, messages.GRIPPER_COMMAND, self._gripper.command, LATCHED)
        every(self, 1.0, self._look)

    def close(self) -> None:
        """Cancel what is under way."""
        self._gripper.close()

    def _look(self) -> None:
        if problem := self._gripper.problem():
            self.get_logger().warn(problem, throttle_duration_sec=5.0)


def main() -> None:
    """The node `gripper`."""
    run_node(GripperNode)


if __name__ == "__main__":
    main()
