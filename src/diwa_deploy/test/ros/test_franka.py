"""A Franka's mode, collision thresholds and recovery, against an imitation of its driver's servers."""

from __future__ import annotations

import importlib.util
import threading
import time

import numpy as np
import pytest

from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.testing.waiting import until

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(importlib.util.find_spec("franka_msgs") is None, reason="needs ROS 2 and franka_msgs"),
    pytest.mark.skipif(
        importlib.util.find_spec("controller_manager_msgs") is None, reason="needs ROS 2 and controller_manager_msgs"
    ),
]

REFLEX, USER_STOPPED, IDLE = 4, 5, 1
COLLISION = (
    "collision.contact_torque:=[10.0, 10.0, 10.0, 10.0, 8.0, 8.0, 8.0]",
    "collision.torque:=[20.0, 20.0, 20.0, 20.0, 16.0, 16.0, 16.0]",
    "collision.contact_force:=[10.0, 10.0, 10.0, 8.0, 8.0, 8.0]",
    "collision.force:=[20.0, 20.0, 20.0, 16.0, 16.0, 16.0]",
)
WHOLE = ["stop cartesian_controller", "recover", "start cartesian_controller"]


@pytest.fixture
def modes(topics):
    """The modes that the node tells."""
    return topics.subscribe(messages.ARM_MODE)


def test_a_reflex_is_recovered_when_it_is_asked_for_and_not_before(topics, driver, start, recover, modes):
    start("franka_node")
    until(lambda: modes[-1:] == [2])
    driver.mode = REFLEX
    until(lambda: modes[-1] == REFLEX)
    time.sleep(1.0)
    assert driver.told == [], "nothing recovers by itself"
    answer = recover()
    assert (answer.success, answer.message) == (True, answer.message)
    assert answer.message.startswith("recovered, the arm holds where it is: rearm policy")
    assert driver.told == WHOLE
    until(lambda: modes[-1] == 2)
    assert recover().message == "the arm is in mode 2 (move): there is nothing to recover from"
    assert driver.told == WHOLE


def test_it_answers_why_it_does_not_recover(topics, driver, start, recover, modes):
    start("franka_node")
    until(lambda: modes[-1:] == [2])
    for mode, why in ((USER_STOPPED, "release the user stop first"), (3, "let go of the arm first")):
        driver.mode = mode
        until(lambda mode=mode: modes[-1] == mode)
        assert why in recover().message
    driver.mode = REFLEX
    until(lambda: modes[-1] == REFLEX)
    ended = threading.Event()

    def move() -> None:
        here = Pose.from_quaternion(np.array([0.5, 0.0, 0.3]), [1.0, 0.0, 0.0, 0.0])
        while not ended.wait(0.02):
            topics.publish(messages.TARGET_POSE, messages.encode_pose(here, time.time(), messages.BASE_FRAME), 1)

    moving = threading.Thread(target=move)
    moving.start()
    time.sleep(1.0)
    answer = recover()
    ended.set()
    moving.join()
    assert answer.message == "/test still publishes /diwa/target_pose: stop it first"
    assert driver.told == []


def test_a_driver_that_cannot_is_told_and_its_controller_stays_stopped(driver, start, recover, modes):
    start("franka_node")
    driver.mode, driver.refuses = REFLEX, "recover"
    until(lambda: modes[-1:] == [REFLEX])
    answer = recover()
    assert (answer.success, driver.told) == (False, ["stop cartesian_controller", "recover"])
    assert answer.message == (
        "/action_server/error_recovery could not recover: the driver's log says why; cartesian_controller does not run"
    )
    driver.refuses, driver.recovers_to = "", IDLE
    answer = recover()
    assert not answer.success
    assert answer.message.startswith("recovered, but the arm is in mode 1 (idle): look at Desk")


def test_without_a_driver_there_is_no_mode_and_no_recovery(start, recover):
    start("franka_node")
    answer = recover()
    assert not answer.success
    assert "the arm's mode is not known: nothing on /franka_robot_state_broadcaster/robot_state" in answer.message


def test_multipandas_service_in_a_namespace(imitate, start, recover):
    driver = imitate("/left", by_service=True)
    start("franka_node", remaps=("__ns:=/left",))
    driver.mode = REFLEX
    until(lambda: recover("/left").success)
    assert driver.told == WHOLE


def test_thresholds_are_given_at_the_start_and_after_a_recovery_and_refusals_are_said(driver, start, recover, modes):
    said = "thresholds [10.0, 16.0, 8.0, 20.0]"
    driver.refuses = "thresholds"
    node = start("franka_node", *COLLISION, "patience:=1.0")
    node.wait_for("/service_server/set_full_collision_behavior refused: command rejected due to the current mode", 60.0)
    assert driver.told == [said]
    driver.refuses = ""
    node.wait_for("the arm has its collision thresholds", 60.0)
    driver.told.clear()
    driver.mode = REFLEX
    until(lambda: modes[-1:] == [REFLEX])
    assert recover().success
    assert driver.told == [*WHOLE[:2], said, WHOLE[2]]


def test_thresholds_that_cannot_be_are_refused_by_name(start):
    node = start("franka_node", *COLLISION[:3], "collision.force:=[20.0, 20.0]")
    assert node.wait(60.0) == 2
    node.wait_for("collision.force has 2 numbers; give 6, or no threshold at all")
