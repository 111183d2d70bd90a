"""The action `execute_sequence` on a running graph: what moves between two skills, and what stops it."""

from __future__ import annotations

import json
import re
import shutil
import time

import numpy as np
import pytest

from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.testing.waiting import until, wait
from diwa_deploy.bundle import StartRegion, seal_bundle

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

BOTH = ("open_drawer", "close_drawer")


@pytest.fixture
def skills(bundle, tmp_path, arm):
    """A folder with two skills; the second begins 20 cm beside the first."""
    for skill, y in zip(BOTH, (0.0, 0.2), strict=True):
        shutil.copytree(bundle, tmp_path / skill)
        region = StartRegion.of([Pose(np.array([0.5, y + d, 0.3]), arm.pose(0).rotation) for d in (-0.02, 0.02)])
        card = {"format": 1, "skill": skill, "start": region.to_card()}
        (tmp_path / skill / "card.json").write_text(json.dumps(card))
        seal_bundle(tmp_path / skill)
    return tmp_path


class Client:
    """Sends sequences to the node."""

    def __init__(self, policy, topics):
        from rclpy.action import ActionClient

        from diwa_interfaces.action import ExecuteSequence

        self.policy, self._goal = policy, ExecuteSequence.Goal
        self._action = topics.call(lambda: ActionClient(topics.node, ExecuteSequence, "execute_sequence"))
        assert self._action.wait_for_server(10.0)
        self.feedback = []

    def send(self, *skills, max_steps=2):
        """Its handle; feedback comes from now on."""
        self.feedback.clear()
        goal = self._goal(skills=list(skills), max_steps=max_steps)
        return wait(
            self._action.send_goal_async(goal, feedback_callback=lambda told: self.feedback.append(told.feedback))
        )

    def until_it_moves(self):
        """Wait until the hand is on its way to the second skill."""
        until(lambda: any(told.moving for told in list(self.feedback)))
        time.sleep(1.0)


@pytest.fixture
def client(open_policy, skills, robot, topics):
    """The node is active with both skills; each counts as done after two ticks."""
    policy = open_policy(skills, "skills:=[close_drawer]", "success_ticks:=2")
    assert policy.transition("configure")
    for runner in policy.node._server.runners.values():
        runner._agent.success_threshold = -1.0
    time.sleep(0.5)
    assert policy.transition("activate")
    return Client(policy, topics)


def test_a_sequence_runs_with_a_slow_move_between_its_skills(client, arm, result):
    handle = client.send(*BOTH)
    until(lambda: any(told.moving for told in list(client.feedback)))
    begun = len(arm.targets)
    done = result(handle)
    assert (done.success, done.reason, done.done, done.steps) == (True, "success", 2, 4)
    told = [(each.index, each.skill, each.moving) for each in client.feedback]
    assert list(dict.fromkeys(told)) == [
        (0, "open_drawer", False),
        (1, "close_drawer", True),
        (1, "close_drawer", False),
    ]
    moving = [each for each in client.feedback if each.moving]
    assert [each.step for each in moving] == list(range(1, len(moving) + 1))
    assert 12 < len(moving) < 50, "20 cm at 10 cm/s"
    assert arm.violations() == 0
    places = np.array([target.position for target in arm.targets])
    assert places[:, 1].max() > 0.17
    moved = places[begun:]
    steps = np.linalg.norm(np.diff(moved[np.abs(moved[:, 1] - 0.13) < 0.03], axis=0), axis=1)
    assert steps.max() < 2 * 0.1 / 60, "on the way across, on a machine that misses ticks too"


def test_a_skill_that_runs_out_of_time_is_tried_twice_and_named(client, arm, result):
    client.policy.node._server.runners["close_drawer"]._agent.success_threshold = 2.0
    done = result(client.send("open_drawer", "open_drawer", "close_drawer", max_steps=3))
    assert (done.success, done.reason, done.done) == (False, "close_drawer, 3 of 3: max_steps", 2)
    assert (done.steps, max(each.attempt for each in client.feedback)) == (2 + 2 + 3 + 3, 1)
    assert client.send("open_drawer") is not None, "nothing has latched"


def test_what_is_no_sequence_is_refused_and_nothing_moves(client, arm):
    for names in ((), ("open_drawer", "fly"), ("close_drawer", "open_drawer")):  # the last begins 20 cm off
        assert not client.send(*names).accepted, names
    assert np.ptp(np.array([target.position for target in arm.targets]), axis=0).max() < 1e-6
    assert client.send(*BOTH).accepted
    assert not client.send(*BOTH).accepted, "one at a time"
    assert not client.policy.send().accepted, "nor a skill beside it"


@pytest.mark.parametrize("how", ["cancel", "deactivate", "camera"])
def test_a_stop_in_the_move_holds(client, arm, robot, result, topics, fault, how):
    handle = client.send(*BOTH)
    client.until_it_moves()
    if how == "cancel":
        handle.cancel_goal_async()
    elif how == "deactivate":
        assert client.policy.transition("deactivate")
    else:
        robot.silent |= {messages.image_topic("static")}
    done = result(handle)
    reason = {
        "cancel": "cancelled",
        "deactivate": "deactivated",
        "camera": r"(/diwa/static/image|the last command) is 1",
    }
    assert re.match(f"close_drawer, 2 of 2: {reason[how]}", done.reason), done.reason
    assert (done.success, done.done) == (False, 1)
    assert arm.moved(0.3) < 1e-6
    assert arm.targets[-1].position[1] < 0.15, "it is not where the skill begins"
    if how == "cancel":
        assert client.policy.call(topics, "go_to_start").success
    if how == "camera":
        assert not client.policy.send().accepted
    fault(f"{how} in the move between two skills", f"stood still, ended: {done.reason[:80]}")
