"""The client of a skill: it ends when the skill does, when it is interrupted, and when its node is gone."""

from __future__ import annotations

import signal
import time

import numpy as np
import pytest

from diwa_data.testing.waiting import wait

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

CLIENT = ("skill:=open_drawer", "max_steps:=1000")


@pytest.fixture
def running(start, bundle, robot, arm):
    """The node and its client, in the middle of a skill that never succeeds."""
    from diwa_data.testing.ros import PARAMETERS

    node = start("policy_node", *PARAMETERS, "skill:=open_drawer", f"checkpoint:={bundle}", "success_ticks:=0")
    client = start("run_skill", *CLIENT)
    node.wait_for("is loaded", 40)
    end = time.monotonic() + 20
    while len(arm.targets) < 60 and time.monotonic() < end:
        time.sleep(0.1)
    assert len(arm.targets) >= 60, client.said
    time.sleep(1.0)
    return node, client


def test_ctrl_c_cancels_and_the_node_stays(running):
    node, client = running
    begun = time.monotonic()
    assert client.stop() == 1
    assert time.monotonic() - begun < 3
    client.wait_for("open_drawer: no success (cancelled) after ")
    assert node.running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_goal_ends_with_its_node(running, number, arm):
    node, client = running
    assert node.stop(number) == 0
    assert client.wait(5) == 1
    client.wait_for("open_drawer: no success (deactivated) after ")


def test_a_node_that_was_killed_is_missed(running):
    node, client = running
    node.kill()
    assert client.wait(10) == 2
    client.wait_for("policy has said nothing for 5 s: did it die?")


def test_ctrl_c_before_the_skill_began_ends_it_at_once(start):
    client = start("run_skill", *CLIENT)
    time.sleep(3.0)
    assert client.stop() == 2
    client.wait_for("interrupted before the skill began")


def test_patience_has_an_end(start):
    client = start("run_skill", *CLIENT, "patience:=1.0")
    assert client.wait(20) == 2
    client.wait_for("(after 1 s)")


@pytest.fixture
def change(policy, topics):
    """`change(name, value)`: as `ros2 param set /policy NAME VALUE`; why it was refused, or nothing."""
    from rcl_interfaces.srv import SetParameters
    from rclpy.parameter import Parameter

    client = topics.call(lambda: topics.node.create_client(SetParameters, "/policy/set_parameters"))
    assert client.wait_for_service(10.0)

    def set_one(name: str, value: object) -> str:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = wait(client.call_async(request)).results
        return "" if result.successful else result.reason

    return set_one


def test_what_is_changed_before_configure_counts_and_while_active_nothing_may_change(policy, change):
    assert change("skill", "close_drawer") == ""
    assert not policy.transition("configure"), "the bundle is of open_drawer"
    assert change("skill", "open_drawer") == ""
    assert policy.transition("configure")
    assert change("max_steps", 2) == ""
    for name in ("robot.name", "arm.rate", "use_sim_time"):
        assert "read-only" in change(name, "another")
    time.sleep(0.5)
    assert policy.transition("activate")
    for name in ("max_steps", "arm.limits.max_speed"):
        assert change(name, 50).startswith("the node is active: ros2 lifecycle set /policy deactivate")
    handle = policy.send(max_steps=0)
    assert handle.accepted
    result = wait(handle.get_result_async()).result
    assert (result.reason, result.steps) == ("max_steps", 2)


def test_limits_that_are_changed_hold(policy, change, arm):
    assert policy.transition("configure")
    time.sleep(0.5)
    assert "text to YAML" in change("arm.limits.max_speed", "fast")
    assert change("arm.limits.max_speed", 0.02) == ""
    assert policy.transition("activate")
    policy.act(lambda n: [0.9, 0, 0, 0, 0, 0, 1])
    wait(policy.send(max_steps=15).get_result_async())
    positions = np.array([target.position for target in list(arm.targets)])
    assert 0.01 < np.ptp(positions[:, 0]) <= 0.02 * 20 / 7.5
    assert policy.transition("deactivate")
    assert change("arm.limits.max_speed", 0.5) == ""
