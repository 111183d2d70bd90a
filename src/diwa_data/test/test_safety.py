"""The safety filter: each limit by hand, and no input that breaks them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.interpolator import Interpolator
from diwa_data.limits import MotionLimits
from diwa_data.motion import SafetyFilter, outside, use_of_limits
from diwa_data.pose import Pose, action_sequence
from diwa_data.spec import Spec

SPEC, LIMITS = Spec(), MotionLimits()
DOWN = Rotation.from_euler("x", np.pi)
HOME = Pose(np.array([0.5, 0.0, 0.3]), DOWN)


def started(target=HOME, gripper=1.0):
    """A filter that stands at `target`."""
    safety = SafetyFilter(LIMITS, SPEC)
    safety.reset(target, gripper)
    return safety


def test_a_small_action_passes_untouched():
    action = np.array([0.5, -0.25, 0.0, 0.0, 0.0, 0.5, -1.0])
    command = started().step(action, HOME)
    assert command.interventions == ()
    assert command.gripper == -1
    np.testing.assert_allclose(command.goal.position, [0.52, -0.01, 0.3])
    np.testing.assert_allclose(command.action, action, atol=1e-6)


def test_reset_gives_the_null_action():
    np.testing.assert_array_equal(SafetyFilter(LIMITS, SPEC).reset(HOME), SPEC.action.null)
    with pytest.raises(ValueError, match="not finite"):
        SafetyFilter(LIMITS, SPEC).reset(Pose(np.full(3, np.nan), DOWN))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_holds_and_says_so(bad):
    safety = started(gripper=-1.0)
    command = safety.step(np.array([0.5, 0, 0, 0, 0, 0, bad]), HOME)
    assert command.interventions == ("finite",)
    np.testing.assert_array_equal(command.goal.position, HOME.position)
    np.testing.assert_array_equal(command.action, [0, 0, 0, 0, 0, 0, -1])


def test_an_action_beyond_one_step_is_clamped():
    command = started().step(np.array([5.0, 0, 0, 0, 0, 0, 1]), HOME)
    assert command.interventions == ("step",)
    np.testing.assert_allclose(command.goal.position, [0.54, 0, 0.3])
    assert command.action[0] == 1


def test_the_box_stops_the_goal_and_the_action_says_so():
    wall = Pose(np.array([LIMITS.workspace_high[0] - 0.01, 0, 0.3]), DOWN)
    command = started(wall).step(np.array([1.0, 0, 0, 0, 0, 0, 1]), wall)
    assert command.interventions == ("workspace",)
    assert command.goal.position[0] == LIMITS.workspace_high[0]
    assert command.action[0] == pytest.approx(0.25)


def test_tilt_stops_at_its_limit():
    tilted = Pose(HOME.position, Rotation.from_euler("x", np.pi - LIMITS.max_tilt))
    command = started(tilted).step(np.array([0, 0, 0, -1.0, 0, 0, 1]), tilted)
    assert "tilt" in command.interventions
    assert outside(command.goal, LIMITS) == ""


def test_a_target_that_stands_still_does_not_wind_the_goal_up():
    safety = started()
    commands = [safety.step(np.array([1.0, 0, 0, 0, 0, 0, 1]), HOME) for _ in range(4)]
    assert [command.interventions for command in commands] == [(), (), ("windup",), ("windup",)]
    np.testing.assert_allclose([c.goal.position[0] for c in commands], [0.54, 0.58, 0.59, 0.59], atol=1e-6)


def test_a_step_without_reset_is_a_mistake_in_the_program():
    with pytest.raises(RuntimeError, match="reset"):
        SafetyFilter(LIMITS, SPEC).step(np.zeros(7), HOME)


def test_executed_actions_are_those_that_a_dataset_would_hold():
    """The same published targets for both, one of which is farther away than an action reaches."""
    xs = [0.5, 0.52, 0.60, 0.61, 0.61]
    targets = [Pose(np.array([x, 0, 0.3]), Rotation.from_euler("z", x - 0.5) * DOWN) for x in xs]
    safety = started(targets[0], gripper=-1.0)
    executed = [safety.executed(target) for target in targets[1:]]
    expected = action_sequence(targets, np.full(len(targets), -1.0), SPEC.action)
    np.testing.assert_allclose(executed, expected.actions, atol=1e-6)
    assert expected.clipped.any()


anything = st.floats(width=32) | st.floats(-2, 2)
actions = st.lists(st.tuples(*[anything] * 7), min_size=1, max_size=10)
measured = st.tuples(st.tuples(*[st.floats(-3, 3)] * 3) | st.just((0.5, 0.0, 0.3)), st.tuples(*[st.floats(-4, 4)] * 3))


@settings(max_examples=60)
@given(actions, st.lists(measured, min_size=10, max_size=10))
def test_no_actions_and_no_arm_break_a_limit(sequence, arms):
    """Filter and interpolator, as they stand between a policy and an arm."""
    safety, interpolator = started(), Interpolator(LIMITS.within(SPEC), 60.0)
    interpolator.reset(HOME)
    published = [HOME]
    for action, (position, turn) in zip(sequence, arms, strict=False):
        executed = safety.executed(published[-1])
        assert np.isfinite(executed).all()
        assert abs(executed[:6]).max() <= 1
        command = safety.step(np.array(action), published[-1])
        assert outside(command.goal, LIMITS) == ""
        assert command.gripper in (-1.0, 1.0)
        interpolator.command(command.goal, SPEC.tick)
        arm = Pose(np.array(position), Rotation.from_rotvec(turn))
        published += [interpolator.step(arm).pose for _ in range(8)]
    used = use_of_limits(published, LIMITS, 60.0)
    assert max(used.values()) <= 1 + 1e-6, used
