"""`ros2 run diwa_deploy preflight`: everything a skill needs, a line each, with the cure for what is not there."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from diwa_data.errors import DiwaError
from diwa_data.files import expanded
from diwa_data.images import require_record_size
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.messages import decode_value, gripper_width, header_stamp, require_frame
from diwa_data.recording.sidecar import TopicStatistics
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.node import every, read_parameters
from diwa_data.ros.topics import MatchedSubscriptions, node_name
from diwa_data.spec import Spec
from diwa_deploy.checks import SLOWEST, Check, clocks
from diwa_deploy.control import check_bundle, check_machine
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
    """How long it listens."""


class Preflight(Node):
    """Listens for a while, then judges."""

    def __init__(self) -> None:
        super().__init__("preflight", automatically_declare_parameters_from_overrides=True)
        self._config = read_parameters(self, PreflightConfig, "arm.limits")
        spec = self._config.robot.spec
        images = {messages.image_topic(camera.name): spec.record_rate for camera in spec.cameras}
        joints = {messages.JOINT_STATES: spec.record_rate} if spec.action.gripper else {}
        self._rates = images | {messages.CURRENT_POSE: spec.record_rate} | joints
        self._statistics = {topic: TopicStatistics() for topic in self._rates}
        self._last: dict[str, tuple[bytes, float]] = {}
        elsewhere = {messages.JOINT_STATES: self._config.robot.joint_states}
        self._matched = MatchedSubscriptions(self, list(self._rates), self._on_message, elsewhere)
        every(self, 0.2, self._matched.update)

    def run(self) -> list[Check]:
        """All lines."""
        end = time.monotonic() + self._config.seconds
        while time.monotonic() < end:
            rclpy.spin_once(self, timeout_sec=0.1)
        spec = self._config.robot.spec
        checks = [*(self._stream(topic, spec) for topic in self._rates), self._target(), *check_machine()]
        if self._config.skill:
            checkpoint = expanded(self._config.checkpoint) if self._config.checkpoint else None
            checks.append(check_bundle(self._config.skill, checkpoint, spec, self._config.arm.limits))
        return checks

    def _on_message(self, topic: str, message_type: str, received: float, data: bytes) -> None:
        self._statistics[topic].add(received)
        self._last[topic] = (data, received)

    def _stream(self, topic: str, spec: Spec) -> Check:
        """Published, at its rate, by a clock like ours, and of the right content."""
        if topic not in self._last:
            return Check(topic, False, self._matched.describe(topic))
        data, received = self._last[topic]
        rate, age = self._statistics[topic].rate, received - header_stamp(data)
        if rivals := self._matched.rivals().get(topic):
            return Check(topic, False, f"published by {rivals}: stop all but one")
        if rate < SLOWEST * self._rates[topic]:
            return Check(topic, False, f"{rate:.1f} Hz, not {self._rates[topic]:g}: set its publisher's rate")
        if problem := clocks(topic, age):
            return Check(topic, False, problem)
        try:
            self._content(topic, data, spec)
        except DiwaError as error:
            return Check(topic, False, str(error))
        return Check(topic, True, f"{rate:.1f} Hz, stamped {1e3 * age:.0f} ms before it came")

    def _content(self, topic: str, data: bytes, spec: Spec) -> None:
        value, cameras = decode_value(topic, data, topic), {messages.image_topic(c.name): c for c in spec.cameras}
        if topic in cameras:
            assert isinstance(value, np.ndarray)
            require_record_size(value, cameras[topic])
        elif topic == messages.JOINT_STATES:
            gripper_width(value, topic)
        elif topic == messages.CURRENT_POSE:
            require_frame(data, self._config.robot.base_frame, topic)
            assert isinstance(value, Pose)
            if problem := self._config.robot.start_pose.problem(value):
                raise DiwaError(problem)

    def _target(self) -> Check:
        topic, publishers = messages.TARGET_POSE, self.get_publishers_info_by_topic(messages.TARGET_POSE)
        names, subscribers = ", ".join(sorted(map(node_name, publishers))), self.count_subscribers(topic)
        if len(publishers) > 1:
            return Check(topic, False, f"published by {names}: an arm may ignore both; stop one")
        if not subscribers:
            return Check(topic, False, "nobody subscribes to it: start the arm's controller, remap its target to it")
        return Check(topic, True, f"subscribed to by {subscribers}, published by {names or 'nobody yet'}")


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
