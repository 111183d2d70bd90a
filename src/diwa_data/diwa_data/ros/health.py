"""How the streams of a recording are: told when it changes, and on `/diagnostics` all the time."""

from __future__ import annotations

import time

from rclpy.node import Node

from diwa_data.recording.session import Session, Status
from diwa_data.ros.diagnostics import Diagnostics
from diwa_data.ros.offers import Offers

PREFLIGHT = 2.0
"""Seconds after which the operator is told what is silent."""


class Health:
    """Watches for topics that fall silent, and for those that several nodes publish."""

    def __init__(self, node: Node, offers: Offers):
        self._node, self._offers = node, offers
        self._diagnostics = Diagnostics(node)
        self._begun = time.monotonic()
        self._silent: set[str] = set()
        self._rivals: dict[str, str] = {}

    def tell(self, status: Status, session: Session) -> None:
        """Call it once a second."""
        self._diagnose(status, session)
        if time.monotonic() - self._begun < PREFLIGHT:
            return
        log, silent, rivals = self._node.get_logger(), set(status.silent), self._offers.rivals()
        for topic in sorted(silent - self._silent):
            log.error(self._offers.describe(topic))
        for topic in sorted(self._silent - silent):
            log.info(f"{topic} is heard (again)")
        for topic in sorted(rivals.keys() - self._rivals.keys()):
            log.error(f"{topic} is published by {rivals[topic]}: what is recorded is mixed; stop all but one")
        self._silent, self._rivals = silent, rivals

    def _diagnose(self, status: Status, session: Session) -> None:
        values = {"episode": status.episode, "seconds": f"{status.seconds:.1f}", "finished": status.finished}
        self._diagnostics.add("session", "", **values, free_mb=f"{status.free_mb:.0f}")
        for topic, lost in self._offers.lost.items():
            problem = self._offers.describe(topic) if topic in status.silent else ""
            rate = f"{status.rates.get(topic, 0.0):.2f}"
            self._diagnostics.add(topic, problem, rate=rate, lost=lost, **session.numbers(topic))
        self._diagnostics.publish()
