"""The arm as a teleoperator needs it: where it is, whether that is believed, and whether it obeys us alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rclpy.node import Node

from diwa_data import clock
from diwa_data.motion import BelievedPose, MotionLimits
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.offers import other_publishers
from diwa_data.ros.running import every
from diwa_data.ros.topics import SENSOR, hear

PATIENCE = 2.5
"""Seconds without any measured pose after which the operator is told."""


class Arm:
    """Hears the measured pose and watches who publishes targets."""

    def __init__(
        self, node: Node, limits: MotionLimits, robot: RobotConfig, max_age: float, on_known: Callable[[Pose], str]
    ):
        """`max_age`: seconds after which a pose is too old.

        `on_known` is called with a pose from which to start anew, and answers why it cannot (empty if it can).
        """
        self._node, self._max_age, self._on_known = node, max_age, on_known
        self._believed = BelievedPose(limits, robot.plausible)
        self._others: str | None = None  # unknown until it was looked
        self._problem, self._begun = "no measured pose yet", time.monotonic()
        hear(node, messages.CURRENT_POSE, self._on_pose, SENSOR, robot.base_frame)
        every(node, 0.5, self._look_around)

    @property
    def pose(self) -> Pose | None:
        """Measured; None while it is not believed."""
        return self._believed.pose

    @property
    def problem(self) -> str:
        """Why no target may be published now; empty if it may."""
        if not self._problem and clock.now() - self._believed.heard > self._max_age:
            self.lose(f"no {messages.CURRENT_POSE} for {self._max_age} s")
        return self._problem

    def lose(self, problem: str) -> None:
        """From now on no target may be published, until the arm is known anew."""
        self._problem = problem
        self._node.get_logger().error(f"the target brakes, then none is published: {problem}")

    def _on_pose(self, pose: Pose) -> None:
        self._believed.hear(pose, clock.now())
        if self._believed.problem:
            if not self._problem:
                self.lose(self._believed.problem)
        elif self._problem and self._others == "":
            problem = self._on_known(pose)
            if problem:
                self._node.get_logger().warn(problem, throttle_duration_sec=PATIENCE)
            self._problem = problem

    def _look_around(self) -> None:
        """An arm's controller may ignore two publishers both, or obey both."""
        if self._believed.heard == -math.inf and time.monotonic() - self._begun > PATIENCE:
            self._begun = float("inf")
            published = self._node.count_publishers(messages.CURRENT_POSE)
            why = "its publisher is silent" if published else "nobody publishes it"
            self.lose(f"nothing on {messages.CURRENT_POSE}: {why}")
        self._others = other_publishers(self._node, messages.TARGET_POSE)
        if self._others and not self._problem.endswith("stop it"):
            self.lose(f"{self._others} publishes {messages.TARGET_POSE} too: stop it")
