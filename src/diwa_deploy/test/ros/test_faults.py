"""Faults of a lab's first week: network, namespace, frames, driver or controller go wrong in a skill."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
import threading
import time
from typing import Any

import numpy as np
import pytest

from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.testing.waiting import until

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

ARM = {messages.CURRENT_POSE, messages.JOINT_STATES}
EVERYTHING = ARM | {messages.image_topic(camera) for camera in ("static", "gripper")}
IDLE, MOVE, REFLEX = 1, 2, 4


def back_and_forth(n: int) -> list[float]:
    """An action that keeps the hand moving, inside the workspace."""
    return [0.5 if n // 8 % 2 == 0 else -0.5, 0, 0, 0, 0, 0, -1]


def away(n: int) -> list[float]:
    """An action that goes on in one direction."""
    return [0.5, 0, 0, 0, 0, 0, -1]


def nothing_comes(arm: Any, seconds: float = 0.5) -> bool:
    """No target is published from now on, once the last one is on its way."""
    time.sleep(0.5)
    count = len(arm.targets)
    time.sleep(seconds)
    return len(arm.targets) == count


@pytest.fixture
def running(active):
    """The node in the middle of a skill, and the handle of its goal."""
    active.act(back_and_forth)
    handle = active.send()
    time.sleep(1.5)
    return active, handle


def test_a_network_that_is_lost_and_comes_back_moves_nothing(running, arm, robot, result, topics, fault):
    active, handle = running
    robot.silent |= EVERYTHING
    done = result(handle)
    assert re.search(r" is 1\.\d+ s old", done.reason), done.reason
    assert nothing_comes(arm)
    robot.silent -= EVERYTHING
    assert nothing_comes(arm), "it is back, and nobody has rearmed"
    assert not active.send(max_steps=2).accepted
    until(lambda: active.call(topics, "rearm").success)
    assert active.send(max_steps=2).accepted
    how = f"braked after 0.2 s, ended: {done.reason}; no target came before it was rearmed"
    fault("the network to the arm is lost for good, then back", how)


def test_a_network_that_is_lost_for_a_moment_is_survived(running, arm, robot, result, fault):
    active, handle = running
    robot.silent |= EVERYTHING
    time.sleep(0.4)
    robot.silent -= EVERYTHING
    time.sleep(1.0)
    handle.cancel_goal_async()
    done = result(handle)
    held = active.node._robot.interventions["hold"]
    assert (done.reason, held > 0) == ("cancelled", True)
    fault("the network to the arm is lost for 0.4 s", f"held {held} targets, went on")


def test_a_second_policy_in_the_same_namespace_ends_the_skill(running, start, arm, result, topics, fault):
    from diwa_data.testing.ros import PARAMETERS

    active, handle = running
    second = start("policy_node", *PARAMETERS, "skill:=open_drawer")
    done = result(handle)
    assert done.reason == "/policy publishes /diwa/target_pose too"
    assert arm.moved(0.3) < 1e-6
    assert not active.call(topics, "rearm").success
    assert second.stop() == 0
    until(lambda: active.call(topics, "rearm").success)
    assert active.send(max_steps=2).accepted
    fault(
        "a second policy starts in the same namespace",
        f"stood still, ended: {done.reason}; none before that one is gone",
    )


def test_a_pose_in_another_frame_ends_the_skill(running, arm, robot, result, fault):
    _, handle = running
    robot.frame = "world"
    done = result(handle)
    assert done.reason.startswith("/diwa/current_pose is in the frame 'world', not in the robot's base 'panda_link0'")
    assert nothing_comes(arm)
    fault("the driver's poses come in another frame", f"braked and disarmed: {done.reason[:79]}")


def test_transforms_that_stop_end_the_skill(domain, topics, robot, bundle, open_policy, arm, result, fault):
    from diwa_data.testing.ros import NodeProcess, OtherArm

    given = ("robot.base_frame:=base", "robot.topics.pose.child:=tool0")
    robot.silent |= {messages.CURRENT_POSE}
    tree = OtherArm(topics, gripper=False, pose=arm.pose)
    adapter = NodeProcess("diwa_data.ros.adapter_node", domain, *given)
    try:
        policy = open_policy(bundle, *given)
        assert policy.transition("configure")
        until(lambda: policy.transition("activate"))
        policy.act(back_and_forth)
        handle = policy.send()
        time.sleep(1.5)
        tree.silent |= {"/tf"}
        done = result(handle)
        assert done.reason.startswith("/diwa/current_pose is 1."), done.reason
        assert nothing_comes(arm)
        adapter.wait_for("nothing on /tf", 30.0)
        fault("the transforms (/tf) of an arm that says its pose by them stop", f"braked, disarmed: {done.reason}")
    finally:
        adapter.end()
        tree.close()


def test_a_driver_that_is_restarted_finds_no_target_that_pulls(running, arm, robot, result, topics, fault):
    active, handle = running
    robot.silent |= ARM
    done = result(handle)
    assert re.search(r" is 1\.\d+ s old", done.reason), done.reason
    sagged = Pose(arm.targets[-1].position - [0.0, 0.0, 0.1], arm.targets[-1].rotation)
    robot.pose = lambda _: sagged
    time.sleep(1.0)
    robot.silent -= ARM
    assert nothing_comes(arm), "nothing pulls the arm to where it was"
    arm.targets.clear()
    until(lambda: active.call(topics, "rearm").success)
    until(lambda: arm.targets)
    np.testing.assert_allclose(arm.targets[0].position, sagged.position, atol=1e-6)
    how = f"braked, disarmed: {done.reason}; the next target, after rearming, is where the arm was then"
    fault("the driver is restarted in a skill; the arm has sagged by 10 cm", how)


def test_an_arm_that_does_not_follow_is_not_left_behind(active, arm, robot, result, fault):
    active.act(away)
    handle = active.send(max_steps=30)
    time.sleep(0.8)
    stopped, count = arm.targets[-1], len(arm.targets)
    robot.pose = lambda _: stopped
    done = result(handle)
    ahead = max(float(np.linalg.norm(target.position - stopped.position)) for target in arm.targets[count:])
    assert ahead < 1.2 * MotionLimits().max_lead_pos
    how = f"the target stayed within {1e3 * ahead:.0f} mm of the arm; ended: {done.reason}"
    fault("the arm's controller is deactivated in a skill, and nothing says so", how)


def test_a_mode_on_our_topic_ends_the_skill(running, arm, topics, result, fault):
    from std_msgs.msg import Int8

    active, handle = running
    said = topics.call(lambda: topics.node.create_publisher(Int8, messages.ARM_MODE, 10))
    until(lambda: said.get_subscription_count() > 0)
    said.publish(Int8(data=MOVE))
    time.sleep(0.5)
    said.publish(Int8(data=IDLE))
    done = result(handle)
    assert done.reason == "the arm is in mode 1 (idle), not 2"
    assert nothing_comes(arm)
    assert not active.call(topics, "rearm").success
    said.publish(Int8(data=MOVE))
    until(lambda: active.call(topics, "rearm").success)
    assert active.send(max_steps=2).accepted
    fault("the arm's controller is deactivated in a skill, and the mode says so", f"braked, disarmed: {done.reason}")


@pytest.fixture
def served(bundle, open_policy, robot):
    """The node in the middle of a skill that a server decides, the handle of its goal, and that server."""
    from diwa_deploy.serving import PolicyServer

    folder = bundle.parent / "served"
    if not folder.exists():
        shutil.copytree(bundle, folder / "open_drawer")
    with PolicyServer(("127.0.0.1", 0), ["open_drawer"], folder, runtime="torch") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        policy = open_policy(bundle, f"server:=http://127.0.0.1:{server.server_port}")
        assert policy.transition("configure")
        until(lambda: policy.transition("activate"))
        handle = policy.send(max_steps=60)
        time.sleep(1.5)
        yield policy, handle, server
        server.shutdown()


def test_a_remote_policy_that_is_late_holds(served, arm, result, fault):
    policy, handle, server = served
    answer, count = server.answer, itertools.count(1)

    def late(method: str, path: str, body: bytes) -> dict:
        time.sleep(0.5 if next(count) % 5 == 0 else 0.0)
        return answer(method, path, body)

    server.answer = late
    time.sleep(3.0)
    handle.cancel_goal_async()
    done = result(handle)
    held = policy.node._robot.interventions["hold"]
    assert (done.reason, held > 0) == ("cancelled", True)
    fault("a remote policy: every fifth answer comes 0.5 s late", f"held {held} targets, went on")


def test_a_remote_policy_that_is_lost_ends_the_skill(served, arm, topics, result, fault):
    policy, handle, server = served
    answer, lost = server.answer, threading.Event()

    def never(method: str, path: str, body: bytes) -> dict:
        lost.wait(30.0)
        return answer(method, path, body)

    server.answer = never
    done = result(handle)
    assert re.match(r"the last command is 1|failed: http://127.0.0.1:\d+: no answer within 1 s", done.reason), (
        done.reason
    )
    assert arm.moved(0.3) < 1e-6
    assert not policy.send(max_steps=2).accepted
    lost.set()
    server.answer = answer
    until(lambda: policy.call(topics, "rearm").success)
    assert result(policy.send(max_steps=2)).reason == "max_steps"
    reason = re.sub(r"http://127.0.0.1:\d+", "http://...", done.reason)
    fault(
        "a remote policy: the network to it is lost in a skill", f"stood still, ended: {reason[:60]}; rearmed, went on"
    )


@pytest.mark.skipif(importlib.util.find_spec("franka_msgs") is None, reason="needs ROS 2 and franka_msgs")
def test_a_reflex_is_recovered_with_our_services_alone(running, start, arm, topics, driver, recover, result, fault):
    active, handle = running
    start("franka_node", "controller:=''")
    said = topics.subscribe(messages.ARM_MODE)
    until(lambda: said[-1:] == [MOVE])
    driver.mode = REFLEX
    done = result(handle)
    assert done.reason == "the arm is in mode 4 (reflex), not 2"
    assert nothing_comes(arm)
    assert driver.told == [], "nothing recovers by itself"
    assert not active.call(topics, "rearm").success
    assert recover().success
    assert driver.told == ["recover"]
    until(lambda: active.call(topics, "rearm").success)
    assert active.send(max_steps=2).accepted
    fault(
        "a reflex in a skill, recovered by /franka/recover", f"braked, disarmed: {done.reason}; then rearmed, went on"
    )
