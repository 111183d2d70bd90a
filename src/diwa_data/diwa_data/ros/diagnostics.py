"""What a node tells on `/diagnostics`, once a second."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from diwa_data.recording import messages


class Diagnostics:
    """The statuses of one node."""

    def __init__(self, node: Node):
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, messages.DIAGNOSTICS, 10)
        self._statuses: list[DiagnosticStatus] = []

    def add(self, name: str, problem: str = "", **values: object) -> None:
        """One status: an error that says `problem`, or ok without one; `values` are shown as text."""
        level = DiagnosticStatus.ERROR if problem else DiagnosticStatus.OK
        pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        self._statuses.append(
            DiagnosticStatus(
                level=level,
                name=f"{self._node.get_name()}: {name}",
                message=problem or "ok",
                hardware_id="diwa",
                values=pairs,
            )
        )

    def publish(self) -> None:
        """Send what was added since the last time."""
        message = DiagnosticArray(status=self._statuses)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
        self._statuses = []
