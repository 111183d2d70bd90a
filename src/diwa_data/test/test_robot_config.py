"""The shipped robots and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from diwa_data.errors import DiwaError
from diwa_data.robot_config import ROBOTS, RobotConfig, load_robot, robot_file
from diwa_data.spec import CameraSpec


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
    with pytest.raises(DiwaError, match=r"ours\.yaml: robot: unknown key 'wrist'; known: name, static, gripper"):
        load_robot(own)
    own.write_text("/**: {ros__parameters: {rate: 1}}")
    with pytest.raises(DiwaError, match=r"ours\.yaml has no section robot"):
        load_robot(own)
    own.write_text("robot: {}")
    with pytest.raises(DiwaError, match="not YAML of the form"):
        load_robot(own)
