"""A skill on an arm with topics of its own, through the adapter, and on an arm without a gripper."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diwa_data.pose import Pose
from diwa_data.recording import messages

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

HOME = Pose.from_quaternion(np.array([0.5, 0.0, 0.3]), [1.0, 0.0, 0.0, 0.0])
TOPICS = (
    "robot.base_frame:=base",
    "robot.topics.pose.child:=tool0",
    "robot.topics.joints:=/ur/joint_states",
    "robot.topics.width.topic:=/gripper/joint_states",
    "robot.topics.width.joints:=[knuckle]",
    "robot.topics.width.scale:=-0.10625",
    "robot.topics.width.offset:=0.085",
    "robot.topics.target.topic:=/arm/target",
)


def activate(policy: Any) -> None:
    """As soon as its streams have come."""
    assert policy.transition("configure")
    end = time.monotonic() + 15.0
    while not policy.transition("activate"):
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_skill_moves_an_arm_that_has_other_topics(domain, topics, robot, bundle, open_policy, result):
    from geometry_msgs.msg import PoseStamped

    from diwa_data.testing.ros import NodeProcess, OtherArm

    told: list = []
    topics.call(lambda: topics.node.create_subscription(PoseStamped, "/arm/target", told.append, 1))

    def hand(_: float = 0.0) -> Pose:
        """The hand is where the arm's own topic says."""
        if not told:
            return HOME
        p, q = told[-1].pose.position, told[-1].pose.orientation
        return Pose.from_quaternion(np.array([p.x, p.y, p.z]), [q.x, q.y, q.z, q.w])

    robot.silent |= {messages.CURRENT_POSE, messages.JOINT_STATES}
    arm = OtherArm(topics, pose=hand)
    adapter = NodeProcess("diwa_data.ros.adapter_node", domain, *TOPICS)
    try:
        policy = open_policy(bundle, *TOPICS)
        activate(policy)
        policy.act(lambda _: np.array([0.5, 0, 0, 0, 0, 0, 1]))
        done = result(policy.send(max_steps=12))
        assert done.reason == "max_steps", done.reason
        moved = hand().position - HOME.position
        assert 0.1 < moved[0] < 0.25  # 12 ticks of 0.02 m
        assert np.abs(moved[1:]).max() < 1e-3
        assert told[-1].header.frame_id == "base"
    finally:
        adapter.end()
        arm.close()


def test_a_skill_runs_on_an_arm_without_a_gripper(robot, arm, spec, bundle_of, tmp_path, open_policy, result):
    action = replace(spec.action, gripper=False)
    bare = replace(spec, action=action, state=action.state)
    robot.silent |= {messages.JOINT_STATES}
    policy = open_policy(bundle_of(tmp_path, bare), "robot.action.gripper:=false")
    activate(policy)
    done = result(policy.send(max_steps=8))
    assert done.reason == "max_steps", done.reason
    assert len(arm.targets) > 30
    assert arm.grippers == []
