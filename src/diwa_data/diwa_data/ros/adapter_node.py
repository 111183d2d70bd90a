"""Between an arm with topics of its own and ours: what it says under our names, our target under its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rosidl_runtime_py.utilities import get_message

from diwa_data.errors import DiwaError
from diwa_data.foreign.arm_topics import ArmTarget, ArmTopics
from diwa_data.recording import messages
from diwa_data.recording.messages import decode_value, header_stamp, require_frame
from diwa_data.robot_config import RobotConfig
from diwa_data.ros import clock
from diwa_data.ros.node import Diagnostics, every, read_parameters, run_node
from diwa_data.ros.topics import (
    MatchedSubscriptions,
    node_name,
    on_graph,
    other_publishers,
    publisher,
    similar_topics,
)

SILENT = 1.0
"""Seconds without a message after which the operator is told."""


@dataclass(frozen=True)
class AdapterConfig:
    """Parameters of `adapter`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot's file: its section `topics` says what there is to adapt."""


class AdapterNode(Node):
    """Passes on at once, under the arm's stamps. What cannot be used is told once, and the next good one goes on."""

    def __init__(self) -> None:
        super().__init__("adapter", automatically_declare_parameters_from_overrides=True)
        robot = read_parameters(self, AdapterConfig).robot
        if not robot.topics.adapts:
            raise DiwaError("robot.topics names no topic of the arm's own: there is nothing to adapt")
        self._base, self._gap = robot.base_frame, 1.0 / robot.topics.rate
        self._ours = on_graph(self, messages.TARGET_POSE)
        self._arm, self._target = ArmTopics(robot), ArmTarget(robot.topics.target, robot.base_frame)
        topics = {topic: topic for topic in (*self._arm.topics, *self._target.topics)}
        self._matched = MatchedSubscriptions(self, topics, self._on_message, newest=True)
        self._heard: dict[str, float] = dict.fromkeys(topics, clock.now())
        self._passed: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._publish: dict[str, Callable[[memoryview], None]] = {}
        for ours in self._arm.gives:
            kind = messages.JOINT_STATES if ours == robot.joint_states else ours
            self._publish[ours] = publisher(self, kind, name=messages.relative(ours))
        self._rivals, self._passed_targets, self._diagnostics = "", 0, Diagnostics(self)
        if self._target.topic:
            self._tell_arm = publisher(self, messages.TARGET_POSE, 1, self._target.topic)
            target = get_message(messages.TYPES[messages.TARGET_POSE]), messages.relative(messages.TARGET_POSE)
            self.create_subscription(*target, self._on_target, 1, raw=True)
        every(self, 0.5, self._look_around)
        every(self, 1.0, self._report)

    def close(self) -> None:
        """Nothing to give back."""

    def _on_message(self, topic: str, message_type: str, received: float, data: bytes) -> None:
        self._heard[topic] = received
        if topic == self._arm.pose_topic and not self._due(topic, received):
            return  # states of arms come at 1 kHz, and are large
        problem = ""
        try:
            message = deserialize_message(data, get_message(message_type))
            self._target.hear(topic, message)
            for told in self._arm.take(topic, message, received, time.time()):
                if topic == self._arm.pose_topic or self._due(told.topic, received):
                    self._publish[told.topic](told.data)
        except DiwaError as error:
            problem = str(error)
        self._tell(topic, problem)

    def _due(self, name: str, now: float) -> bool:
        """No more than so many a second; it must be asked about each."""
        due = now - self._passed.get(name, -1.0) >= self._gap
        if due:
            self._passed[name] = now
        return due

    def _on_target(self, data: bytes) -> None:
        problem = self._rivals or self._target.problem()
        try:
            require_frame(data, self._base, self._ours)
            target = decode_value(messages.TARGET_POSE, data, self._ours)
            if not problem:
                self._tell_arm(self._target.told(target, header_stamp(data)))
                self._passed_targets += 1
        except DiwaError as error:
            problem = str(error)
        self._tell(self._ours, f"targets are not passed on: {problem}" if problem else "")

    def _look_around(self) -> None:
        """Subscribe to what is there by now, and look for others who move the arm."""
        self._matched.update()
        if not self._target.topic:
            return
        names = sorted({node_name(offer) for offer in self.get_publishers_info_by_topic(self._ours)})
        others = other_publishers(self, self._target.topic)
        theirs = self.resolve_topic_name(self._target.topic)
        self._rivals = f"{others} publishes {theirs} too: stop it" if others else ""
        if len(names) > 1:
            self._rivals = f"{', '.join(names)} publish {self._ours}: stop all but one"

    def _report(self) -> None:
        now = clock.now()
        for topic, heard in self._heard.items():
            latched = topic.endswith("tf_static")
            if now - heard > SILENT and not latched:
                self._tell(topic, self._matched.describe(topic) + similar_topics(self, topic))
        unused = self._arm.unused()
        for ours in self._arm.gives:
            self._tell(ours, unused.get(ours, ""))
        for name, problem in self._problems.items():
            self._diagnostics.add(name, problem)
        self._diagnostics.add("targets", "", passed_on=self._passed_targets)
        self._diagnostics.publish()

    def _tell(self, topic: str, problem: str) -> None:
        """Tell the operator of a problem when it begins and when it is over."""
        before = self._problems.get(topic, "")
        self._problems[topic] = problem
        if problem and not before:
            self.get_logger().error(problem)
        elif before and not problem:
            self.get_logger().info(f"{topic} is fine again")


def main() -> None:
    """The node `adapter`."""
    run_node(AdapterNode)


if __name__ == "__main__":
    main()
