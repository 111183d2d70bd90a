"""The deployment node on a running graph, with one fault after another."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_deploy.bundle import StartRegion, seal_bundle

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

STATIC = messages.image_topic("static")


def back_and_forth(n: int) -> list[float]:
    """An action that keeps the hand moving, inside the workspace."""
    return [0.5 if n // 8 % 2 == 0 else -0.5, 0, 0, 0, 0, 0, -1]


def test_a_goal_runs_its_steps_at_the_control_rate_and_targets_come_at_theirs(active, arm, result, topics):
    active.act(back_and_forth)
    begun = time.monotonic()
    handle = active.send(max_steps=30)
    done = result(handle)
    seconds = time.monotonic() - begun
    assert (done.success, done.reason, done.steps) == (False, "max_steps", 30)
    assert seconds == pytest.approx(31 / 7.5, abs=0.5)
    assert [f.feedback.step for f in active.feedback] == list(range(1, 31))
    assert max(f.feedback.frame_age for f in active.feedback) < 0.2
    assert len(arm.targets) / 60.0 == pytest.approx(seconds, rel=0.25)
    assert arm.violations() == 0
    assert max(target.position[0] for target in arm.targets) > 0.5 + 0.5 * 0.04 * 8 * 0.9
    assert arm.grippers[-1] == -1.0


def test_goals_are_refused_with_a_reason(policy, arm, robot):
    assert not policy.send().accepted, "not configured"
    assert policy.transition("configure")
    assert not policy.send().accepted, "not active"
    time.sleep(0.5)
    assert policy.transition("activate")
    assert not policy.send(skill="close_drawer").accepted, "another skill is loaded"
    first = policy.send()
    assert first.accepted
    assert not policy.transition("configure"), "rclpy itself would end the node here"
    assert not policy.send().accepted, "one at a time"


@pytest.mark.parametrize("stall", [0.1, 0.3])
def test_a_short_camera_stall_is_survived(active, arm, robot, result, stall, fault):
    active.act(back_and_forth)
    handle = active.send(max_steps=30)
    time.sleep(1.5)
    robot.silent |= {STATIC}
    time.sleep(stall)
    robot.silent -= {STATIC}
    done = result(handle)
    assert (done.reason, done.steps) == ("max_steps", 30)
    held = active.node._robot.interventions
    assert held["abort"] == 0
    fault(
        f"the static camera stalls for {stall} s in a skill",
        f"went on; targets held: {held['hold']}, warned: {held['warn']}",
    )


def test_a_long_camera_stall_ends_the_skill_and_latches(active, arm, robot, result, topics, fault):
    active.act(back_and_forth)
    handle = active.send()
    time.sleep(1.5)
    robot.silent |= {STATIC}
    done = result(handle)
    assert done.reason.startswith(f"{STATIC} is 1.0")
    assert arm.moved(0.5) < 1e-6
    assert not active.send().accepted
    answer = active.call(topics, "rearm")
    assert (answer.success, "nothing on" in answer.message) == (False, True)
    robot.silent -= {STATIC}
    time.sleep(0.5)
    assert active.call(topics, "rearm").success
    assert active.send().accepted
    fault(
        "the static camera stalls for good",
        f"stood still after 0.2 s, the skill ended: {done.reason}; no goal before it was rearmed",
    )


def test_repeated_stamps_are_never_stepped_on(active, arm, robot, result, fault):
    active.act(back_and_forth)
    handle = active.send()
    time.sleep(1.5)
    robot.frozen_stamp = time.time()
    done = result(handle)
    assert done.reason.startswith("the last command is 1.0")
    assert arm.moved(0.3) < 1e-6
    fault("the camera repeats one stamp for ever", f"no step on a repeated frame; stood still, ended: {done.reason}")


def test_stamps_that_go_backwards_begin_anew(active, arm, robot, result, fault):
    active.act(back_and_forth)
    handle = active.send(max_steps=30)
    time.sleep(1.5)
    robot.stamp_offset = -3.0
    done = result(handle)
    assert (done.reason, done.steps) == ("max_steps", 30)
    fault("the camera's stamps jump 3 s back", "went on with the next frame")


@pytest.mark.parametrize("kind", ["size", "encoding"])
def test_images_that_become_wrong_end_the_skill(active, arm, robot, result, kind, fault):
    active.act(back_and_forth)
    handle = active.send()
    time.sleep(1.0)
    if kind == "size":
        robot.size = (20, 20)
    else:
        robot.encoding = b"yuv4"
    done = result(handle)
    assert ("20x20x3" if kind == "size" else "image encoding 'yuv4' is not supported") in done.reason
    assert arm.moved(0.3) < 1e-6
    fault(f"the cameras change their {kind}", f"stood still, ended: {done.reason[:80]}")


@pytest.mark.parametrize("kind", ["silent", "NaN"])
def test_a_lost_pose_ends_the_skill(active, arm, robot, result, kind, fault):
    active.act(back_and_forth)
    handle = active.send()
    time.sleep(1.5)
    if kind == "silent":
        robot.silent |= {messages.CURRENT_POSE}
    else:
        robot.pose = lambda _: Pose(np.full(3, np.nan), arm.targets[-1].rotation)
    done = result(handle)
    told = {"silent": (f"{messages.CURRENT_POSE} is 1.0", "the arm is elsewhere"), "NaN": ("is not finite",)}[kind]
    assert any(words in done.reason for words in told), done.reason
    assert arm.moved(0.3) < 1e-6
    fault(f"the arm's pose becomes {kind}", f"braked, stood still, ended: {done.reason[:80]}")


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.5])
def test_late_inference_holds_and_does_not_jump(active, arm, result, delay, fault):
    active.act(back_and_forth, lambda n: delay if n % 5 == 4 else 0.0)
    done = result(active.send(max_steps=20))
    assert (done.reason, done.steps) == ("max_steps", 20)
    held = active.node._robot.interventions["hold"]
    assert (held > 0) == (delay > 0.3)
    fault(f"every fifth decision takes {delay} s longer", f"went on; held {held} targets")


def test_inference_that_hangs_ends_the_skill(active, arm, result, fault):
    active.act(back_and_forth, lambda n: 2.0 if n == 5 else 0.0)
    done = result(active.send())
    assert done.reason.startswith("the last command is 1.0")
    assert arm.moved(0.3) < 1e-6
    fault("a decision takes 2 s", f"stood still, ended: {done.reason}")


def test_an_action_that_is_not_finite_holds(active, arm, result, fault):
    active.act(lambda n: [np.nan] * 7 if n >= 5 else back_and_forth(n))
    done = result(active.send(max_steps=15))
    assert done.steps == 15
    assert all(np.isfinite(target.position).all() for target in arm.targets)
    fault("actions become NaN", "held the last target")


def test_an_action_out_of_range_is_clamped(active, arm, result, fault):
    active.act(lambda n: np.array(back_and_forth(n)) * 100)
    done = result(active.send(max_steps=15))
    assert done.steps == 15
    fault("actions of 50 times full scale", "moved at full scale at most")


def test_a_second_publisher_refuses_activation_and_ends_a_skill(policy, arm, topics, result, fault):
    from geometry_msgs.msg import PoseStamped

    assert policy.transition("configure")
    rival = topics.call(lambda: topics.node.create_publisher(PoseStamped, messages.TARGET_POSE, 1))
    time.sleep(1.0)
    assert not policy.transition("activate")
    topics.call(lambda: topics.node.destroy_publisher(rival))
    time.sleep(1.0)
    assert policy.transition("activate")
    policy.act(back_and_forth)
    handle = policy.send()
    time.sleep(1.0)
    rival = topics.call(lambda: topics.node.create_publisher(PoseStamped, messages.TARGET_POSE, 1))
    done = result(handle)
    assert done.reason == "/test publishes /diwa/target_pose too"
    assert arm.moved(0.3) < 1e-6
    fault("a second publisher of the target", f"not activated beside it; in a skill: stood still, ended: {done.reason}")


def test_cancel_holds_in_the_middle_of_a_chunk_and_the_next_goal_runs(active, arm, result, fault):
    active.act(back_and_forth)
    handle = active.send()
    time.sleep(1.0)
    handle.cancel_goal_async()
    done = result(handle)
    assert done.reason == "cancelled"
    assert arm.moved(0.3) < 1e-6
    assert active.send(max_steps=2).accepted
    fault("cancel in the middle of a chunk", "stood still at once; the next goal was accepted")


def test_deactivating_ends_the_skill_and_lets_go(active, arm, result, fault):
    active.act(back_and_forth)
    handle = active.send()
    time.sleep(1.0)
    assert active.transition("deactivate")
    assert result(handle).reason == "deactivated"
    count = len(arm.targets)
    time.sleep(0.3)
    assert len(arm.targets) <= count + 1, "nothing is published any more"
    assert active.transition("activate")
    assert active.send(max_steps=2).accepted
    fault("ros2 lifecycle set /policy deactivate in a skill", "published nothing more; the arm keeps its last target")


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [(0.0, "the measured position jumped by 0.2"), (0.5, "the arm is elsewhere than its target")],
)
def test_an_arm_that_is_moved_away_disarms_and_nothing_pulls_it_back(
    active, arm, robot, result, topics, fault, seconds, reason
):
    active.act(back_and_forth)
    handle = active.send(max_steps=100)
    time.sleep(1.5)
    from_, begun = arm.targets[-1], time.monotonic()

    def pushed(_: float) -> Pose:
        share = min(1.0, (time.monotonic() - begun) / seconds) if seconds else 1.0
        return Pose(from_.position + np.array([0.0, 0.2 * share, 0.0]), from_.rotation)

    robot.pose = pushed
    done = result(handle)
    assert done.reason.startswith(reason)
    assert arm.moved(0.1) < 1e-6
    count = len(arm.targets)
    time.sleep(0.3)
    assert len(arm.targets) == count, "nothing is published"
    assert not active.send(max_steps=2).accepted
    assert arm.violations() == 0
    arm.targets.clear()
    assert active.call(topics, "rearm").success
    time.sleep(0.3)
    np.testing.assert_allclose(arm.targets[-1].position, pushed(0.0).position, atol=1e-6)
    robot.pose = arm.pose
    time.sleep(0.3)
    assert active.send(max_steps=2).accepted
    how = f"within {seconds} s" if seconds else "from one sample to the next"
    fault(f"the arm is pushed 20 cm aside {how}", f"braked and disarmed: {done.reason[:60]}; rearmed where it was")


def test_a_reflex_ends_the_skill_and_nothing_pulls_back(open_policy, bundle, arm, robot, topics, result, fault):
    from std_msgs.msg import Int8

    mode = topics.call(lambda: topics.node.create_publisher(Int8, "/mode", 10))
    node = open_policy(bundle, "arm.mode.topic:=/mode", "arm.mode.type:=std_msgs/msg/Int8", "arm.mode.field:=data")
    assert node.transition("configure")
    time.sleep(0.5)
    assert not node.transition("activate"), "the mode is not known"
    mode.publish(Int8(data=2))
    time.sleep(0.3)
    assert node.transition("activate")
    node.act(back_and_forth)
    handle = node.send()
    time.sleep(1.0)
    mode.publish(Int8(data=4))
    done = result(handle)
    assert done.reason == "the arm is in mode 4 (reflex), not 2"
    assert arm.moved(0.3) < 1e-6
    guided = Pose(arm.targets[-1].position + np.array([0.0, 0.15, 0.0]), arm.targets[-1].rotation)
    robot.pose = lambda _: guided
    time.sleep(0.5)
    assert not node.call(topics, "rearm").success
    assert arm.violations() == 0
    arm.targets.clear()
    mode.publish(Int8(data=2))
    time.sleep(0.3)
    assert node.call(topics, "rearm").success
    time.sleep(0.3)
    np.testing.assert_allclose(arm.targets[-1].position, guided.position, atol=1e-6)
    robot.pose = arm.pose
    assert node.send(max_steps=2).accepted
    fault(
        "a reflex, then guided by hand by 15 cm, then recovered",
        f"stood still, ended: {done.reason}; held where it was",
    )


def test_far_from_where_demonstrations_began_is_refused_and_the_way_there_is_slow(
    open_policy, bundle, arm, robot, topics, tmp_path
):
    card = json.loads((bundle / "card.json").read_text())
    elsewhere = [Pose(np.array([0.5, y, 0.3]), arm.pose(0).rotation) for y in (0.18, 0.22)]
    copied = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (copied / "card.json").write_text(json.dumps(card | {"start": StartRegion.of(elsewhere).to_card()}))
    seal_bundle(copied)
    node = open_policy(copied)
    assert node.transition("configure")
    time.sleep(0.5)
    assert node.transition("activate")
    assert not node.send(max_steps=2).accepted, "18 cm outside"
    assert node.call(topics, "go_to_start").success
    time.sleep(1.0)
    assert not node.send(max_steps=2).accepted, "on its way"
    assert 0.03 < arm.targets[-1].position[1] < 0.07, "5 cm a second"
    time.sleep(3.6)
    np.testing.assert_allclose(arm.targets[-1].position, [0.5, 0.2, 0.3], atol=1e-3)
    assert arm.violations() == 0
    assert node.send(max_steps=2).accepted


def test_a_checkpoint_of_another_contract_is_refused(open_policy, bundle_of, tmp_path, arm, fault):
    node = open_policy(bundle_of(tmp_path, RobotConfig(name="another_lab").spec))
    assert not node.transition("configure")
    assert not node.send().accepted
    assert not arm.targets
    fault("a checkpoint that was made for another robot", "not configured; nothing was published")


def test_truncated_weights_are_refused(open_policy, bundle, tmp_path, arm, fault):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    weights = broken / "policy" / "weights.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    assert not open_policy(broken).transition("configure")
    assert not arm.targets
    fault("a weights file that was truncated", "not configured; nothing was published")


def test_kill_9_leaves_the_arm_where_it_was_told_to_be(start, bundle, topics, robot, arm, fault):
    from diwa_data.testing.ros import PARAMETERS

    settings = [*PARAMETERS, "skill:=open_drawer", f"checkpoint:={bundle}", "success_ticks:=0"]
    node = start("policy_node", *settings)
    start("run_skill", "skill:=open_drawer", "max_steps:=1000")
    node.wait_for("is loaded", 30)
    end = time.monotonic() + 20
    while len(arm.targets) < 60 and time.monotonic() < end:
        time.sleep(0.1)
    node.kill()
    time.sleep(0.2)
    count = len(arm.targets)
    time.sleep(0.5)
    assert count >= 60
    assert len(arm.targets) == count
    fault("kill -9 of the node in a skill", "no target any more: the arm keeps the last one")


def test_a_cancel_at_once_is_not_forgotten_by_the_thread_that_begins_later(topics) -> None:
    """All that a skill forgets is forgotten when its goal is accepted."""
    from diwa_deploy.ros.skill_server import SkillServer
    from diwa_interfaces.action import ExecuteSkill

    calls = Mock(armed=True, fault="")
    calls.problem.return_value = ""
    server = SkillServer(topics.node, calls, Mock())
    server.runners = {"open_drawer": Mock(start=None)}
    server._on_goal(ExecuteSkill.Goal(skill="open_drawer"))
    server._on_cancel(Mock())
    server._run(Mock(request=ExecuteSkill.Goal(skill="open_drawer", max_steps=1)), Mock())
    assert [name for name, *_ in calls.mock_calls if name in ("begin", "stop", "end")] == ["begin", "stop", "end"]
