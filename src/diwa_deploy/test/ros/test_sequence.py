"""The action `execute_sequence` on a graph, with a robot that is a point and does not keep time."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.spec import Spec
from diwa_data.testing.waiting import wait
from diwa_deploy.bundle import StartRegion
from diwa_deploy.control import ControlResult, Stopped, Tick

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

DOWN = np.array([1.0, 0.0, 0.0, 0.0])
CANCELED, ABORTED, SUCCEEDED = 5, 6, 4


def pose(y: float) -> Pose:
    return Pose.from_quaternion(np.array([0.5, y, 0.3]), DOWN)


@dataclass
class PointRobot:
    """Is at every goal at once, a tick every few milliseconds; has what the server asks of the robot on a graph."""

    spec: Spec = field(default_factory=Spec)
    measured: Pose = field(default_factory=lambda: pose(0.0))
    armed: bool = True
    fault: str = ""
    missed: int = 0
    commands: list[Pose] = field(default_factory=list)
    reason: str = ""

    interventions = Counter()  # noqa: RUF012

    def problem(self):
        return ""

    def arm(self):
        self.reason = ""

    begin = arm

    def end(self):
        pass

    def stop(self, reason):
        self.reason = self.reason or reason

    def observe(self):
        time.sleep(0.005)
        if self.reason:
            raise Stopped(self.reason)
        return Observation({}, self.measured, self.measured, 0.08, 0.0, 0.0)

    def command(self, goal, gripper=None):
        self.commands.append(goal)
        self.measured = goal


@dataclass
class Skill:
    """Takes two ticks in which nothing moves, and ends as it is told."""

    start: StartRegion
    reason: str = "success"
    limits: MotionLimits = field(default_factory=MotionLimits)

    def run(self, robot, max_steps, seed, success_ticks, on_tick):
        ticks = [Tick(robot.spec.action.null, 0.5, (), 0.0)] * 2
        for tick in ticks:
            on_tick(robot.observe(), tick)
        return ControlResult(self.reason, ticks)


def beside(y: float) -> StartRegion:
    return StartRegion.of([pose(y - 0.02), pose(y + 0.02)])


class Client:
    """The server of a point robot with two skills 20 cm apart, and who sends it sequences."""

    def __init__(self, topics):
        from rclpy.action import ActionClient

        from diwa_deploy.ros.skill_server import PolicyNodeConfig, SkillServer
        from diwa_interfaces.action import ExecuteSequence

        self.robot, self.feedback, self._goal = PointRobot(), [], ExecuteSequence.Goal
        self.server = topics.call(lambda: SkillServer(topics.node, self.robot, PolicyNodeConfig()))
        self.server.runners = {"near": Skill(beside(0.0)), "far": Skill(beside(0.2))}
        self._action = topics.call(lambda: ActionClient(topics.node, ExecuteSequence, "execute_sequence"))
        assert self._action.wait_for_server(60.0)

    def send(self, *skills):
        """The handle of a goal."""
        self.feedback.clear()
        goal = self._goal(skills=list(skills), seed=3)
        return wait(self._action.send_goal_async(goal, feedback_callback=self._keep))

    def result(self, handle):
        """Its status and result."""
        answer = wait(handle.get_result_async())
        return answer.status, answer.result

    def until_it_moves(self):
        """Wait until the hand is on its way."""
        end = time.monotonic() + 60
        while not any(told.moving for told in list(self.feedback)):
            assert time.monotonic() < end
            time.sleep(0.001)

    def _keep(self, told):
        self.feedback.append(told.feedback)


@pytest.fixture
def client(topics):
    return Client(topics)


def test_a_sequence_runs_to_its_end_and_says_where_it_is(client):
    status, done = client.result(client.send("near", "far", "near"))
    assert (status, done.success, done.reason, done.done, done.steps) == (SUCCEEDED, True, "success", 3, 6)
    told = dict.fromkeys((each.index, each.skill, each.moving) for each in client.feedback)
    assert list(told) == [
        (0, "near", False), (1, "far", True), (1, "far", False), (2, "near", True), (2, "near", False),
    ]  # fmt: skip
    moves = [each.step for each in client.feedback if each.moving and each.index == 1]
    assert moves == list(range(1, len(moves) + 1))
    steps = np.diff([goal.position for goal in client.robot.commands], axis=0)
    assert np.linalg.norm(steps, axis=1).max() < 0.1 / 7.5 + 1e-6


def test_a_skill_that_is_not_done_is_tried_twice_and_named(client):
    client.server.runners["far"].reason = "max_steps"
    status, done = client.result(client.send("near", "far", "near"))
    assert (status, done.success, done.reason, done.done) == (SUCCEEDED, False, "far, 2 of 3: max_steps", 1)
    assert (done.steps, max(each.attempt for each in client.feedback)) == (6, 1)
    assert client.server.latched == ""


def test_what_is_no_sequence_is_refused_and_nothing_moves(client):
    for names in ((), ("near", "fly"), ("far", "near")):  # the last begins 18 cm off
        assert not client.send(*names).accepted, names
    client.robot.armed = False
    assert not client.send("near").accepted
    client.robot.armed = True
    assert client.robot.commands == []
    handle = client.send("near", "far")
    assert handle.accepted
    assert not client.send("near").accepted, "one at a time"
    client.result(handle)


def test_cancel_in_the_move_ends_it_there_and_latches_nothing(client):
    handle = client.send("near", "far")
    client.until_it_moves()
    handle.cancel_goal_async()
    status, done = client.result(handle)
    assert (status, done.success, done.reason, done.done) == (CANCELED, False, "far, 2 of 2: cancelled", 1)
    count = len(client.robot.commands)
    time.sleep(0.1)
    assert (len(client.robot.commands), client.server.latched) == (count, "")
    assert client.robot.measured.position[1] < 0.18


def test_a_stop_in_the_move_latches_until_it_is_rearmed(client, topics):
    from std_srvs.srv import Trigger

    handle = client.send("near", "far")
    client.until_it_moves()
    client.robot.stop("/diwa/static/image is 1.0 s old")
    status, done = client.result(handle)
    assert (status, done.reason) == (ABORTED, "far, 2 of 2: /diwa/static/image is 1.0 s old")
    client.robot.measured = pose(0.0)
    assert not client.send("near").accepted
    service = topics.call(lambda: topics.node.create_client(Trigger, "/test/rearm"))
    assert service.wait_for_service(60.0)
    assert wait(service.call_async(Trigger.Request())).success
    assert client.send("near").accepted


def test_what_fails_ends_the_goal_and_is_told(client):
    client.server.runners["near"].run = None
    status, done = client.result(client.send("near"))
    assert (status, done.reason, done.done) == (ABORTED, "failed: 'NoneType' object is not callable", 0)
