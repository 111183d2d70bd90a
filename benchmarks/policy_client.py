"""A client of the node `policy` in a launched graph."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future

from diwa_interfaces.action import ExecuteSkill


class PolicyClient(Node):
    """Brings the node up, sends goals, and waits while it spins."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._change = self.create_client(ChangeState, "policy/change_state")
        self._action = ActionClient(self, ExecuteSkill, "execute_skill")

    def transition(self, name: str) -> None:
        """configure, activate or deactivate; tried again until it succeeds."""
        self._change.wait_for_service(30.0)
        request = ChangeState.Request(transition=Transition(id=getattr(Transition, f"TRANSITION_{name.upper()}")))
        while not self.wait(self._change.call_async(request)).success:
            self.spin(0.5)

    def send(self, goal: ExecuteSkill.Goal, on_feedback: Callable[[Any], None] | None = None) -> Any:
        """The handle of the goal."""
        return self.wait(self._action.send_goal_async(goal, feedback_callback=on_feedback))

    def wait(self, future: Future) -> Any:
        """Its result."""
        while not future.done():
            rclpy.spin_once(self, timeout_sec=0.1)
        return future.result()

    def spin(self, seconds: float) -> None:
        """Hear what comes in so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(self, timeout_sec=0.05)


@contextmanager
def running_skill(skill: str, checkpoint: Path) -> Iterator[int]:
    """`run_skill.launch.py` on the simulated robot, not yet configured; its process group. ROS must be initialised."""
    words = [f"skill:={skill}", f"checkpoint:={checkpoint}", "robot:=sim", "auto:=false", "success_ticks:=0"]
    command = ["ros2", "launch", "diwa_deploy", "run_skill.launch.py", *words]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as launch:
        try:
            yield launch.pid
        finally:
            os.killpg(launch.pid, signal.SIGINT)
