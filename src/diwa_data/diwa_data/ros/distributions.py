"""The differences between ROS 2 Humble and Jazzy, in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from rclpy.subscription import Subscription

from diwa_data.ros import clock

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ModuleNotFoundError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

__all__ = ["PublisherEventCallbacks", "SubscriptionEventCallbacks", "close_writer", "topic_metadata", "with_received"]


def with_received(callback: Callable[[float, bytes], None]) -> Callable[..., None]:
    """A subscription's callback that calls `callback` with the time of receipt (`clock.now`), and the message.

    Jazzy knows when the middleware received it; Humble only when the callback runs.
    """
    if hasattr(Subscription, "CallbackType"):
        return lambda data, info: callback(clock.at(info["received_timestamp"] * 1e-9), data)
    return lambda data: callback(clock.now(), data)


def topic_metadata(rosbag2: Any, number: int, topic: str, message_type: str) -> Any:
    """A topic for the module `rosbag2_py`; Jazzy numbers them, Humble does not."""
    values: dict[str, Any] = {"name": topic, "type": message_type, "serialization_format": "cdr"}
    if "id: int" in (inspect.getdoc(rosbag2.TopicMetadata.__init__) or ""):
        values["id"] = number
    return rosbag2.TopicMetadata(**values)


def close_writer(writer: Any) -> None:
    """Complete the bag of a `SequentialWriter`; Humble's has no `close` and completes when its last reference goes."""
    if hasattr(writer, "close"):
        writer.close()
