"""Differences between Humble's and Jazzy's rclpy and rosbag2_py."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.ros


class Humble:
    """The shape of Humble's `rosbag2_py`: topics have no number, writers no `close`."""

    class TopicMetadata:
        def __init__(self, name: str, type: str, serialization_format: str, offered_qos_profiles: str = "") -> None:
            self.name, self.type = name, type

    class SequentialWriter:
        """No close."""


def test_topics_are_numbered_where_they_can_be():
    import rosbag2_py

    from diwa_data.ros.distributions import topic_metadata

    topic = topic_metadata(Humble, 3, "/x", "std_msgs/msg/String")
    assert (topic.name, topic.type) == ("/x", "std_msgs/msg/String")
    topic = topic_metadata(rosbag2_py, 3, "/x", "std_msgs/msg/String")
    assert (topic.name, topic.type, getattr(topic, "id", 3)) == ("/x", "std_msgs/msg/String", 3)


def test_a_writer_without_close_is_let_go():
    from diwa_data.ros.distributions import close_writer

    close_writer(Humble.SequentialWriter())


def test_the_time_of_receipt_comes_with_the_message_where_the_middleware_tells_it(monkeypatch):
    from diwa_data.ros import distributions

    heard: list[tuple[float, bytes]] = []

    class Subscription:
        """Humble's knows no kinds of callbacks."""

    monkeypatch.setattr(distributions, "Subscription", Subscription)
    distributions.with_received(lambda received, data: heard.append((received, data)))(b"old")
    Subscription.CallbackType = object  # type: ignore[attr-defined]
    distributions.with_received(lambda received, data: heard.append((received, data)))(
        b"new", {"received_timestamp": time.time_ns() - 2_000_000_000}
    )
    assert [data for _, data in heard] == [b"old", b"new"]
    assert heard[0][0] - heard[1][0] == pytest.approx(2.0, abs=0.2)
