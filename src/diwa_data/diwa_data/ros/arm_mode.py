"""The arm's mode, as its driver or one of our nodes tells it: does it obey?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rosidl_runtime_py.utilities import get_message

from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.ros.topics import SENSOR, subscribe

MODES = ("other", "idle", "move", "guiding", "reflex", "user stopped", "error recovery")
"""libfranka's names, by number."""
IDLE, MOVING, GUIDING, USER_STOPPED, RECOVERING = 1, 2, 3, 5, 6


@dataclass(frozen=True)
class ModeConfig:
    """Topic on which the arm reports its mode. Any but `moving` (reflex, user stop, guiding) stops target and skill."""

    topic: str = ""
    """Topic, such as franka_robot_state_broadcaster/robot_state; empty = `/diwa/arm_mode`, if anyone publishes it."""
    type: str = "franka_msgs/msg/FrankaRobotState"
    """Type of its messages."""
    field: str = "robot_mode"
    """Field of the message that holds the mode."""
    moving: int = MOVING
    """Value of that field while the arm obeys."""


class ModeWatch:
    """Subscribes to the mode and calls `on_problem` whenever it comes and is not `moving`."""

    def __init__(self, node: Node, config: ModeConfig, on_problem: Callable[[str], None]):
        """Raises `DiwaError` if the mode's message type is not installed."""
        self._topic, self._on_problem = config.topic, on_problem
        self._moving = config.moving if config.topic else MOVING
        self._mode: int | None = None
        if not config.topic:
            subscribe(node, messages.ARM_MODE, self._on_mode, SENSOR)
            return
        try:
            message_class = get_message(config.type)
        except (ModuleNotFoundError, AttributeError, ValueError) as error:
            cure = "source the workspace of your arm's driver, or leave mode.topic empty"
            raise DiwaError(f"no message type {config.type} for {config.topic}: {cure}") from error

        def on_message(message: Any) -> None:
            self._on_mode(int(getattr(message, config.field)))

        node.create_subscription(message_class, config.topic, on_message, SENSOR)

    @property
    def problem(self) -> str:
        """Why the arm does not obey; empty if it does, or never says."""
        if self._mode is None:
            return f"nothing on {self._topic}" if self._topic else ""
        if self._mode == self._moving:
            return ""
        return f"the arm is in {mode_words(self._mode)}, not {self._moving}"

    def _on_mode(self, mode: int) -> None:
        self._mode = mode
        if self.problem:
            self._on_problem(self.problem)


def mode_words(mode: int) -> str:
    """The number of a mode with its name."""
    return f"mode {mode} ({MODES[mode]})" if 0 <= mode < len(MODES) else f"mode {mode}"
