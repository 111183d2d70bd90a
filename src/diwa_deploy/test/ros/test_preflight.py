"""Preflight: green where a skill can run, and one red line for each thing that is missing."""

from __future__ import annotations

import signal
import time

import pytest

from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig

pytestmark = [pytest.mark.ros, pytest.mark.workspace]


@pytest.fixture
def preflight(domain):
    def run(*settings: str) -> tuple[int, list[str]]:
        from diwa_data.testing.ros import PARAMETERS, NodeProcess

        own = "robot.topics.command.type:=std_msgs/msg/Float64"
        process = NodeProcess("diwa_deploy.ros.preflight", domain, *PARAMETERS, own, *settings)
        return process.wait(60), process.said

    return run


def lines(said: list[str], mark: str) -> list[str]:
    return [line for line in said if line.startswith(mark)]


def test_a_robot_that_is_ready_is_green(robot, arm, bundle, preflight):
    status, said = preflight("skill:=open_drawer", f"checkpoint:={bundle}")
    assert status == 0, said
    assert len(lines(said, "ok")) == 11
    assert any("packages" in line and "images by" in line for line in said)
    assert any(messages.image_topic("static") in line and " ms old" in line for line in said)
    assert any("ms a decision" in line for line in said)


def test_what_is_missing_is_red_with_its_cure(robot, topics, bundle_of, tmp_path, preflight):
    other = bundle_of(tmp_path, RobotConfig(name="another_lab").spec)
    while robot.frames < 2:  # its publishers are there
        time.sleep(0.02)
    robot.silent |= {messages.image_topic("gripper")}
    robot.stamp_offset = -4.0
    robot.size = (20, 20)
    time.sleep(0.5)
    status, said = preflight("skill:=open_drawer", f"checkpoint:={other}")
    assert status == 1
    red = "\n".join(lines(said, "BAD"))
    assert "nothing came on /diwa/gripper/image, though /test" in red
    assert "its stamps are +4.0" in red
    assert "spec.robot is 'another_lab', expected 'panda'" in red
    robot.stamp_offset = 0.0
    status, said = preflight()
    assert "camera 'static' gave an image of uint8 20x20x3" in "\n".join(lines(said, "BAD"))


def test_a_pose_in_another_frame_is_red(robot, preflight):
    status, said = preflight("robot.base_frame:=fr3_link0")
    assert status == 1
    assert "/diwa/current_pose is in the frame 'panda_link0', not in the robot's base 'fr3_link0'" in "\n".join(
        lines(said, "BAD")
    )


def test_ctrl_c_ends_it_without_a_word(start, topics):
    process = start("preflight", "seconds:=100.0")
    end = time.monotonic() + 40
    while "preflight" not in topics.call(topics.node.get_node_names) and time.monotonic() < end:
        time.sleep(0.1)
    assert process.stop(signal.SIGINT) == 130
    assert not process.said
