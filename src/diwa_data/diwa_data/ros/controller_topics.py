"""The raw controller as topics: published by whoever reads it, heard by who does not."""

from __future__ import annotations

import time

import numpy as np
from rclpy.node import Node
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.ros.topics import hear, publisher
from diwa_data.teleop.clutch import ControllerState

MAX_AGE = 0.1
"""Seconds after which a controller that is not heard of counts as lost."""


class ControllerPublisher:
    """Publishes controller readings: pose, Joy of axes [trigger] and buttons [deadman, valid], and events."""

    def __init__(self, node: Node, base_frame: str = messages.BASE_FRAME):
        self._base_frame = base_frame
        self._pose, self._joy = (publisher(node, t) for t in (messages.CONTROLLER_POSE, messages.CONTROLLER_JOY))
        self._event = publisher(node, messages.EPISODE_EVENT)

    def publish(self, state: ControllerState, now: float) -> None:
        """One reading, taken at `now` seconds."""
        self._pose(messages.encode_pose(state.pose, now, self._base_frame))
        buttons = np.array([state.deadman, state.valid])
        self._joy(messages.encode_joy(np.array([state.trigger]), buttons, now))
        for event in state.events:
            self._event(messages.encode_string(event))


class TopicController:
    """The controller that another node publishes, such as the scripted operator. Its events are not read."""

    instructions = "another node's, on /diwa/controller/*"

    def __init__(self, node: Node):
        self._last = ControllerState(Pose(np.zeros(3), Rotation.identity()), False, 0.0, valid=False)
        self._pose, self._heard = self._last.pose, -float("inf")
        hear(node, messages.CONTROLLER_POSE, self._on_pose)
        hear(node, messages.CONTROLLER_JOY, self._on_joy)

    def read(self) -> ControllerState:
        """The controller as last heard; invalid if that is too long ago."""
        if time.monotonic() - self._heard <= MAX_AGE:
            return self._last
        return ControllerState(self._last.pose, self._last.deadman, self._last.trigger, valid=False)

    def signal(self, what: str) -> None:
        """Nobody's hand is in it."""

    def close(self) -> None:
        """Nothing to give back."""

    def _on_pose(self, pose: Pose) -> None:
        self._pose = pose

    def _on_joy(self, joy: object) -> None:
        axes, buttons = joy.axes, joy.buttons  # type: ignore[attr-defined]
        if len(axes) >= 1 and len(buttons) >= 2 and np.isfinite(axes[0]):
            self._last = ControllerState(self._pose, bool(buttons[0]), float(axes[0]), (), bool(buttons[1]))
            self._heard = time.monotonic()
