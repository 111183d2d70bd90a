"""The gripper node against action servers that take their time."""

from __future__ import annotations

import importlib.util
import time
from functools import partial

import pytest

from diwa_data.recording import messages
from diwa_data.testing.waiting import until

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(importlib.util.find_spec("franka_msgs") is None, reason="needs ROS 2 and franka_msgs"),
]


class Gripper:
    """Servers of `grasp` and `move` that end only when they are cancelled, or after `seconds`."""

    def __init__(self, node, seconds: float):
        from franka_msgs.action import Grasp, Move
        from rclpy.action import ActionServer, CancelResponse
        from rclpy.callback_groups import ReentrantCallbackGroup

        self.told: list[str] = []
        self._seconds = seconds
        for name, action in (("grasp", Grasp), ("move", Move)):
            ActionServer(
                node, action, f"/franka_gripper/{name}", partial(self._execute, name),
                cancel_callback=lambda _: CancelResponse.ACCEPT, callback_group=ReentrantCallbackGroup(),
            )  # fmt: skip

    async def _execute(self, name: str, goal):
        from franka_msgs.action import Grasp, Move

        self.told.append(f"{name} {goal.request.width:.2f}")
        end = time.monotonic() + self._seconds
        while time.monotonic() < end and not goal.is_cancel_requested:
            await LetOthersRun()
        if goal.is_cancel_requested:
            self.told.append("cancelled")
            goal.canceled()
        else:
            goal.succeed()
        return (Grasp if name == "grasp" else Move).Result()


class LetOthersRun:
    """Awaited in an executor's task: it goes on at the next spin."""

    def __await__(self):
        yield


def command(topics, value: float) -> None:
    from diwa_data.ros.topics import LATCHED

    topics.publish(messages.GRIPPER_COMMAND, messages.encode_float(value), LATCHED)


def test_edges_become_goals(topics, start):
    gripper = topics.call(lambda: Gripper(topics.node, 0.0))
    start("gripper_node")
    until(lambda: topics.node.count_subscribers(messages.GRIPPER_COMMAND))
    for value in (1.0, 1.0, -1.0, -1.0, 1.0):
        command(topics, value)
        time.sleep(1.5)
    assert gripper.told == ["move 0.08", "grasp 0.00", "move 0.08"]


def test_a_server_that_hangs_is_cancelled_and_the_next_wish_goes_through(topics, start, fault):
    gripper = topics.call(lambda: Gripper(topics.node, 100.0))
    node = start("gripper_node", "worker.patience:=1.0")
    command(topics, -1.0)
    until(lambda: gripper.told == ["grasp 0.00", "cancelled"])
    said = node.wait_for("the gripper did not close within 1 s: cancelled")
    command(topics, 1.0)
    until(lambda: gripper.told[:3] == ["grasp 0.00", "cancelled", "move 0.08"])
    assert said
    fault(
        "the gripper's server hangs for 100 s",
        "the arm does not wait for it; the goal was cancelled, the next one sent",
    )
