"""What rclpy's lifecycle nodes lack."""

from __future__ import annotations

from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode


def refuse_invalid_transitions(node: LifecycleNode) -> None:
    """Answer a transition that the node's state does not have (`configure` while active) with a refusal.

    rclpy lets the error end the node, in the middle of a skill.
    """
    service = node._service_change_state
    change = service.callback

    def refuse(request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except rclpy_implementation.RCLError as error:
            node.get_logger().error(f"transition {request.transition.id} is refused: {error}")
            response.success = False
            return response

    service.callback = refuse
