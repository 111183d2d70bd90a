"""What the launch files share: which nodes are started, which come back, and how a launch ends."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest

from diwa_data.errors import DiwaError

pytestmark = pytest.mark.ros

ENDED, RUNNING = SimpleNamespace(is_shutdown=True), SimpleNamespace(is_shutdown=False)


@pytest.fixture
def launching():
    from diwa_data.ros import launching

    return launching


def status(number: int) -> SimpleNamespace:
    """The event of a process that has ended with it."""
    return SimpleNamespace(returncode=number)


def kinds(actions: list) -> list[str]:
    return [type(action).__name__ for action in actions]


@pytest.mark.parametrize("context", [ENDED, RUNNING])
def test_a_launch_ends_with_the_status_of_what_it_waits_for(launching, context):
    ended = launching.ends_with("build_dataset")
    assert kinds(ended(status(0), context)) == ["Shutdown"]
    for number in (1, 2, 130, -9):
        with pytest.raises(DiwaError, match=rf"build_dataset failed: it says why above \(status {number}\)"):
            ended(status(number), context)


def test_a_node_that_crashes_comes_back_and_one_that_refuses_ends_the_launch(launching, monkeypatch):
    monkeypatch.setattr(launching, "_node", lambda *arguments, on_exit: on_exit)
    ended = launching.kept_node("diwa_data", "recorder", "robot.yaml", folder="bags")
    assert kinds(ended(status(-9), RUNNING)) == ["LogInfo", "TimerAction"]
    assert kinds(ended(status(0), RUNNING)) == ["Shutdown"]
    with pytest.raises(DiwaError, match="recorder cannot run: it says why above"):
        ended(status(2), RUNNING)
    assert ended(status(-2), ENDED) == []
    with pytest.raises(DiwaError, match="run_skill failed"):
        launching.final_node("diwa_deploy", "run_skill", "robot.yaml")(status(1), ENDED)


def test_what_belongs_to_a_real_robot_is_started_as_far_as_it_is_installed(launching, monkeypatch):
    given = {"robot": "franka", "cameras": "true", "gripper": "true"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    robot = launching.robot_parameters("franka")
    assert kinds(launching.robot_actions(given, robot)) == ["LogInfo", "LogInfo", "Node", "Node", "LogInfo"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(launching, "get_package_share_directory", lambda package: "/here")
    assert kinds(launching.robot_actions(given, robot)) == ["Node"] * 5
    assert launching.robot_actions(given | {"cameras": "false", "gripper": "false"}, robot) == []
    simulated = given | {"robot": "sim", "skill": "play", "seed": "0", "window": "false"}
    assert kinds(launching.robot_actions(simulated, robot)) == ["Node"]


def robot_of(tmp_path, cameras: str) -> str:
    path = tmp_path / "lab.yaml"
    path.write_text("/**: {ros__parameters: {robot: {" + cameras + "}}}")
    return str(path)


def test_each_camera_has_its_own_driver_where_the_file_names_one(launching, monkeypatch, tmp_path):
    monkeypatch.setattr(launching, "get_package_share_directory", lambda package: "/here")
    monkeypatch.setattr(launching, "_node", lambda *arguments, **options: (*arguments, options))
    left = "left: {start: realsense, driver: /cams/left/color/image_raw, serial: '1'}"
    wrist = "wrist: {start: realsense, driver: /cams/wrist/color/image_raw, serial: '2'}"
    robot = robot_of(tmp_path, f"cameras: [own, left, wrist], own: {{driver: /own}}, {left}, {wrist}")
    drivers, croppers = launching.cameras(robot)[:2], launching.cameras(robot)[2:]
    opened = [(name, options["namespace"], settings[0]["serial_no"]) for _, name, settings, _, options in drivers]
    assert opened == [("left", "/cams", "1"), ("wrist", "/cams", "2")]
    assert [name for _, name, *_ in croppers] == ["own_camera", "left_camera", "wrist_camera"]
    with pytest.raises(DiwaError, match="several cameras start: realsense; give each the serial number"):
        launching.cameras(robot_of(tmp_path, f"cameras: [left, wrist], {left}, {wrist.replace('2', '1')}"))
    with pytest.raises(DiwaError, match=r"robot.a.driver is '/x/raw', but its driver publishes /<name>/rgb/image_raw"):
        launching.cameras(robot_of(tmp_path, "cameras: [a], a: {start: kinect, driver: /x/raw}"))
    two_keys = "static: {driver: /kinect/rgb/image_raw}, gripper: {driver: /realsense/wrist/color/image_raw}"
    assert len(launching.cameras(robot_of(tmp_path, two_keys))) == 4, "a file without start is launched as before"


def test_arguments_are_checked(launching):
    assert launching.number({"episodes": "3"}, "episodes") == 3
    for text in ("-1", "many", "inf", "nan"):
        with pytest.raises(DiwaError, match=f"episodes:={text} is no number from 0 up"):
            launching.number({"episodes": text}, "episodes")
    assert [launching.skill_parameter(skill) for skill in ("play", "pick_cup")] == ["", "pick_cup"]
    with pytest.raises(DiwaError, match="'Pick Cup' cannot name a skill"):
        launching.skill_parameter("Pick Cup")
    with pytest.raises(DiwaError, match="unknown robot 'ur5'"):
        launching.robot_parameters("ur5")
