"""Targets between two ticks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.motion import MotionLimits
from diwa_data.pose import Pose
from diwa_deploy.interpolator import Interpolator, way

TICK, RATE = 1 / 7.5, 60.0
DOWN = Rotation.from_rotvec([np.pi, 0, 0])
HOME = Pose(np.array([0.5, 0.0, 0.3]), DOWN)


def at(x: float, turn: float = 0.0) -> Pose:
    return Pose(np.array([x, 0.0, 0.3]), Rotation.from_euler("z", turn) * DOWN)


@pytest.fixture
def interpolator() -> Interpolator:
    made = Interpolator(MotionLimits(), TICK, RATE)
    made.reset(HOME)
    return made


def test_eight_steps_of_60_hz_make_a_tick_and_then_it_holds(interpolator):
    interpolator.command(at(0.532, 0.08))
    xs = [interpolator.step(HOME).pose.position[0] for _ in range(12)]
    np.testing.assert_allclose(xs[:8], 0.5 + 0.004 * np.arange(1, 9), atol=1e-9)
    np.testing.assert_allclose(xs[8:], 0.532, atol=1e-9)
    turned = (interpolator.target.rotation * DOWN.inv()).as_rotvec()
    np.testing.assert_allclose(turned, [0, 0, 0.08], atol=1e-9)


def test_a_hold_stops_time(interpolator):
    interpolator.command(at(0.532))
    interpolator.step(HOME)
    for _ in range(5):
        np.testing.assert_allclose(interpolator.step(HOME, hold=True).pose.position[0], 0.504, atol=1e-9)
    np.testing.assert_allclose(interpolator.step(HOME).pose.position[0], 0.508, atol=1e-9)


def test_a_new_command_starts_where_the_target_is(interpolator):
    interpolator.command(at(0.532))
    interpolator.step(HOME)
    interpolator.command(at(0.500))
    np.testing.assert_allclose(interpolator.step(HOME).pose.position[0], 0.5035, atol=1e-9)


def test_a_slow_way_is_straight_ends_at_the_goal_and_keeps_its_speed():
    poses = [at(0.5), *way(at(0.5), at(0.6, 0.4), speed=0.05, rotation_speed=0.2, tick=TICK)]
    assert len(poses) - 1 == 15  # 2 s for both 0.1 m and 0.4 rad
    np.testing.assert_allclose([pose.position[0] for pose in poses], np.linspace(0.5, 0.6, 16), atol=1e-9)
    np.testing.assert_allclose((poses[-1].rotation * DOWN.inv()).as_rotvec(), [0, 0, 0.4], atol=1e-9)
    assert len(list(way(at(0.5), at(0.5), 0.05, 0.2, TICK))) == 1


_NUMBER = st.floats(-2, 2) | st.sampled_from([np.nan, np.inf])
_POSES = st.tuples(st.tuples(_NUMBER, _NUMBER, _NUMBER), st.tuples(*[st.floats(-3.2, 3.2)] * 3))


@given(st.lists(st.tuples(_POSES, _POSES, st.integers(0, 10), st.booleans()), min_size=1, max_size=12))
def test_no_command_and_no_arm_make_the_target_jump(steps):
    limits, interpolator, last = MotionLimits(), Interpolator(MotionLimits(), TICK, RATE), HOME
    interpolator.reset(HOME)
    for (goal, goal_turn), (measured, measured_turn), count, hold in steps:
        interpolator.command(Pose(np.array(goal), Rotation.from_rotvec(goal_turn)))
        arm = Pose(np.array(measured), Rotation.from_rotvec(measured_turn))
        for _ in range(count):
            target = interpolator.step(arm, hold).pose
            assert np.abs(target.position - last.position).max() <= limits.max_speed / RATE + 1e-9
            turned = (target.rotation * last.rotation.inv()).as_rotvec()
            assert np.abs(turned).max() <= limits.max_rotation_speed / RATE + 1e-9
            last = target
