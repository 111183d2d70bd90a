"""The shipped robots and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_data.config import from_mapping, to_mapping
from diwa_data.errors import DiwaError
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
        ({"cameras": ["front"], "wrist": {}}, r"section 'wrist' is not in cameras: \[front\]; other keys: action"),
        ({"front": {}}, "section 'front' needs a list cameras: that names it"),
        ({"cameras": ["front"], "front": {"drivr": "/x"}}, "lab.yaml: robot.front: unknown key 'drivr'; known: driver"),
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
