"""Targets published to an arm, from arming to disarming, whatever is measured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.motion import use_of_limits
from diwa_data.pose import DOWN, Pose
from diwa_deploy.target import ArmedTarget

LIMITS, RATE, TICK = MotionLimits(), 60.0, 1 / 7.5


def at(x: float) -> Pose:
    return Pose(np.array([x, 0.0, 0.3]), DOWN)


class Bench:
    """An armed target and an arm that is where it was told to be."""

    def __init__(self, start: Pose = at(0.5)) -> None:  # noqa: B008
        self.arm, self.now = ArmedTarget(LIMITS, RATE), 0.0
        for _ in range(3):
            self.update(start)
        self.arm.arm()
        self.published = [self.arm.target]

    def update(self, pose: Pose) -> None:
        self.now += 1 / RATE
        self.arm.update(pose, self.now)

    def steps(self, count: int, measured: Pose | None = None) -> None:
        for _ in range(count):
            self.update(measured or self.published[-1])
            if motion := self.arm.step():
                self.published.append(motion.pose)


def test_it_publishes_the_measured_pose_and_follows_commands() -> None:
    bench = Bench()
    bench.steps(5)
    np.testing.assert_array_equal(bench.published[-1].position, [0.5, 0, 0.3])
    bench.arm.command(at(0.53), TICK)
    bench.steps(40)
    np.testing.assert_allclose(bench.published[-1].position, [0.53, 0, 0.3], atol=1e-9)
    bench.arm.disarm()
    assert bench.arm.step() is None


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Pose(np.array([2.25, 0.0, 0.3]), DOWN), "outside of the workspace"),
        (at(0.75), "the measured position jumped by 0.1"),
        (Pose(np.array([530.0, 0.0, 300.0]), DOWN), "is it in metres"),
        (Pose(np.array([0.53, 0.0, 0.3]), Rotation.identity()), "jumped by 3.14 rad"),
        (at(np.nan), "not finite"),
    ],
)
def test_one_wrong_sample_brakes_disarms_and_says_so(wrong, words) -> None:
    bench = Bench()
    for x in (0.53, 0.56):
        bench.arm.command(at(x), TICK)
        bench.steps(8)
    before = bench.published[-1]
    bench.update(wrong)
    bench.arm.command(at(0.6), TICK)
    for _ in range(60):
        if motion := bench.arm.step():
            bench.published.append(motion.pose)
    assert words in bench.arm.fault
    assert not bench.arm.armed
    assert np.linalg.norm(bench.published[-1].position - before.position) < 0.025
    assert max(use_of_limits(bench.published, LIMITS, RATE).values()) <= 1 + 1e-6


def test_it_is_armed_again_where_the_arm_is_believed_to_be() -> None:
    bench = Bench()
    bench.update(at(0.7))
    assert bench.arm.step() is None
    assert bench.arm.problem(), "two more samples must agree"
    for _ in range(2):
        bench.update(at(0.7))
    assert bench.arm.problem() == ""
    bench.arm.arm()
    np.testing.assert_array_equal(bench.arm.step().pose.position, [0.7, 0, 0.3])
    assert bench.arm.fault == ""


def test_an_arm_that_is_guided_away_disarms_after_half_a_second() -> None:
    bench = Bench()
    bench.steps(5)
    for number in range(40):
        bench.steps(1, at(0.5 + 0.01 * min(number, 15)))
    assert "something else moves it" in bench.arm.fault
    np.testing.assert_allclose(bench.published[-1].position, [0.5, 0, 0.3], atol=1e-9)
    assert bench.arm.step() is None


def test_it_is_not_armed_again_while_it_brakes() -> None:
    bench = Bench()
    bench.arm.command(at(0.53), TICK)
    bench.steps(5)
    bench.arm.fail("told to")
    with pytest.raises(DiwaError, match="still brakes: told to"):
        bench.arm.arm()
    bench.steps(60)
    assert not bench.arm.armed
    assert max(use_of_limits(bench.published, LIMITS, RATE).values()) <= 1 + 1e-6


def test_one_that_is_armed_goes_on_where_it_is() -> None:
    """Also where the arm has been bent out of the workspace by a little."""
    bench = Bench(at(0.798))
    bench.arm.command(at(0.8), TICK)
    bench.steps(5)
    before = bench.published[-1]
    bench.update(at(0.801))
    bench.arm.arm()
    assert bench.arm.problem() == ""
    assert bench.arm.target is before


def test_an_arm_that_gives_way_where_it_presses_on_something_stays_armed() -> None:
    bench, wall = Bench(), 0.52
    for tick in range(12):
        bench.arm.command(at(0.52 + 0.005 * tick), TICK)
        bench.steps(8, at(min(wall, bench.published[-1].position[0])))
    bench.arm.hold()
    bench.steps(60, at(wall - 0.002))
    assert bench.arm.armed, bench.arm.fault
    assert bench.published[-1].position[0] > wall + LIMITS.max_lead_pos - 0.001


def test_it_is_not_armed_outside_of_the_workspace_or_without_a_pose() -> None:
    with pytest.raises(DiwaError, match="no measured pose yet"):
        ArmedTarget(LIMITS, RATE).arm()
    with pytest.raises(DiwaError, match=r"0\.100 m outside of the workspace"):
        Bench(at(0.9))


_NUMBER = st.floats(-2, 2) | st.floats(-1e4, 1e4) | st.sampled_from([np.nan, np.inf])
_POSE = st.builds(
    lambda position, turn: Pose(np.array(position), Rotation.from_rotvec(turn)),
    st.tuples(_NUMBER, _NUMBER, _NUMBER) | st.tuples(*[st.floats(0.2, 0.8)] * 3),
    st.tuples(*[st.floats(-3.2, 3.2)] * 3),
)
_TOLD = st.tuples(st.sampled_from(["command", "hold", "fail", "arm"]), _POSE, st.none() | _POSE, st.integers(1, 10))


@settings(max_examples=60)
@given(st.lists(_TOLD, min_size=1, max_size=12))
def test_nothing_that_is_measured_breaks_a_limit_while_it_is_armed(steps) -> None:
    bench = Bench()
    for how, goal, measured, count in steps:
        if how == "command":
            bench.arm.command(goal, TICK)
        elif how == "hold":
            bench.arm.hold()
        elif how == "fail":
            bench.arm.fail("told to")
        elif not bench.arm.armed and not bench.arm.problem():
            bench.arm.arm()
            bench.published = [bench.arm.target]  # counted from arming on
        bench.steps(count, measured)
    used = use_of_limits(bench.published, LIMITS, RATE)
    assert max(used.values()) <= 1 + 1e-6, used


def test_other_limits_hold_from_the_next_arming_on_and_the_pose_stays_believed() -> None:
    bench = Bench()
    bench.arm.disarm()
    bench.arm.limit(MotionLimits(max_speed=0.02, workspace_low=(0.45, -0.5, 0.0)))
    bench.arm.arm()
    bench.published.clear()
    bench.arm.command(at(0.53), TICK)
    bench.steps(60, at(0.5))
    steps = np.diff([pose.position for pose in bench.published], axis=0)
    assert 0.0 < np.linalg.norm(steps, axis=1).max() <= 0.02 / RATE + 1e-9
    bench.arm.disarm()
    bench.arm.limit(MotionLimits(workspace_low=(0.55, -0.5, 0.0)))
    assert "outside" in bench.arm.problem() or "workspace" in bench.arm.problem()
