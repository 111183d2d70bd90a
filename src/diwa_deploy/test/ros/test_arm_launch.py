"""The arm's launch file with imaginary packages of ros2_control: what the spawner is told, on Jazzy and on Humble."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from diwa_data.config import config_file
from diwa_data.errors import DiwaError

pytestmark = pytest.mark.ros

FILE = Path(__file__).parents[4] / "launch" / "arm.launch.py"
JAZZY, HUMBLE = "usage: spawner [--param-file P] [--controller-ros-args A]", "usage: spawner [--param-file P]"


@pytest.fixture
def drivers() -> list[str]:
    """Packages of messages of arms that are installed."""
    return ["franka_msgs"]


@pytest.fixture
def launch(tmp_path: Path, monkeypatch, drivers: list[str]) -> Any:
    """`launch(help, "arm", ...)`: the nodes that the file starts beside a spawner with this help, as their options."""
    spec = importlib.util.spec_from_file_location("arm_launch", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    for package in ("controller_manager", "crisp_controllers"):
        (index / package).touch()
        (tmp_path / "share" / package).mkdir()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setattr(module, "Node", lambda **options: SimpleNamespace(**options))
    found = importlib.util.find_spec

    def find(name: str, *more: Any) -> Any:
        return (name in drivers or None) if name == "franka_msgs" else found(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    monkeypatch.setattr(module, "LogInfo", lambda msg: SimpleNamespace(package="log", msg=msg))

    def run(told: str, arm: str, namespace: str = "", manager: str = "controller_manager", own: str = "") -> Any:
        spawner = tmp_path / "lib" / "controller_manager" / "spawner"
        spawner.parent.mkdir(parents=True, exist_ok=True)
        spawner.write_text(f"#!/bin/sh\necho '{told}'\n")
        spawner.chmod(0o755)
        given = {"arm": arm, "namespace": namespace, "controller_manager": manager, "controllers": own}
        given |= {"robot_file": ""}
        return module._actions(given)

    return run


def test_a_spawner_that_can_remaps_to_our_topics_in_the_namespace(launch) -> None:
    spawner, franka = launch(JAZZY, "fr3")
    assert spawner.arguments[3:6] == [str(config_file("crisp_fr3.yaml")), "--controller-manager", "/controller_manager"]
    assert "-r target_pose:=/diwa/target_pose" in spawner.arguments
    assert "-r current_pose:=/diwa/current_pose" in spawner.arguments
    assert (franka.executable, franka.parameters[0]) == ("franka_node", {"controller_manager": "controller_manager"})
    spawner, franka = launch(JAZZY, "fr3", "/left")
    assert franka.namespace == "/left"
    assert spawner.namespace == "/left"
    assert spawner.arguments[5] == "/left/controller_manager"
    assert "-r target_pose:=/left/diwa/target_pose" in spawner.arguments
    assert launch(JAZZY, "fr3", "/left", "/shared/controller_manager")[0].arguments[5] == "/shared/controller_manager"


def test_where_the_spawner_cannot_an_adapter_stands_between(launch) -> None:
    spawner, told, adapter, _ = launch(HUMBLE, "panda", "/left")
    assert not [word for word in spawner.arguments if "ros-args" in word or "-r " in word]
    assert "cannot remap topics" in told.msg
    assert (adapter.package, adapter.executable, adapter.namespace) == ("diwa_data", "adapter_node", "/left")
    assert adapter.parameters == [
        {
            "robot.base_frame": "panda_link0",
            "robot.topics.pose.topic": "current_pose",
            "robot.topics.target.topic": "target_pose",
        }
    ]


def test_without_the_drivers_messages_nothing_recovers_and_that_is_said(launch, drivers) -> None:
    drivers.clear()
    assert launch(JAZZY, "fr3")[-1].msg.startswith("ERROR: no franka_msgs here")


def test_a_file_without_a_frame_is_refused_by_name(launch, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("pose_broadcaster: {ros__parameters: {type: crisp_controllers/PoseBroadcaster}}\n")
    with pytest.raises(DiwaError, match=r"own.yaml: pose_broadcaster has no base_frame"):
        launch(HUMBLE, "panda", own=str(own))
