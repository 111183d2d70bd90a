"""Listens to a running graph for a while, for the checks of `diwa doctor --robot`. It publishes nothing."""

from __future__ import annotations

import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rosidl_runtime_py.utilities import get_message

from diwa_data.errors import DiwaError
from diwa_data.foreign.arm_topics import TF, TF_STATIC, ArmTarget, ArmTopics
from diwa_data.recording import messages
from diwa_data.recording.messages import relative
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.middleware import small_buffer
from diwa_data.ros.node import every, full_namespace
from diwa_data.ros.topics import MatchedSubscriptions, node_name, qos_words
from diwa_deploy.checks import End, Graph, Stream

FOUND = 1.0
"""Seconds in which nodes and topics are found, before anything counts."""


class Look(Node):
    """Takes in what the robot's topics say, as the node `adapter` does."""

    def __init__(self, robot: RobotConfig, namespace: str = ""):
        super().__init__("doctor", namespace=namespace, enable_rosout=False, start_parameter_services=False)
        self._robot, self.graph = robot, Graph(self.get_namespace().rstrip("/"))
        self._arm, self._target = ArmTopics(robot), ArmTarget(robot.topics.target, robot.base_frame)
        cameras = [camera.driver or relative(messages.image_topic(name)) for name, camera in robot.cameras.items()]
        infos = [camera.info for camera in robot.cameras.values() if camera.info]
        plain = [messages.CURRENT_POSE] * (messages.CURRENT_POSE not in self._arm.gives)
        plain += [messages.JOINT_STATES] * (robot.action.gripper and not robot.topics.adapts_joints)
        self._ours, self._arms = {*plain}, {*self._arm.topics, *self._target.topics}
        names = {topic: relative(topic) for topic in plain}
        self._taken: dict[str, float] = {}
        names |= {topic: topic for topic in (*cameras, *infos, *self._arm.topics, *self._target.topics)}
        self._matched = MatchedSubscriptions(self, names, self._on_message)
        every(self, 0.2, self._matched.update)

    def listen(self, seconds: float) -> Graph:
        """Everything that was there in `seconds`, after what it takes to find it."""
        executor = SingleThreadedExecutor()
        executor.add_node(self)
        for duration in (FOUND, seconds):
            self.graph.streams, self.graph.told = {}, {}
            end = time.monotonic() + duration
            while time.monotonic() < end:
                executor.spin_once(timeout_sec=0.1)
        self._take_stock()
        return self.graph

    def _on_message(self, topic: str, message_type: str, received: float, data: bytes) -> None:
        stream = self.graph.streams.setdefault(self._matched.name(topic), Stream())
        stream.add((data, message_type), received)
        if topic in self._ours:
            self.graph.told.setdefault(topic, Stream()).add(data, received)
        if topic not in self._arms or not self._due(topic, received):
            return
        stream.problem = ""
        try:
            message = deserialize_message(data, get_message(message_type))
            self._target.hear(topic, message)
            for told in self._arm.take(topic, message, received, received):
                self.graph.told.setdefault(told.topic, Stream()).add(bytes(told.data), received)
        except DiwaError as error:
            stream.problem = str(error)

    def _due(self, topic: str, now: float) -> bool:
        """No more than so many a second, as in the node `adapter`; transforms of all who publish some."""
        due = topic in (TF, TF_STATIC) or now - self._taken.get(topic, 0.0) >= 1.0 / self._robot.topics.rate
        if due:
            self._taken[topic] = now
        return due

    def _take_stock(self) -> None:
        graph = self.graph
        for stream in graph.streams.values():
            data, message_type = stream.last
            stream.last = deserialize_message(data, get_message(message_type))
        graph.types = {name: list(types) for name, types in self.get_topic_names_and_types()}
        graph.services = {name: list(types) for name, types in self.get_service_names_and_types()}
        for name in graph.types:
            graph.publishers[name] = [self._end(info) for info in self.get_publishers_info_by_topic(name)]
            graph.subscribers[name] = [
                end
                for end in map(self._end, self.get_subscriptions_info_by_topic(name))
                if end.node != self.get_fully_qualified_name()
            ]
        graph.small_buffer = small_buffer()
        graph.unused, graph.target = self._arm.unused(), self._target.problem()
        graph.unknown = {self._matched.name(topic): self._matched.describe(topic) for topic in self._matched.unknown}

    @staticmethod
    def _end(info: object) -> End:
        return End(node_name(info), info.topic_type, qos_words(info.qos_profile))  # type: ignore[attr-defined]


def look(robot: RobotConfig, seconds: float, namespace: str = "") -> Graph:
    """The graph of this ROS domain, as far as it concerns `robot` in a namespace.

    Raises `DiwaError` if that is not a name.
    """
    namespace = full_namespace(namespace)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = Look(robot, namespace)
        try:
            return node.listen(seconds)
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown()
