"""The report about a robot's graph, line by line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diwa_data.config import from_mapping
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.testing.synthetic import JOINTS, READY, synthetic_image
from diwa_deploy.checks import COMPRESSED_TYPE, End, Graph, check_buffer, check_robot

POSE_TYPE, JOINTS_TYPE = messages.TYPES[messages.CURRENT_POSE], messages.TYPES[messages.JOINT_STATES]
HAND = Pose.from_quaternion(np.array([0.5, 0.0, 0.3]), [1.0, 0.0, 0.0, 0.0])
FRONT = messages.image_topic("front")
QOS = "RELIABLE VOLATILE"


def robot(**values: Any) -> RobotConfig:
    return from_mapping(RobotConfig, {"cameras": ["front"]} | values, "lab.yaml: robot")


def healthy(pose: Pose = HAND, frame: str = "panda_link0", rate: float = 30.0, age: float = 0.01) -> Graph:
    """A Franka that speaks our topics."""
    sent = {
        FRONT: (messages.IMAGE_TYPE, lambda t: messages.encode_image(synthetic_image(t, 200, 200), t - age, "front")),
        messages.CURRENT_POSE: (POSE_TYPE, lambda t: messages.encode_pose(pose, t - age, frame)),
        messages.JOINT_STATES: (JOINTS_TYPE, lambda t: messages.encode_joints(JOINTS, READY, np.zeros(9), t - age)),
    }
    graph = Graph()
    for topic, (kind, encode) in sent.items():
        graph.types[topic], graph.publishers[topic] = [kind], [End("/lab/driver", kind, QOS)]
        for number in range(10):
            add(graph, topic, kind, encode, 100.0 + number / rate)
    graph.subscribers[messages.TARGET_POSE] = [End("/lab/controller", POSE_TYPE, QOS)]
    graph.services = {f"/franka_gripper/{action}/_action/send_goal": [] for action in ("grasp", "move")}
    return graph


def add(graph: Graph, topic: str, kind: str, encode: Any, now: float) -> None:
    from diwa_deploy.checks import Stream

    data = bytes(encode(now))
    graph.streams.setdefault(topic, Stream()).add(messages.decode(data, kind), now)
    if topic != FRONT:
        graph.told.setdefault(topic, Stream()).add(data, now)


def bad(config: RobotConfig, graph: Graph) -> dict[str, str]:
    return {check.name: check.text for check in check_robot(config, graph) if not check.good}


def test_all_is_well() -> None:
    lines = {check.name: check.text for check in check_robot(robot(), healthy())}
    assert bad(robot(), healthy()) == {}
    assert lines["camera front"] == f"{FRONT}: 200x200 rgb8, 30.0 Hz, 10 ms old, RELIABLE VOLATILE by /lab/driver"
    assert lines["pose"] == "/diwa/current_pose: 30.0 Hz, 10 ms old, RELIABLE VOLATILE by /lab/driver"
    assert lines["gripper width"] == "/joint_states: 40.0 mm, 30.0 Hz, RELIABLE VOLATILE by /lab/driver"
    assert lines["target"] == "/diwa/target_pose: followed by /lab/controller, nobody else publishes it"
    bare = [check.name for check in check_robot(robot(action={"gripper": False}), healthy())]
    assert bare == ["camera front", "pose", "workspace", "target"]


@pytest.mark.parametrize(
    ("settings", "graph", "line", "text"),
    [
        ({}, {"rate": 5.0}, "camera front", "5.0 Hz, not 30: set its driver's rate"),
        ({}, {"rate": 5.0}, "pose", "5.0 poses a second, not 30"),
        ({}, {"rate": 5.0}, "gripper width", "5.0 Hz, not 10 or more"),
        ({}, {"age": 3.0}, "pose", "its stamps are +3.00 s off this machine's clock: run chrony on both"),
        ({}, {"frame": "world"}, "pose", "is in the frame 'world', not in the robot's base 'panda_link0'"),
        ({"front": {"record_size": [100, 100]}}, {}, "camera front", "gave an image of uint8 200x200x3, but its spec"),
        ({"front": {"driver": FRONT, "crop": [0, 0, 9, 999]}}, {}, "camera front", "crop (0, 0, 9, 999) does not fit"),
        ({"front": {"driver": "/cam/rgb"}}, {}, "camera front", f"nobody publishes /cam/rgb; {messages.IMAGE_TYPE}: "),
        ({"front": {"driver": FRONT, "compressed": True}}, {}, "camera front", f"not a {COMPRESSED_TYPE}: set"),
        ({"limits": {"workspace_high": [0.4, 0.5, 0.8]}}, {}, "workspace", "0.100 m outside of the workspace"),
        ({"start_pose": {"distance": 0.05}}, {}, "start pose", "the hand is 0.100 m and 0.00 rad from"),
        ({"topics": {"target": {"topic": "/arm"}}}, {}, "target", "nobody subscribes to /arm: start the arm"),
        ({"topics": {"command": {"topic": "/hand"}}}, {}, "gripper command", "no server of the action /hand/grasp and"),
        ({"topics": {"pose": {"child": "tool"}}}, {"_": "unused"}, "pose", "no way"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_line_with_its_cure(settings, graph, line, text) -> None:
    seen = healthy(**{name: value for name, value in graph.items() if name != "_"})
    seen.unused = {messages.CURRENT_POSE: "no way"} if "_" in graph else {}
    found = bad(robot(**settings), seen)
    assert text in found[line]
    assert all("\n" not in each for each in found.values())


def test_rivals_and_requests_that_cannot_be_met() -> None:
    graph = healthy()
    graph.publishers[messages.TARGET_POSE] = [End("/teleop", POSE_TYPE, QOS)]
    assert bad(robot(), graph) == {}  # one of ours
    graph.publishers[messages.TARGET_POSE] += [End("/moveit", POSE_TYPE, QOS)]
    assert bad(robot(), graph)["target"].startswith("/diwa/target_pose is published by /moveit: an arm may ignore both")
    graph.publishers[messages.TARGET_POSE] = [End(node, POSE_TYPE, QOS) for node in ("/teleop", "/policy")]
    assert bad(robot(), graph)["target"].startswith("/diwa/target_pose is published by /policy, /teleop: an arm may")
    graph = healthy()
    graph.subscribers[messages.TARGET_POSE] = [End("/lab/controller", POSE_TYPE, "RELIABLE TRANSIENT_LOCAL")]
    assert "but targets are RELIABLE VOLATILE: it would hear none" in bad(robot(), graph)["target"]
    graph.subscribers[messages.TARGET_POSE] = [End("/recorder", POSE_TYPE, QOS)]
    assert "nobody subscribes to /diwa/target_pose" in bad(robot(), graph)["target"]
    graph = healthy()
    graph.publishers[messages.CURRENT_POSE] += [End("/other", POSE_TYPE, QOS)]
    assert "is published by /lab/driver, /other: what comes is mixed" in bad(robot(), graph)["pose"]
    graph = healthy()
    graph.publishers[messages.JOINT_STATES] += [End("/gripper_driver", JOINTS_TYPE, QOS)]
    assert "/joint_states is published by /gripper_driver, /lab/driver" in bad(robot(), graph)["gripper width"]
    assert "gripper width" not in bad(robot(action={"gripper": False}), graph)
    graph = healthy()
    graph.streams.pop(FRONT)
    assert bad(robot(), graph)["camera front"].startswith(f"nothing came on {FRONT}, though /lab/driver (sensor_msgs/")
    graph.unknown = {FRONT: "its package is not installed here"}
    assert bad(robot(), graph)["camera front"] == "its package is not installed here"


def test_a_graph_with_nothing_in_it_is_all_bad_and_no_error() -> None:
    config = robot(front={"driver": "/a", "info": "/b"}, topics={"joints": "/j", "width": {"topic": "/w"}})
    assert [*bad(config, Graph())] == [
        "camera front", "intrinsics of front", "pose", "gripper width", "target", "gripper command"
    ]  # fmt: skip


def test_a_small_receive_buffer_is_named_only_where_images_do_not_come() -> None:
    driven = robot(front={"driver": FRONT})
    for rate, named in ((30.0, False), (5.0, True)):
        graph = healthy(rate=rate)
        graph.small_buffer = "the buffer is small"
        checks = [*check_robot(driven, graph)]
        assert ("; images may be lost: the buffer is small" in checks[0].text) == named
        assert [check.name for check in check_buffer(driven, graph, checks[:1])] == ["receive buffer"] * named
        assert not [*check_buffer(robot(), graph, checks[:1])], "no driver's images are expected here"
