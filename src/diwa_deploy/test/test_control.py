"""The control loop on a robot that is a point: what it sends, records, and why it ends."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.limits import MotionLimits
from diwa_data.motion import SafetyFilter
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.spec import Spec
from diwa_deploy.control import control_loop

START = Pose(np.array([0.5, 0.0, 0.3]), Rotation.from_euler("x", np.pi))


@dataclass
class PointRobot:
    """Reaches every goal at once."""

    spec: Spec = field(default_factory=Spec)
    pose: Pose = START
    width: float = 0.08
    commands: list[tuple[Pose, float]] = field(default_factory=list)

    def observe(self):
        now = len(self.commands) * self.spec.tick
        return Observation({}, self.pose, self.pose, self.width, now, now)

    def command(self, goal, gripper):
        self.commands.append((goal, gripper))
        self.pose = goal


@dataclass(frozen=True)
class Decision:
    action: np.ndarray
    success_probability: float


@dataclass
class ListAgent:
    """Plays a list of actions; sure of success from a tick on, with one lapse."""

    actions: list
    probabilities: list
    executed: list = field(default_factory=list)
    seeds: list = field(default_factory=list)
    success_threshold: float = 0.8

    def reset(self, seed):
        self.seeds.append(seed)

    def act(self, observation, executed):
        self.executed.append(executed)
        tick = len(self.executed) - 1
        return Decision(np.array(self.actions[tick % len(self.actions)]), self.probabilities[tick])


FORWARD = [1.0, 0, 0, 0, 0, 0, -1]


def loop(agent, max_steps, robot=None, **options):
    robot = robot or PointRobot()
    return control_loop(robot, agent, SafetyFilter(MotionLimits(), robot.spec), max_steps, **options)


def test_runs_all_steps_and_feeds_back_what_was_executed():
    robot, agent = PointRobot(), ListAgent([FORWARD], [0.5] * 3)
    result = loop(agent, 3, robot, seed=7)
    assert (result.reason, result.steps, agent.seeds) == ("max_steps", 3, [7])
    np.testing.assert_allclose(robot.pose.position, [0.62, 0, 0.3])
    assert [gripper for _, gripper in robot.commands] == [-1, -1, -1]
    np.testing.assert_array_equal(agent.executed[0], robot.spec.action.null)
    np.testing.assert_allclose(agent.executed[1:], [FORWARD, FORWARD], atol=1e-6)
    assert [tick.success_probability for tick in result.ticks] == [0.5] * 3
    assert all(tick.latency >= 0 for tick in result.ticks)


def test_success_needs_consecutive_ticks():
    agent = ListAgent([FORWARD], [0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.9])
    result = loop(agent, 7, success_ticks=3)
    assert (result.reason, result.steps) == ("success", 6)


def test_success_takes_more_than_the_threshold_itself():
    assert loop(ListAgent([FORWARD], [0.8] * 4), 4, success_ticks=3).reason == "max_steps"


def test_without_a_rule_the_classifier_ends_nothing():
    assert loop(ListAgent([FORWARD], [1.0] * 5), 5).reason == "max_steps"


def test_stop_is_asked_after_each_command():
    robot = PointRobot()
    result = loop(
        ListAgent([FORWARD], [0.0] * 9), 9, robot, stop=lambda: "enough" if len(robot.commands) == 2 else None
    )
    assert (result.reason, result.steps) == ("enough", 2)


def test_interventions_are_counted_by_name():
    nan, big = [np.nan] * 7, [9.0, 0, 0, 0, 0, 0, 1]
    result = loop(ListAgent([nan, big, FORWARD], [0.0] * 3), 3)
    assert result.interventions == {"finite": 1, "step": 1}
    np.testing.assert_array_equal(result.ticks[0].action, [0, 0, 0, 0, 0, 0, 1])


def test_an_action_of_nan_at_first_keeps_closed_fingers_closed():
    robot = PointRobot(width=0.03)
    loop(ListAgent([[np.nan] * 7], [0.0]), 1, robot)
    assert [gripper for _, gripper in robot.commands] == [-1]


def test_every_tick_is_told_with_its_observation():
    told = []
    loop(ListAgent([FORWARD], [0.0] * 2), 2, on_tick=lambda observation, tick: told.append((observation.stamp, tick)))
    assert [stamp for stamp, _ in told] == pytest.approx([0.0, 1 / 7.5])
