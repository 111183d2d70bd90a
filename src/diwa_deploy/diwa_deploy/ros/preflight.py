"""`ros2 run diwa_deploy preflight`: everything a skill needs, a line each, with the cure for what is not there."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from diwa_data.errors import DiwaError
from diwa_data.files import expanded
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig, TopicsConfig
from diwa_data.ros.node import read_parameters
from diwa_deploy.checks import Check, check_buffer, check_robot
from diwa_deploy.control import check_bundle, check_machine
from diwa_deploy.ros.look import Look
from diwa_deploy.ros.packages import check_packages
from diwa_deploy.ros.ros_robot import ArmConfig

GREEN, RED, PLAIN = "\033[32m", "\033[31m", "\033[0m"


@dataclass(frozen=True)
class PreflightConfig:
    """Parameters of `preflight`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot; give its file with --params-file."""
    skill: str = ""
    """Skill whose bundle is tried on this robot; empty = none."""
    checkpoint: str = ""
    """Folder of its bundle; empty = the installed one."""
    arm: ArmConfig = field(default_factory=ArmConfig)
    """Limits; as the node's."""
    seconds: float = 3.0
    """Seconds for which it listens."""


class Preflight(Node):
    """Reads the parameters; what it finds is from a node that only listens."""

    def __init__(self) -> None:
        super().__init__("preflight", automatically_declare_parameters_from_overrides=True)
        self._config = read_parameters(self, PreflightConfig, "arm.limits")

    def run(self) -> list[Check]:
        """All lines."""
        config = self._config
        robot, listener = as_ours(replace(config.robot, limits=config.arm.limits)), None
        try:
            listener = Look(robot)
            graph = listener.listen(config.seconds)
            checks = [*check_robot(robot, graph)]
            checks += check_buffer(config.robot, graph, checks[: len(robot.cameras)])
            checks += [check_packages(config.robot), *check_machine()]
        finally:
            if listener:
                listener.destroy_node()
        if config.skill:
            checkpoint = expanded(config.checkpoint) if config.checkpoint else None
            checks.append(check_bundle(config.skill, checkpoint, robot.spec, config.arm.limits))
        return checks


def as_ours(robot: RobotConfig) -> RobotConfig:
    """The robot as it is on our topics, behind the croppers of its cameras and the node `adapter`."""
    joints = robot.name_on_graph(messages.JOINT_STATES) if robot.topics.adapts_joints else ""
    cameras = {name: replace(camera, driver="", info="") for name, camera in robot.cameras.items()}
    return replace(robot, cameras=cameras, topics=TopicsConfig(joints=joints, command=robot.topics.command))


def _mark(good: bool) -> str:
    word = "ok " if good else "BAD"
    return f"{GREEN if good else RED}{word}{PLAIN}" if sys.stdout.isatty() else word


def main() -> None:
    """The command `preflight`: exit status 1 if a line is red, 130 after Ctrl-C."""
    rclpy.init()
    try:
        checks = Preflight().run()
    except DiwaError as error:
        sys.exit(f"error: {error}")
    except (KeyboardInterrupt, ExternalShutdownException):
        sys.exit(130)
    finally:
        rclpy.try_shutdown()
    for check in checks:
        print(f"{_mark(check.good)} {check.name:24} {check.text}")
    sys.exit(0 if all(check.good for check in checks) else 1)


if __name__ == "__main__":
    main()
