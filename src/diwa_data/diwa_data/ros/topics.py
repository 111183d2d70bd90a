"""Publishing and subscribing to the values of the topics, serialised as in bags."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosidl_runtime_py.utilities import get_message
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.messages import decode_value, require_frame
from diwa_data.ros.distributions import PublisherEventCallbacks, SubscriptionEventCallbacks, with_received
from diwa_data.teleop.clutch import ControllerState

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""Whoever subscribes later gets the last message too."""
SENSOR = qos_profile_sensor_data
"""Best effort: fits every publisher."""
NEWEST = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
"""Best effort of topics that several publish at once, such as /tf."""
MAX_AGE = 0.1
"""Seconds without a reading after which a controller counts as lost."""
DEPTH = 300
"""Messages kept per topic while the disk is slow: ten seconds of images."""
_WARN_EVERY = 5.0  # seconds

OnMessage = Callable[[str, str, float, bytes], None]
"""Called with topic, type, seconds received and serialised bytes."""


def publisher(node: Node, topic: str, qos: QoSProfile | int = 10, name: str = "") -> Callable[[memoryview], None]:
    """A function that publishes serialised messages of `topic`, one of ours; `name`: another name on the graph."""
    events = PublisherEventCallbacks(use_default_callbacks=False)
    name = name or messages.relative(topic)
    made = node.create_publisher(get_message(message_type(topic)), name, qos, event_callbacks=events)
    return lambda data: made.publish(bytes(data))


def on_graph(node: Node, topic: str) -> str:
    """The full name of one of our topics on the graph, in the namespace of `node`."""
    return str(node.resolve_topic_name(messages.relative(topic)))


def subscribe(
    node: Node, topic: str, callback: Callable[[Any], None], qos: QoSProfile | int = 10, frame: str | None = None
) -> None:
    """Call `callback` with every value of `topic`, one of ours, as `decode_value` gives it.

    What cannot be a value (a NaN pose, a damaged image) or is not in the coordinate frame `frame` is left out, with a
    warning now and then.
    """

    name = on_graph(node, topic)

    def on_message(data: bytes) -> None:
        try:
            if frame is not None:
                require_frame(data, frame, name)
            value = decode_value(topic, data, name)
        except DiwaError as error:
            node.get_logger().warn(str(error), throttle_duration_sec=_WARN_EVERY)
            return
        callback(value)

    events = SubscriptionEventCallbacks(use_default_callbacks=False)  # they would cost more than the messages do
    message_class = get_message(message_type(topic))
    node.create_subscription(message_class, messages.relative(topic), on_message, qos, event_callbacks=events, raw=True)


def message_type(topic: str) -> str:
    """The type of one of our topics."""
    if topic.endswith("/camera_info"):
        return messages.CAMERA_INFO_TYPE
    return (messages.TYPES | messages.SHOWN_TYPES).get(topic, messages.IMAGE_TYPE)


class ControllerPublisher:
    """Publishes controller readings: pose, Joy of axes [trigger] and buttons [deadman, valid], and events."""

    def __init__(self, node: Node, base_frame: str = messages.BASE_FRAME):
        self._base_frame = base_frame
        self._pose, self._joy = publisher(node, messages.CONTROLLER_POSE), publisher(node, messages.CONTROLLER_JOY)
        self._event = publisher(node, messages.EPISODE_EVENT)

    def publish(self, state: ControllerState, now: float) -> None:
        """One reading, taken at `now` seconds."""
        self._pose(messages.encode_pose(state.pose, now, self._base_frame))
        self._joy(messages.encode_joy(np.array([state.trigger]), np.array([state.deadman, state.valid]), now))
        for event in state.events:
            self._event(messages.encode_string(event))


class TopicController:
    """The controller that another node publishes, such as the scripted operator. Its events are not read."""

    def __init__(self, node: Node):
        self.instructions = f"another node's, on {on_graph(node, messages.CONTROLLER_POSE)}"
        self._last = ControllerState(Pose(np.zeros(3), Rotation.identity()), False, 0.0, valid=False)
        self._pose, self._received = self._last.pose, -float("inf")
        subscribe(node, messages.CONTROLLER_POSE, self._on_pose)
        subscribe(node, messages.CONTROLLER_JOY, self._on_joy)

    def read(self) -> ControllerState:
        """The last reading; invalid if it came too long ago."""
        fresh = time.monotonic() - self._received <= MAX_AGE
        return self._last if fresh else replace(self._last, valid=False)

    def signal(self, what: str) -> None:
        """Nobody's hand is in it."""

    def close(self) -> None:
        """Nothing to give back."""

    def _on_pose(self, pose: Pose) -> None:
        self._pose = pose

    def _on_joy(self, joy: Any) -> None:
        axes, buttons = joy.axes, joy.buttons
        if len(axes) >= 1 and len(buttons) >= 2 and np.isfinite(axes[0]):
            self._last = ControllerState(self._pose, bool(buttons[0]), float(axes[0]), (), bool(buttons[1]))
            self._received = time.monotonic()


class MatchedSubscriptions:
    """Subscribes to every topic of a list once someone publishes it, as reliably as all its publishers offer."""

    def __init__(
        self,
        node: Node,
        topics: Mapping[str, str],
        on_message: OnMessage,
        newest: bool = False,
    ):
        """`topics`: the name by which `on_message` is told of each, and its name on the graph.

        `newest`: old messages are not waited for, but those of latched topics.
        """
        self._node, self._topics, self._on_message, self._newest = node, dict(topics), on_message, newest
        self._subscriptions: dict[str, tuple[Any, QoSProfile]] = {}
        self.lost: dict[str, int] = dict.fromkeys(topics, 0)
        """Images that the middleware says it lost, by topic."""
        self.unknown: dict[str, str] = {}
        """Topics of a type that is not installed here, and that type."""

    def update(self) -> None:
        """Subscribe to what is published now; a publisher that offers less than the others lowers the request."""
        for topic in self._topics:
            offers = self._offers(topic)
            if not offers:
                continue
            wanted = _fitting([offer.qos_profile for offer in offers], self._newest)
            if topic in self._subscriptions:
                subscription, before = self._subscriptions[topic]
                if _strength(wanted) >= _strength(before):
                    continue
                self._node.destroy_subscription(subscription)
            try:
                self._subscriptions[topic] = self._subscribe(topic, offers[0].topic_type, wanted), wanted
                self.unknown.pop(topic, None)
            except (ModuleNotFoundError, AttributeError, ValueError):
                self.unknown[topic] = offers[0].topic_type

    def rivals(self, shared: Collection[str] = ()) -> dict[str, str]:
        """Topics that nodes of different names publish -> those names: what they send is mixed.

        A node that was killed and started again is known twice for some seconds. `shared`: may be published by several.
        """
        names = {topic: set(map(node_name, self._offers(topic))) for topic in self._topics if topic not in shared}
        return {topic: ", ".join(sorted(several)) for topic, several in names.items() if len(several) > 1}

    def describe(self, topic: str) -> str:
        """Reasons why `topic` may be silent: nobody publishes it, or who does, with offered versus requested QoS."""
        who = "; ".join(
            f"{node_name(offer)} ({offer.topic_type}) offers {qos_words(offer.qos_profile)}"
            for offer in self._offers(topic)
        )
        name = self.name(topic)
        if not who:
            return f"nothing on {name}: nobody publishes it"
        if topic in self.unknown:
            package = self.unknown[topic].partition("/")[0]
            return f"{name} is a {self.unknown[topic]}, but {package} is not installed here: source its workspace"
        requested = qos_words(self._subscriptions[topic][1]) if topic in self._subscriptions else "nothing yet"
        return f"nothing on {name}, though {who}; requested {requested}"

    def latched(self, topic: str) -> bool:
        """It is subscribed to, and its publishers keep their last message for whoever comes later."""
        return topic in self._subscriptions and _strength(self._subscriptions[topic][1])[1]

    def name(self, topic: str) -> str:
        """The full name of `topic` on the graph."""
        return str(self._node.resolve_topic_name(self._topics[topic]))

    def _offers(self, topic: str) -> list[Any]:
        return self._node.get_publishers_info_by_topic(self.name(topic))

    def _subscribe(self, topic: str, message_type: str, qos: QoSProfile) -> Any:
        def on_lost(event: Any) -> None:
            self.lost[topic] += event.total_count_change

        # every handler costs the executor time at every message of any topic: none by default, one for each camera
        watched = on_lost if message_type == messages.IMAGE_TYPE else None
        events = SubscriptionEventCallbacks(message_lost=watched, use_default_callbacks=False)
        callback = with_received(lambda received, data: self._on_message(topic, message_type, received, data))
        name, kind = self._topics[topic], get_message(message_type)
        return self._node.create_subscription(kind, name, callback, qos, event_callbacks=events, raw=True)


def node_name(offer: Any) -> str:
    """The full name of the node that publishes it."""
    return f"{offer.node_namespace.rstrip('/')}/{offer.node_name}"


def similar_topics(node: Node, topic: str) -> str:
    """The end of a sentence about a topic that nobody publishes: what may be meant; empty if it is published."""
    topic = node.resolve_topic_name(topic)
    if node.count_publishers(topic):
        return ""
    names = [name for name, _ in node.get_topic_names_and_types() if other_publishers(node, name)]
    similar = get_close_matches(topic, names, n=3)
    return f"; similar ones are {', '.join(similar)}" if similar else ""


def other_publishers(node: Node, topic: str) -> str:
    """The nodes besides `node` that publish a topic of the graph, by name; another of the same name counts."""
    names = sorted(map(node_name, node.get_publishers_info_by_topic(node.resolve_topic_name(topic))))
    if (own := node.get_fully_qualified_name()) in names:
        names.remove(own)
    return ", ".join(names)


def _fitting(offers: Sequence[QoSProfile], newest: bool) -> QoSProfile:
    """The strongest request that every offer fulfils; with `newest` best effort, unless they are latched."""
    reliable, latched = (all(flags) for flags in zip(*map(_strength, offers), strict=True))
    if newest and not latched:
        return NEWEST
    return QoSProfile(
        depth=DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _strength(qos: QoSProfile) -> tuple[bool, bool]:
    return qos.reliability == ReliabilityPolicy.RELIABLE, qos.durability == DurabilityPolicy.TRANSIENT_LOCAL


def qos_words(qos: QoSProfile) -> str:
    """Reliability and durability."""
    return f"{qos.reliability.name} {qos.durability.name}"
