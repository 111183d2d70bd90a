"""`diwa doctor --robot` against a running graph: an arm with topics of its own, as its file says and not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from diwa_data.recording import messages

pytestmark = pytest.mark.ros

CAMERA = {"driver": "/cams/front", "crop": [0, 4, 40, 40]}
ROBOT = {
    "base_frame": "base",
    "cameras": ["front"],
    "front": CAMERA,
    "start_pose": {"position": [0.5, 0.0, 0.3], "distance": 0.3, "angle": 1.5},
    "topics": {
        "pose": {"child": "tool0"},
        "joints": "/ur/joint_states",
        "width": {"topic": "/gripper/joint_states", "joints": ["knuckle"], "scale": -0.10625, "offset": 0.085},
        "command": {"type": "std_msgs/msg/Float64", "topic": "/gripper/command", "open": 0.0, "closed": 0.8},
        "target": {"topic": "/arm/target"},
    },
}


@pytest.fixture
def lab(topics) -> Iterator[Any]:
    """A whole robot: arm, gripper, camera, and the subscriptions of their controllers."""
    from geometry_msgs.msg import PoseStamped
    from std_msgs.msg import Float64

    from diwa_data.testing.ros import OtherArm, SyntheticRobot

    arm = OtherArm(topics)
    camera = SyntheticRobot(topics, silent={*messages.TYPES, messages.image_topic("gripper")})
    camera.renamed = {messages.image_topic("static"): "/cams/front"}
    for kind, topic in ((PoseStamped, "/arm/target"), (Float64, "/gripper/command")):
        topics.call(lambda kind=kind, topic=topic: topics.node.create_subscription(kind, topic, print, 1))
    time.sleep(0.5)
    yield arm
    camera.close()
    arm.close()


@pytest.fixture
def doctor(domain, tmp_path) -> Callable[..., tuple[int, dict[str, tuple[str, str]]]]:
    """Status and lines (name -> OK or BAD, text) of a robot file."""

    def run(robot: dict) -> tuple[int, dict[str, tuple[str, str]]]:
        from diwa_data.testing.ros import Program

        path = Path(tmp_path / "robot.yaml")
        path.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": robot}}}))
        words = ("-m", "diwa_cli.main", "doctor", "--robot", str(path), "--seconds", "1.5")
        program = Program(domain, sys.executable, *words)
        status = program.wait(60)
        cut = [(line[:20].strip(), line[20:25].strip(), line[25:].strip()) for line in program.said]
        return status, {name: (mark, text) for name, mark, text in cut}

    return run


def test_a_robot_that_is_as_its_file_says_is_all_right(lab, topics, doctor):
    status, lines = doctor(ROBOT)
    assert status == 0, lines
    assert {mark for mark, _ in lines.values()} == {"OK"}
    assert [*lines][2:] == [
        "camera front", "pose", "workspace", "start pose", "gripper width", "target", "gripper command", "packages"
    ]  # fmt: skip
    assert "/cams/front: 48x40 rgb8, " in lines["camera front"][1]
    assert "base -> tool0 on /tf: " in lines["pose"][1]
    assert "BEST_EFFORT VOLATILE by /test" in lines["pose"][1]
    assert "42.5 mm" in lines["gripper width"][1]


def test_what_is_not_so_is_named_with_its_cure(lab, topics, doctor):
    from std_msgs.msg import String

    topics.call(lambda: topics.node.create_publisher(String, "/arm/pose", 1))
    topics.call(lambda: topics.node.create_publisher(type(pose()), "/other/target", 1))
    wrong = ROBOT | {
        "front": {"driver": "/cams/frond", "crop": [0, 4, 40, 40]},
        "topics": {
            "pose": {"child": "tool1"},
            "width": {"topic": "/gripper/joint_states", "joints": ["nukle"]},
            "command": {"type": "control_msgs/action/GripperCommand", "topic": "/gripper/grip"},
            "target": {"topic": "/other/target"},
        },
    }
    status, lines = doctor(wrong)
    assert status == 1
    bad = {name: text for name, (mark, text) in lines.items() if mark == "BAD"}
    assert bad["camera front"].startswith("nobody publishes /cams/frond; sensor_msgs/msg/Image: /cams/front")
    assert bad["pose"] == "no transforms between base and tool1; frames there are: base, flange, tool0"
    assert "no joint nukle; joints there are: knuckle" in bad["gripper width"]
    assert bad["target"].startswith("/other/target is published by /test: an arm may ignore both")
    assert bad["gripper command"].startswith("no server of the action /gripper/grip: start the gripper's driver")
    assert [*bad] == ["camera front", "pose", "gripper width", "target", "gripper command"]
    types = {"pose": {"topic": "/ur/joint_states"}, "target": {"topic": "/gripper/command"}}
    types["command"] = {"type": "std_msgs/msg/Float64MultiArray", "topic": "/gripper/command"}
    status, lines = doctor(ROBOT | {"front": CAMERA | {"crop": [0, 0, 400, 400]}, "topics": types})
    assert "crop (0, 0, 400, 400) does not fit into its image of 40x48" in lines["camera front"][1]
    assert "/ur/joint_states holds no pose; its fields are header, name, position" in lines["pose"][1]
    assert "takes a std_msgs/msg/Float64 on /gripper/command, not a geometry_msgs/msg/PoseStamped" in lines["target"][1]
    assert "not a std_msgs/msg/Float64MultiArray: set topics.command.type" in lines["gripper command"][1]
    assert "nobody publishes /joint_states; sensor_msgs/msg/JointState: /gripper/" in lines["gripper width"][1]


def pose() -> Any:
    from geometry_msgs.msg import PoseStamped

    return PoseStamped()
