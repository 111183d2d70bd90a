"""Grippers that are not Franka's: told by a topic, or by the actions of control_msgs."""

from __future__ import annotations

import importlib.util
import time

import pytest

from diwa_data.recording import messages
from diwa_data.testing.waiting import until

pytestmark = pytest.mark.ros
SERVED = pytest.mark.skipif(importlib.util.find_spec("control_msgs") is None, reason="needs control_msgs")


def command(topics, value: float) -> None:
    from diwa_data.ros.topics import LATCHED

    topics.publish(messages.GRIPPER_COMMAND, messages.encode_float(value), LATCHED)


def listen(topics, kind: str, topic: str) -> list:
    from rosidl_runtime_py.utilities import get_message

    told: list = []
    topics.call(lambda: topics.node.create_subscription(get_message(kind), topic, told.append, 10))
    return told


@pytest.mark.parametrize(
    ("kind", "joints", "closed"),
    [
        ("std_msgs/msg/Float64", (), lambda told: told.data),
        ("std_msgs/msg/Float64MultiArray", ("left", "right"), lambda told: list(told.data)),
        ("sensor_msgs/msg/JointState", ("knuckle",), lambda told: (told.name, list(told.position))),
    ],
)
def test_a_topic_is_told_at_every_command_that_is_clear(topics, start, kind, joints, closed):
    told = listen(topics, kind, "/grip/command")
    named = [f"robot.topics.command.joints:=[{','.join(joints)}]"] if joints else []
    settings = ("topic:=/grip/command", "open:=0.0", "closed:=0.8", f"type:={kind}")
    start("gripper_node", *(f"robot.topics.command.{each}" for each in settings), *named)
    until(lambda: topics.node.count_publishers("/grip/command"))
    until(lambda: topics.node.count_subscribers(messages.GRIPPER_COMMAND))
    for count, value in enumerate((1.0, -1.0, -1.0), 1):  # of commands that come at once only the last is heard
        command(topics, value)
        until(lambda count=count: len(told) >= count)
        command(topics, -0.1)
        time.sleep(0.5)
    expected = {"Float64": 0.8, "Float64MultiArray": [0.8, 0.8], "JointState": (["knuckle"], [0.8])}
    assert [closed(each) for each in told[1:]] == [expected[kind.rpartition("/")[2]]] * 2


@SERVED
@pytest.mark.parametrize("kind", ["GripperCommand", "ParallelGripperCommand"])
def test_an_action_gets_goals_on_edges(topics, start, kind):
    from rclpy.action import ActionServer
    from rosidl_runtime_py.utilities import get_action

    action, goals = get_action(f"control_msgs/action/{kind}"), []

    def execute(goal):
        goals.append(goal.request.command)
        goal.succeed()
        return action.Result()

    topics.call(lambda: ActionServer(topics.node, action, "/grip/command", execute))
    settings = (f"type:=control_msgs/action/{kind}", "topic:=/grip/command", "open:=0.0", "closed:=0.8", "effort:=50.0")
    named = ["robot.topics.command.joints:=[knuckle]"] if kind.startswith("Parallel") else []
    start("gripper_node", *(f"robot.topics.command.{each}" for each in settings), *named)
    time.sleep(1.0)
    for value in (1.0, 1.0, -1.0):
        command(topics, value)
        time.sleep(0.5)
    until(lambda: len(goals) == 2)
    if kind.startswith("Parallel"):
        assert [(g.name, list(g.position), list(g.effort)) for g in goals] == [
            (["knuckle"], [position], [50.0]) for position in (0.0, 0.8)
        ]
    else:
        assert [(g.position, g.max_effort) for g in goals] == [(0.0, 50.0), (0.8, 50.0)]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("robot.action.gripper:=false",), "robot.action.gripper is false: a robot without a gripper needs no node"),
        (("robot.topics.command.type:=std_msgs/msg/Float64",), "your gripper follows /diwa/gripper_command itself"),
    ],
)
def test_a_node_that_nobody_needs_says_so(start, settings, said):
    gripper = start("gripper_node", *settings)
    gripper.wait_for(said)
    assert gripper.wait() == 2


def test_nobody_who_hears_it_is_told(start):
    settings = ("type:=std_msgs/msg/Float64", "topic:=/grip/command")
    start("gripper_node", *(f"robot.topics.command.{each}" for each in settings)).wait_for(
        "nobody subscribes to /grip/command: is the gripper's driver started?"
    )
