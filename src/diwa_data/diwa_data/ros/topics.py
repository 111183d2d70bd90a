"""Publishing and hearing the values of the topics, serialised as in bags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosidl_runtime_py.utilities import get_message

from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import decode_value, require_frame
from diwa_data.ros.distributions import PublisherEventCallbacks, SubscriptionEventCallbacks

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Whoever comes later hears the last message too."""
SENSOR = qos_profile_sensor_data
"""Best effort: hears every publisher."""

_WARN_EVERY = 5.0  # seconds


def publisher(node: Node, topic: str, qos: QoSProfile | int = 10) -> Callable[[memoryview], None]:
    """A function that publishes serialised messages on `topic`."""
    events = PublisherEventCallbacks(use_default_callbacks=False)
    made = node.create_publisher(get_message(message_type(topic)), topic, qos, event_callbacks=events)
    return lambda data: made.publish(bytes(data))


def hear(
    node: Node, topic: str, callback: Callable[[Any], None], qos: QoSProfile | int = 10, frame: str | None = None
) -> None:
    """Call `callback` with every value on `topic`, as `bags.decode_value` gives it.

    What cannot be a value (a NaN pose, a damaged image) or is not in the coordinate frame `frame` is left out, with a
    warning now and then.
    """

    def on_message(data: bytes) -> None:
        try:
            if frame is not None:
                require_frame(data, frame, topic)
            value = decode_value(topic, data, topic)
        except DiwaError as error:
            node.get_logger().warn(str(error), throttle_duration_sec=_WARN_EVERY)
            return
        callback(value)

    events = SubscriptionEventCallbacks(use_default_callbacks=False)  # they would cost more than the messages do
    message_class = get_message(message_type(topic))
    node.create_subscription(message_class, topic, on_message, qos, event_callbacks=events, raw=True)


def message_type(topic: str) -> str:
    """The type of one of our topics."""
    if topic.endswith("/camera_info"):
        return messages.CAMERA_INFO_TYPE
    return messages.TYPES.get(topic, messages.IMAGE_TYPE)
