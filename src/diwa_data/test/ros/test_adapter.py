"""An imaginary arm with topics of its own through the adapter: into bags, datasets, and back as its target."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import read_episode
from diwa_data.recording.messages import gripper_width
from diwa_data.testing.synthetic import synthetic_pose
from diwa_data.testing.waiting import until

pytestmark = pytest.mark.ros

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


@pytest.fixture
def arm(topics: Any) -> Iterator[Any]:
    from diwa_data.testing.ros import OtherArm

    made = OtherArm(topics)
    yield made
    made.close()


@pytest.fixture
def cameras(topics: Any) -> Iterator[Any]:
    """Cropped images, the target and the gripper's command; the arm itself is another one."""
    from diwa_data.testing.ros import SyntheticRobot

    made = SyntheticRobot(topics, silent=(messages.CURRENT_POSE, messages.JOINT_STATES, messages.TARGET_POSE))
    yield made
    made.close()


def arms_targets(topics: Any) -> list:
    """A list that fills with what the arm is told."""
    told: list = []
    topics.call(lambda: topics.node.create_subscription(type_of_pose(), "/arm/target", told.append, 1))
    return told


def test_an_arm_with_other_topics_is_recorded_under_ours(topics, arm, cameras, start, tmp_path):
    adapter = start("adapter", *TOPICS)
    poses, told = topics.subscribe(messages.CURRENT_POSE), arms_targets(topics)
    recorder = start("recorder", *TOPICS, f"folder:={tmp_path / 'bags'}", "min_free_mb:=0.0", "skill:=wipe_table")
    recorder.wait_for("press start")
    until(lambda: len(poses) > 30)
    stop = threading.Event()

    def teleoperate() -> None:
        while not stop.is_set():
            topics.publish(messages.TARGET_POSE, messages.encode_pose(synthetic_pose(0.0), time.time(), "base"), 1)
            time.sleep(1 / 60)

    thread = threading.Thread(target=teleoperate)
    thread.start()
    try:
        until(lambda: len(told) > 30)
        time.sleep(2.0)
        topics.event("start")
        recorder.wait_for("recording 000000")
        time.sleep(2.5)
        topics.event("stop")
        recorder.wait_for("finished 000000")
    finally:
        stop.set()
        thread.join()
    episode = read_episode(tmp_path / "bags/000000", [messages.CURRENT_POSE, messages.JOINT_STATES])
    joints = episode[messages.JOINT_STATES][-1]
    assert joints.value.name == ["shoulder", "elbow", "finger_width"]
    assert gripper_width(joints.value, "bag") == pytest.approx(0.0425)
    ages = [sample.received - sample.stamp for sample in episode[messages.CURRENT_POSE]]
    assert -0.01 < np.median(ages) < 0.1  # the stamps of the arm
    assert len(ages) > 100
    build_dataset([tmp_path / "bags"], tmp_path / "D.h5", DatasetConfig(workers=1))
    state = load_dataset(tmp_path / "D.h5", images=False).episodes[0].state
    np.testing.assert_allclose(state[:, 9], 0.0425, atol=1e-6)
    radius = np.hypot(state[:, 0] - 0.5, state[:, 1])
    np.testing.assert_allclose(radius, 0.1, atol=1e-3)  # the synthetic hand goes round in a circle
    position = told[-1].pose.position
    np.testing.assert_allclose([position.x, position.y, position.z], synthetic_pose(0.0).position)
    assert adapter.running


def test_an_arm_without_a_gripper_is_recorded_too(topics, start, tmp_path):
    from diwa_data.testing.ros import OtherArm, SyntheticRobot

    bare = ("robot.base_frame:=base", "robot.action.gripper:=false", "robot.topics.pose.child:=tool0")
    arm, silent = (
        OtherArm(topics, gripper=False),
        (messages.CURRENT_POSE, messages.JOINT_STATES, messages.GRIPPER_COMMAND),
    )
    cameras = SyntheticRobot(topics, silent=silent)
    cameras.frame = "base"
    try:
        start("adapter", *bare)
        recorder = start("recorder", *bare, f"folder:={tmp_path / 'bags'}", "min_free_mb:=0.0", "skill:=wipe_table")
        recorder.wait_for("press start")
        time.sleep(3.0)
        topics.event("start")
        recorder.wait_for("recording 000000")
        time.sleep(2.0)
        topics.event("stop")
        recorder.wait_for("finished 000000")
    finally:
        cameras.close()
        arm.close()
    build_dataset([tmp_path / "bags"], tmp_path / "D.h5", DatasetConfig(workers=1))
    episode = load_dataset(tmp_path / "D.h5", images=False).episodes[0]
    assert (episode.action.shape[1], episode.state.shape[1]) == (6, 9)


def test_what_is_missing_or_wrong_is_said_once_with_what_there_is(topics, arm, start):
    adapter = start(
        "adapter",
        "robot.base_frame:=base",
        "robot.topics.pose.child:=tool1",
        "robot.topics.joints:=/ur/joint_state",
        "robot.topics.width.topic:=/gripper/joint_states",
        "robot.topics.width.joints:=[nukle]",
    )
    adapter.wait_for("no transforms between base and tool1; frames there are: base, flange, tool0")
    adapter.wait_for("nothing on /ur/joint_state: nobody publishes it; similar ones are")
    adapter.wait_for("no width of the gripper on /gripper/joint_states: no joint nukle; joints there are: knuckle")
    assert sum("no transforms" in line for line in adapter.said) == 1


def test_a_topic_of_another_type_is_named(topics, arm, start):
    adapter = start("adapter", "robot.base_frame:=base", "robot.topics.pose.topic:=/ur/joint_states")
    adapter.wait_for("/ur/joint_states holds no pose; its fields are header, name, position")


def test_two_who_move_the_arm_are_not_passed_on(topics, arm, start):
    adapter, told = start("adapter", *TOPICS), arms_targets(topics)
    rival = topics.call(lambda: topics.node.create_publisher(type_of_pose(), "/arm/target", 1))
    pose = messages.encode_pose(synthetic_pose(0.0), time.time(), "base")

    def publish() -> bool:
        topics.publish(messages.TARGET_POSE, pose, 1)
        time.sleep(0.05)
        return True

    refused = "targets are not passed on: /test publishes /arm/target too: stop it"
    until(lambda: publish() and any(refused in line for line in adapter.said), 30.0)
    time.sleep(0.2)
    before = len(told)
    for _ in range(5):
        publish()
    assert len(told) == before
    topics.call(lambda: topics.node.destroy_publisher(rival))
    until(lambda: publish() and len(told) > before, 30.0)


def test_a_target_in_another_frame_is_not_passed_on(topics, arm, start):
    adapter, told = start("adapter", *TOPICS), arms_targets(topics)
    pose = messages.encode_pose(synthetic_pose(0.0), time.time(), "world")

    def publish() -> bool:
        topics.publish(messages.TARGET_POSE, pose, 1)
        time.sleep(0.05)
        return True

    until(lambda: publish() and any("is in the frame 'world'" in line for line in adapter.said), 30.0)
    assert told == []


def type_of_pose() -> Any:
    from geometry_msgs.msg import PoseStamped

    return PoseStamped


def test_nothing_to_adapt_is_an_error(start):
    adapter = start("adapter")
    adapter.wait_for("robot.topics names no topic of the arm's own: there is nothing to adapt")
    assert adapter.wait() == 2
