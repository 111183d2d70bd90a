"""Subscriptions that fit what publishers offer, and words for those that stay silent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosidl_runtime_py.utilities import get_message

from diwa_data.recording import messages
from diwa_data.ros.distributions import SubscriptionEventCallbacks, with_received

DEPTH = 300
"""Messages kept per topic while the disk is slow: ten seconds of images."""

OnMessage = Callable[[str, str, float, bytes], None]
"""Called with topic, type, seconds received and serialised bytes."""


class Offers:
    """Hears every topic of a list as soon as someone publishes it, as reliably as all its publishers offer."""

    def __init__(self, node: Node, topics: Sequence[str], on_message: OnMessage):
        self._node, self._topics, self._on_message = node, list(topics), on_message
        self._subscriptions: dict[str, tuple[Any, QoSProfile]] = {}
        self.lost: dict[str, int] = dict.fromkeys(topics, 0)
        """Images that the middleware says it lost, by topic."""

    def look(self) -> None:
        """Subscribe to what is published now; a publisher that offers less than the others lowers the request."""
        for topic in self._topics:
            offers = self._publishers(topic)
            if not offers:
                continue
            wanted = _fitting([offer.qos_profile for offer in offers])
            if topic in self._subscriptions:
                subscription, before = self._subscriptions[topic]
                if _strength(wanted) >= _strength(before):
                    continue
                self._node.destroy_subscription(subscription)
            self._subscriptions[topic] = self._subscribe(topic, offers[0].topic_type, wanted), wanted

    def rivals(self) -> dict[str, str]:
        """Topics that nodes of different names publish -> those names: what they send is mixed.

        A node that was killed and started again is known twice for some seconds.
        """
        names = {topic: {node_name(offer) for offer in self._publishers(topic)} for topic in self._topics}
        return {topic: ", ".join(sorted(several)) for topic, several in names.items() if len(several) > 1}

    def describe(self, topic: str) -> str:
        """Why `topic` may be silent: nobody publishes it, or who does, with offered against requested QoS."""
        offers = self._publishers(topic)
        if not offers:
            return f"nothing on {topic}: nobody publishes it"
        who = "; ".join(
            f"{node_name(offer)} ({offer.topic_type}) offers {_words(offer.qos_profile)}" for offer in offers
        )
        requested = _words(self._subscriptions[topic][1]) if topic in self._subscriptions else "nothing yet"
        return f"nothing on {topic}, though {who}; requested {requested}"

    def _publishers(self, topic: str) -> list[Any]:
        return self._node.get_publishers_info_by_topic(topic)

    def _subscribe(self, topic: str, message_type: str, qos: QoSProfile) -> Any:
        def on_message(received: float, data: bytes) -> None:
            self._on_message(topic, message_type, received, data)

        def on_lost(event: Any) -> None:
            self.lost[topic] += event.total_count_change

        # every handler costs the executor time at every message of any topic: none by default, one for each camera
        watched = on_lost if message_type == messages.IMAGE_TYPE else None
        events = SubscriptionEventCallbacks(message_lost=watched, use_default_callbacks=False)
        message_class, callback = get_message(message_type), with_received(on_message)
        return self._node.create_subscription(message_class, topic, callback, qos, event_callbacks=events, raw=True)


def node_name(offer: Any) -> str:
    """The full name of the node that publishes it."""
    return f"{offer.node_namespace.rstrip('/')}/{offer.node_name}"


def other_publishers(node: Node, topic: str) -> str:
    """The nodes besides `node` that publish `topic`, by name; another of the same name counts."""
    names = sorted(map(node_name, node.get_publishers_info_by_topic(topic)))
    if (own := node.get_fully_qualified_name()) in names:
        names.remove(own)
    return ", ".join(names)


def _fitting(offers: Sequence[QoSProfile]) -> QoSProfile:
    """The strongest request that every offer fulfils."""
    reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
    latched = all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
    return QoSProfile(
        depth=DEPTH,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def _strength(qos: QoSProfile) -> tuple[bool, bool]:
    return qos.reliability == ReliabilityPolicy.RELIABLE, qos.durability == DurabilityPolicy.TRANSIENT_LOCAL


def _words(qos: QoSProfile) -> str:
    return f"{qos.reliability.name} {qos.durability.name}"
