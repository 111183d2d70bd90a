"""Shared parts of the launch files: which nodes are started, which come back, and how a launch ends."""

from __future__ import annotations

import importlib.util
from pathlib import Path
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
    ended = launching.kept_node("diwa_data", "recorder", launching.Setup("robot.yaml"), folder="bags")
    assert kinds(ended(status(-9), RUNNING)) == ["LogInfo", "TimerAction"]
    assert kinds(ended(status(0), RUNNING)) == ["Shutdown"]
    with pytest.raises(DiwaError, match="recorder cannot run: it says why above"):
        ended(status(2), RUNNING)
    assert ended(status(-2), ENDED) == []
    with pytest.raises(DiwaError, match="run_skill failed"):
        launching.final_node("diwa_deploy", "run_skill", launching.Setup("robot.yaml"))(status(1), ENDED)


def test_what_belongs_to_a_real_robot_is_started_as_far_as_it_is_installed(launching, monkeypatch):
    given = {"robot": "franka", "cameras": "true", "gripper": "true", "rviz": "false"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    robot = launching.Setup(launching.robot_parameters("franka"))
    assert kinds(launching.robot_actions(given, robot)) == ["LogInfo", "LogInfo", "Node", "Node", "LogInfo"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(launching, "get_package_share_directory", lambda package: "/here")
    assert kinds(launching.robot_actions(given, robot)) == ["Node"] * 5
    assert launching.robot_actions(given | {"cameras": "false", "gripper": "false"}, robot) == []
    simulated = given | {"robot": "sim", "skill": "play", "seed": "0", "window": "false"}
    assert kinds(launching.robot_actions(simulated, robot)) == ["Node"]
    assert kinds(launching.robot_actions(simulated | {"rviz": "true"}, robot)) == ["Node", "Node"]


@pytest.fixture
def setup_of(launching, tmp_path):
    """`setup_of("name: panda", namespace="/left")`: a robot's file, as the nodes of a launch are given it."""

    def make(robot: str, **settings):
        path = tmp_path / "lab.yaml"
        path.write_text("/**: {ros__parameters: {robot: {" + robot + "}}}")
        return launching.Setup(str(path), **settings)

    return make


def test_each_camera_has_its_own_driver_where_the_file_names_one(launching, monkeypatch, setup_of):
    monkeypatch.setattr(launching, "get_package_share_directory", lambda package: "/here")
    monkeypatch.setattr(launching, "_plain_node", lambda *arguments, **options: arguments)
    left = "left: {start: realsense, driver: /cams/left/color/image_raw, serial: '1'}"
    wrist = "wrist: {start: realsense, driver: cams/wrist/color/image_raw, serial: '2'}"
    setup = setup_of(f"cameras: [own, left, wrist], own: {{driver: /own}}, {left}, {wrist}", namespace="/b")
    drivers, croppers = launching.cameras(setup)[:2], launching.cameras(setup)[2:]
    opened = [(name, space, settings[0]["serial_no"]) for _, name, settings, _, space in drivers]
    assert opened == [("left", "/cams", "1"), ("wrist", "/b/cams", "2")], "relative names are in the namespace"
    assert [(name, space) for _, name, _, _, space in croppers] == [
        (f"{name}_camera", "/b") for name in ("own", "left", "wrist")
    ]
    with pytest.raises(DiwaError, match="several cameras start: realsense; give each the serial number"):
        launching.cameras(setup_of(f"cameras: [left, wrist], {left}, {wrist.replace('2', '1')}"))
    with pytest.raises(DiwaError, match=r"robot.a.driver is '/x/raw', but its driver publishes /<name>/rgb/image_raw"):
        launching.cameras(setup_of("cameras: [a], a: {start: kinect, driver: /x/raw}"))
    two_keys = "static: {driver: /kinect/rgb/image_raw}, gripper: {driver: /realsense/wrist/color/image_raw}"
    assert len(launching.cameras(setup_of(two_keys))) == 4, "a file without start is launched as before"


def test_a_namespace_is_one_whoever_gives_it(launching):
    for name, above, full in (
        ("", "", ""),
        ("left", "", "/left"),
        ("/left/", "", "/left"),
        ("arm_1", "lab/cell", "/lab/cell/arm_1"),
        ("", "/cell", "/cell"),
        ("/left", "/cell", "/left"),
    ):
        assert launching.full_namespace(name, above) == full
    for name in ("2nd", "left arm", "left//arm", "links-ä", "~"):
        with pytest.raises(DiwaError, match=f"namespace:={name} is not a name"):
            launching.full_namespace(name)


def test_a_section_that_a_node_in_a_namespace_would_not_read_is_refused(launching, tmp_path):
    def setup(section: str, namespace: str):
        path = tmp_path / "lab.yaml"
        path.write_text(f"/**: {{ros__parameters: {{robot: {{name: x}}}}}}\n{section}: {{ros__parameters: {{a: 1}}}}\n")
        return launching.Setup.of({"robot_file": str(path), "namespace": namespace, "shared_events": "true"})

    for section in ("/policy", "policy"):
        with pytest.raises(
            DiwaError, match=f"/left/policy does not read the section {section}: name it /\\*\\*/policy"
        ):
            setup(section, "/left")
        assert setup(section, "").shared_events
    for section in ("/left/policy", "/right/policy", "/**/policy"):
        assert setup(section, "/left").namespace == "/left"


def test_arguments_are_checked(launching):
    assert launching.number({"episodes": "3"}, "episodes") == 3
    for text in ("-1", "many", "inf", "nan"):
        with pytest.raises(DiwaError, match=f"episodes:={text} is not a number from 0 up"):
            launching.number({"episodes": text}, "episodes")
    assert launching.number({"success_ticks": "-1"}, "success_ticks", lowest=-1) == -1
    assert [launching.skill_parameter(skill) for skill in ("play", "pick_cup")] == ["", "pick_cup"]
    with pytest.raises(DiwaError, match="'Pick Cup' cannot name a skill"):
        launching.skill_parameter("Pick Cup")
    with pytest.raises(DiwaError, match="unknown robot 'ur5'"):
        launching.robot_parameters("ur5")


def test_a_skill_or_a_sequence_is_launched_with_what_the_arguments_are_by_default(launching, monkeypatch):
    path = Path(__file__).parents[4] / "launch" / "run_skill.launch.py"
    spec = importlib.util.spec_from_file_location("run_skill_launch", path)
    file = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(file)
    for kind in ("kept_node", "final_node"):
        monkeypatch.setattr(file, kind, lambda _, name, __, **parameters: (name, parameters))
    monkeypatch.setattr(file, "robot_actions", lambda given, _: [("robot", given["skill"])])
    usual = {each.name: "".join(part.text for part in each.default_value or ()) for each in file.ARGUMENTS}

    def actions(**given):
        return dict(file._actions(usual | {"robot": "sim"} | given))

    one = actions(skill="open_drawer")
    assert (one["policy"]["skill"], one["policy"]["success_ticks"], one["robot"]) == ("open_drawer", -1, "open_drawer")
    assert one["run_skill"]["skill"] == "open_drawer"
    several = actions(sequence="turn_on_led, open_drawer turn_on_led", record="true")
    assert several["policy"]["skills"] == ["turn_on_led", "open_drawer"]
    assert several["run_skill"]["sequence"] == ["turn_on_led", "open_drawer", "turn_on_led"]
    assert (several["robot"], several["recorder"]["skill"]) == ("turn_on_led", "play")
    for given, message in (
        ({}, "name what to run"),
        ({"skill": "a", "sequence": "b"}, "name what to run"),
        ({"sequence": "a b", "rollouts": "3"}, "rollouts compare policies of one skill"),
        ({"sequence": "a Fly"}, "'Fly' cannot name a skill"),
    ):
        with pytest.raises(DiwaError, match=message):
            actions(**given)
