"""The arm's mode, where the arm says it: anything but "move" means that it does not obey."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rosidl_runtime_py.utilities import get_message

from diwa_data.errors import DiwaError
from diwa_data.ros.topics import SENSOR


@dataclass(frozen=True)
class ModeConfig:
    """Where the arm says its mode: anything but `moving` (reflex, user stop, guiding) freezes target and skill."""

    topic: str = ""
    """For instance /franka_robot_state_broadcaster/robot_state; empty = the arm does not say."""
    type: str = "franka_msgs/msg/FrankaRobotState"
    """Type of its messages."""
    field: str = "robot_mode"
    """Their field that holds the mode."""
    moving: int = 2
    """Its value when the arm obeys."""


class ModeWatch:
    """Hears the mode and calls `on_problem` whenever it is heard and is not `moving`."""

    def __init__(self, node: Node, config: ModeConfig, on_problem: Callable[[str], None]):
        """Raises `DiwaError` if the mode's message type is not installed."""
        self._config, self._on_problem = config, on_problem
        self._mode: int | None = None
        if config.topic:
            node.create_subscription(_message_class(config), config.topic, self._on_mode, SENSOR)

    @property
    def problem(self) -> str:
        """Why the arm does not obey; empty if it does, or never says."""
        if not self._config.topic or self._mode == self._config.moving:
            return ""
        if self._mode is None:
            return f"nothing on {self._config.topic}"
        return f"the arm is in mode {self._mode}, not {self._config.moving}"

    def _on_mode(self, message: Any) -> None:
        self._mode = int(getattr(message, self._config.field))
        if self.problem:
            self._on_problem(self.problem)


def _message_class(config: ModeConfig) -> Any:
    try:
        return get_message(config.type)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        cure = "source the workspace of your arm's driver, or leave arm.mode.topic empty"
        raise DiwaError(f"no message type {config.type} for {config.topic}: {cure}") from error
