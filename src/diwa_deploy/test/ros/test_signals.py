"""Seconds from Ctrl-C to the end of the nodes of a skill, without those in which they waited for a core."""

from __future__ import annotations

import importlib.util
import time

import pytest

from diwa_data.testing.waiting import until

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

LIMIT = 2.0
CLIENT = ("skill:=open_drawer", "max_steps:=1000")


@pytest.fixture
def ends(record_property):
    """`ends(state, process, status)`: Ctrl-C ends it in time, with this status."""

    def end(state: str, process, status: int = 0) -> None:
        whole, alone = process.interrupt()
        for name, value in (("state", state), ("seconds", round(whole, 2)), ("alone", round(alone, 2))):
            record_property(name, value)
        assert process.wait() == status, process.said
        assert alone < LIMIT

    return end


@pytest.fixture
def policy_process(start, bundle, topics, robot):
    """The node, not configured."""
    from lifecycle_msgs.srv import ChangeState

    from diwa_data.testing.ros import PARAMETERS

    client = topics.call(lambda: topics.node.create_client(ChangeState, "/policy/change_state"))
    node = start("policy_node", *PARAMETERS, "skill:=open_drawer", f"checkpoint:={bundle}", "success_ticks:=0")
    until(client.service_is_ready)
    time.sleep(0.5)
    return node


def test_a_policy_that_is_not_configured_ends_in_time(policy_process, ends):
    ends("policy: not configured", policy_process)


def test_a_policy_that_loads_a_skill_ends_in_time(policy_process, start, topics, ends):
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    client = topics.call(lambda: topics.node.create_client(ChangeState, "/policy/change_state"))
    until(client.service_is_ready)
    configure = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    topics.call(lambda: client.call_async(configure))
    time.sleep(0.3)
    ends("policy: loads a skill", policy_process)


@pytest.mark.parametrize("which", ["policy", "run_skill"])
def test_a_running_skill_ends_in_time(policy_process, start, arm, ends, which):
    client = start("run_skill", *CLIENT)
    until(lambda: len(arm.targets) > 60)
    time.sleep(2.0)
    if which == "policy":
        ends("policy: runs a skill", policy_process)
        client.wait()
    else:
        ends("run_skill: runs a skill", client, 1)
        ends("policy: holds the arm after a skill", policy_process)


def test_a_client_that_waits_ends_in_time(start, topics, ends):
    client = start("run_skill", *CLIENT)
    until(lambda: "run_skill" in topics.node.get_node_names())
    time.sleep(0.5)
    ends("run_skill: waits for policy", client, 2)


def test_a_gripper_that_waits_ends_in_time(start, ends):
    node = start(
        "gripper_node", "robot.topics.command.type:=std_msgs/msg/Float64", "robot.topics.command.topic:=/grip/command"
    )
    node.wait_for("nobody subscribes to /grip/command")
    ends("gripper: waits", node)


@pytest.mark.skipif(importlib.util.find_spec("franka_msgs") is None, reason="needs ROS 2 and franka_msgs")
def test_a_franka_that_waits_ends_in_time(start, recover, ends):
    node = start("franka_node")
    assert not recover().success
    ends("franka: waits for its driver", node)
