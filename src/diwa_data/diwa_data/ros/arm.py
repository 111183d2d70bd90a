"""The arm as a teleoperator needs it: where it is, whether that is known, and whether it obeys us alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from rclpy.node import Node

from diwa_data import messages
from diwa_data.motion import MotionLimits
from diwa_data.pose import Pose, rotation_distance
from diwa_data.ros.offers import other_publishers
from diwa_data.ros.topics import SENSOR, hear

MOVED_POS, MOVED_ROT = 0.02, 0.1
"""Metres, rad between two measured poses, besides what the speed limits allow: something else moved the arm."""
PATIENCE = 2.5
"""Seconds without any measured pose after which the operator is told."""


class Arm:
    """Hears the measured pose and watches who publishes targets."""

    def __init__(self, node: Node, limits: MotionLimits, max_age: float, on_moved: Callable[[Pose], None]):
        """`max_age`: seconds after which a pose is too old; `on_moved`: called with a pose to start anew from."""
        self._node, self._limits, self._max_age, self._on_moved = node, limits, max_age, on_moved
        self._heard = -float("inf")
        self._others: str | None = None  # unknown until it was looked
        self.pose: Pose | None = None
        """Measured; None before the first."""
        self._problem, self._begun = "no measured pose yet", time.monotonic()
        hear(node, messages.CURRENT_POSE, self._on_pose, SENSOR)
        node.create_timer(0.5, self._look_around)

    @property
    def problem(self) -> str:
        """Why no target may be published now; empty if it may."""
        if not self._problem and time.monotonic() - self._heard > self._max_age:
            self._tell(f"no {messages.CURRENT_POSE} for {self._max_age} s")
        return self._problem

    def _on_pose(self, pose: Pose) -> None:
        last, self.pose = self.pose, pose
        elapsed, self._heard = time.monotonic() - self._heard, time.monotonic()
        jumped = last is None or (
            np.linalg.norm(pose.position - last.position) > MOVED_POS + elapsed * self._limits.max_speed
            or rotation_distance(last.rotation, pose.rotation) > MOVED_ROT + elapsed * self._limits.max_rotation_speed
        )
        recovered = self._problem and self._others == ""
        if jumped or recovered:
            self._on_moved(pose)
        if recovered:
            self._problem = ""
            self._node.get_logger().info("the target is the measured pose: press the deadman to move")

    def _look_around(self) -> None:
        """An arm's controller may ignore two publishers both, or obey both."""
        if self.pose is None and time.monotonic() - self._begun > PATIENCE:
            self._begun = float("inf")
            published = self._node.count_publishers(messages.CURRENT_POSE)
            why = "its publisher is silent" if published else "nobody publishes it"
            self._tell(f"nothing on {messages.CURRENT_POSE}: {why}")
        self._others = other_publishers(self._node, messages.TARGET_POSE)
        if self._others and not self._problem.endswith("stop it"):
            self._tell(f"{self._others} publishes {messages.TARGET_POSE} too: stop it")

    def _tell(self, problem: str) -> None:
        self._problem = problem
        self._node.get_logger().error(f"no target is published: {problem}")
