"""The shipped robots and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_data.config import config_file, from_mapping, presets, ros_parameters, to_mapping
from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.robot_config import ROBOTS, CameraConfig, RobotConfig, load_robot, robot_file
from diwa_data.spec import NETWORK_SIDES, CameraSpec


def test_shipped_robots_load_and_become_a_contract() -> None:
    franka, sim = (load_robot(robot_file(robot)).spec for robot in ROBOTS)
    assert franka.cameras == (
        CameraSpec("static", crop=(0, 280, 720, 720)),
        CameraSpec("gripper", crop=(0, 80, 480, 480)),
    )
    assert (franka.scene_state, len(sim.scene_state)) == ((), 13)
    assert RobotConfig().spec.cameras[0].crop is None


def test_an_own_robot_is_a_file_and_bad_ones_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "ours.yaml"
    with pytest.raises(DiwaError, match=r"unknown robot 'ur5'; choose one of franka, sim, or name a \.yaml file"):
        robot_file("ur5")
    with pytest.raises(DiwaError, match="unknown robot"):
        robot_file(str(own))
    own.write_text("/**: {ros__parameters: {robot: {name: ours, static: {crop: [0, 0, 10, 10]}}}}")
    assert load_robot(robot_file(str(own))).spec.cameras[0].crop == (0, 0, 10, 10)
    own.write_text("/**: {ros__parameters: {robot: {wrist: 1}}}")
    with pytest.raises(DiwaError, match=r"ours\.yaml: robot: unknown key 'wrist'; known: name, cameras"):
        load_robot(own)
    own.write_text("/**: {ros__parameters: {rate: 1}}")
    with pytest.raises(DiwaError, match=r"ours\.yaml has no section robot"):
        load_robot(own)
    own.write_text("robot: {}")
    with pytest.raises(DiwaError, match="not YAML of the form"):
        load_robot(own)


def robot(**values: object) -> RobotConfig:
    return from_mapping(RobotConfig, values, "lab.yaml: robot")


def test_cameras_are_listed_and_each_has_a_section_of_its_name() -> None:
    found = robot(
        cameras=["front", "wrist", "side"], wrist={"size": [96, 128], "driver": "/w"}, front={"crop": [0, 1, 2, 3]}
    )
    assert found.spec.cameras == (
        CameraSpec("front", crop=(0, 1, 2, 3)), CameraSpec("wrist", size=(96, 128)), CameraSpec("side")
    )  # fmt: skip
    assert found.cameras["wrist"] == CameraConfig(driver="/w", size=(96, 128))
    assert [camera.name for camera in robot(gripper={"driver": "/g"}).spec.cameras] == ["static", "gripper"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cameras": ["joints"]}, "no camera can be called 'joints', which is another key of robot: rename it"),
        ({"cameras": ["state"]}, "lab.yaml: robot.state: spec.cameras.name is 'state', but must be letters"),
        ({"cameras": ["my-cam"]}, "spec.cameras.name is 'my-cam', but must be letters, digits and '_'"),
        ({"cameras": ["a", "b", "a"]}, r"robot.cameras names 'a' twice \(a, b, a\)"),
        ({"cameras": []}, "robot.cameras names no cameras: there must be 1 to 4"),
        ({"cameras": ["a", "b", "c", "d", "e"]}, r"robot.cameras names 5 cameras \(a, b, c, d, e\)"),
        ({"cameras": "front"}, r"robot.cameras is 'front'; list the cameras' names, as in cameras: \[front, wrist\]"),
        ({"cameras": {"front": {}}}, "robot.cameras is .*; list the cameras' names"),
        ({"cameras": [True]}, r"robot.cameras is \[True\]; list"),
        ({"cameras": ["front"], "wrist": {}}, r"unknown section 'wrist'; known: action, .* of cameras: \[front\]"),
        ({"front": {}}, r"unknown section 'front'; known: .*and one for each of cameras: \[static, gripper\]"),
        ({"cameras": ["front"], "front": {"drivr": "/x"}}, "lab.yaml: robot.front: unknown key 'drivr'; known: driver"),
        ({"cameras": ["front"], "front": {}}, "lab.yaml: robot.front is empty, which ROS 2 misreads: leave it out"),
        ({"cameras": ["front"], "front": 3}, "lab.yaml: robot.front: expected keys and values, got 3"),
        ({"cameras": ["front"], "front": {"size": [50, 64]}}, "'front' has size 50x64; the world model takes .* 48"),
        ({"static": {"crop": [-1, 0, 5, 5]}}, r"robot.static: spec.cameras.crop is \(-1, 0, 5, 5\), but must be"),
        ({"static": {"start": "zed"}}, "lab.yaml: robot.static: .*start"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_cameras_is_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(DiwaError, match=message) as caught:
        robot(**values)
    assert "\n" not in str(caught.value)


sides = st.tuples(*[st.sampled_from(NETWORK_SIDES)] * 2)
configs = st.builds(CameraConfig, driver=st.sampled_from(["", "/a"]), compressed=st.booleans(), size=sides)


@given(st.dictionaries(st.from_regex("[a-z]{2}[0-9]", fullmatch=True), configs, min_size=1, max_size=4))
def test_a_file_of_what_was_read_reads_the_same(cameras: dict[str, CameraConfig]) -> None:
    config = RobotConfig(cameras=cameras)
    assert from_mapping(RobotConfig, to_mapping(config), "file") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"topics": {"poze": {}}}, "lab.yaml: robot.topics: unknown key 'poze'; known: pose, joints, width"),
        ({"topics": {"pose": {"topic": "/p", "child": "tool"}}}, "pose: give a topic or child, a frame of /tf"),
        ({"topics": {"pose": {"field": "o_t_ee"}}}, "pose.field is 'o_t_ee', but pose.topic is empty"),
        ({"topics": {"width": {"joints": ["a"], "field": "b"}}}, "width: give joints or a field, not both: a and 'b'"),
        ({"topics": {"width": {"scale": 0}}}, "width: scale is 0 and offset 0; they must be finite, scale not 0"),
        ({"topics": {"width": {"offset": float("nan")}}}, "offset nan"),
        ({"topics": {"width": {"scale": "1e-3"}}}, "'1e-3' is text to YAML"),
        ({"topics": {"command": {"type": "std_msgs/msg/Flot64"}}}, "unknown command.type .*Did you mean 'std_msgs"),
        ({"topics": {"command": {"type": "sensor_msgs/msg/JointState", "topic": "/g"}}}, "command.joints is empty"),
        ({"topics": {"command": {"type": "control_msgs/action/GripperCommand"}}}, "command.topic is empty: name the"),
        ({"topics": {"command": {"open": 0.0}}}, "command: open is 0 and closed 0; they must be finite and differ"),
        ({"topics": {"target": {"frame": "world"}}}, "target.frame is 'world', but target.topic is empty"),
        ({"topics": {"rate": 0.0}}, r"topics.rate is 0 Hz; it must lie in \[1, 1000\]"),
        ({"topics": {"width": {"scale": 0.001}}, "action": {"gripper": False}}, "topics.width is given, but action"),
        ({"start_pose": {"distance": -1.0}}, "start_pose: distance is -1 and angle 0.3; they must be positive"),
        ({"start_pose": {"quaternion": [0, 0, 0, 0]}}, "has no direction"),
        ({"start_pose": {"position": [float("nan"), 0, 0]}}, "start_pose: position .* must be finite"),
        ({"topics": {"width": {"joints": "knuckle"}}}, r"width.joints is 'knuckle': write a list, as in \[knuckle\]"),
        ({"limits": {"max_speed": -1.0}}, "limits.max_speed is -1: it must be positive"),
        ({"limits": {"max_sped": 1.0}}, "lab.yaml: robot.limits: unknown key 'max_sped'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_arms_topics_is_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(DiwaError, match=message) as caught:
        robot(**values)
    assert "\n" not in str(caught.value)


def test_a_file_says_whether_something_must_stand_between() -> None:
    plain, own = robot(), robot(topics={"joints": "/ur/joint_states"})
    assert (plain.topics.adapts, plain.joint_states) == (False, "/joint_states")
    assert (own.topics.adapts, own.joint_states) == (True, "/diwa/joint_states")
    assert robot(topics={"command": {"type": "std_msgs/msg/Float64"}}).topics.command.is_ours
    bare = robot(action={"gripper": False})
    assert (bare.spec.state_dim, bare.spec.action_dim) == (9, 6)


def test_a_start_pose_says_how_far_the_hand_is_from_it() -> None:
    start = robot(start_pose={"position": [0.4, 0.0, 0.3], "distance": 0.05}).start_pose
    there = Pose.from_quaternion(np.array([0.4, 0.04, 0.3]), [1, 0, 0, 0])
    assert start.problem(there) == ""
    assert start.problem(Pose.from_quaternion(np.array([0.4, 0.1, 0.3]), [1, 0, 0, 0])).startswith(
        "the hand is 0.100 m and 0.00 rad from robot.start_pose"
    )
    assert "3.14 rad" in start.problem(Pose.from_quaternion(np.array([0.4, 0.0, 0.3]), [0, 0, 0, 1]))
    assert robot().start_pose.problem(Pose.from_quaternion(np.array([9.0, 0, 0]), [1, 0, 0, 0])) == ""


def test_the_template_names_every_key_with_its_default_and_loads_as_it_is() -> None:
    path = config_file("robot_template.yaml")
    assert load_robot(path) == RobotConfig()
    text = path.read_text().replace("# joints: ", "joints: ").replace("# scene_state: ", "scene_state: ")
    written = ros_parameters(text.encode(), "template")["robot"]
    assert nested(written) >= nested(to_mapping(RobotConfig())) - nested({"gripper": to_mapping(CameraConfig())})
    assert "robot_template" not in presets()


def nested(values: dict[str, Any], above: str = "") -> set[str]:
    """Dotted names of all keys."""
    below = {name for key, each in values.items() if isinstance(each, dict) for name in nested(each, f"{above}{key}.")}
    return {f"{above}{key}" for key in values} | below
