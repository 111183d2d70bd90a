"""The safety filter: each limit by hand, and no input that breaks them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.motion import MotionLimits
from diwa_data.pose import Pose, integrate, rotation_distance
from diwa_data.spec import Spec
from diwa_deploy.safety import SafetyFilter

SPEC, LIMITS = Spec(), MotionLimits()
DOWN = Rotation.from_euler("x", np.pi)
HOME = Pose(np.array([0.5, 0.0, 0.3]), DOWN)


def started(measured=HOME, gripper=1.0):
    """A filter that stands at `measured`."""
    safety = SafetyFilter(LIMITS, SPEC)
    safety.reset(measured, gripper)
    return safety


def test_a_small_action_passes_untouched():
    action = np.array([0.5, -0.25, 0.0, 0.0, 0.0, 0.5, -1.0])
    command = started().step(action, HOME)
    assert command.interventions == ()
    assert command.gripper == -1
    np.testing.assert_allclose(command.target.position, [0.52, -0.01, 0.3])
    np.testing.assert_allclose(command.executed, action, atol=1e-6)


def test_reset_gives_the_null_action():
    np.testing.assert_array_equal(SafetyFilter(LIMITS, SPEC).reset(HOME), SPEC.action.null)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_holds_and_says_so(bad):
    safety = started(gripper=-1.0)
    command = safety.step(np.array([0.5, 0, 0, 0, 0, 0, bad]), HOME)
    assert command.interventions == ("finite",)
    np.testing.assert_array_equal(command.target.position, HOME.position)
    np.testing.assert_array_equal(command.executed, [0, 0, 0, 0, 0, 0, -1])


def test_an_unknown_measured_pose_holds():
    command = started().step(np.ones(7), Pose(np.array([np.nan, 0, 0]), DOWN))
    assert command.interventions == ("finite",)
    np.testing.assert_array_equal(command.target.position, HOME.position)


def test_an_action_beyond_one_step_is_clamped():
    command = started().step(np.array([5.0, 0, 0, 0, 0, 0, 1]), HOME)
    assert command.interventions == ("step",)
    np.testing.assert_allclose(command.target.position, [0.54, 0, 0.3])
    assert command.executed[0] == 1


def test_the_box_stops_the_target_and_the_executed_action_says_so():
    wall = Pose(np.array([LIMITS.workspace_high[0] - 0.01, 0, 0.3]), DOWN)
    command = started(wall).step(np.array([1.0, 0, 0, 0, 0, 0, 1]), wall)
    assert command.interventions == ("workspace",)
    assert command.target.position[0] == LIMITS.workspace_high[0]
    assert command.executed[0] == pytest.approx(0.25)


def test_tilt_stops_at_its_limit():
    tilted = Pose(HOME.position, Rotation.from_euler("x", np.pi - LIMITS.max_tilt))
    command = started(tilted).step(np.array([0, 0, 0, -1.0, 0, 0, 1]), tilted)
    assert "tilt" in command.interventions
    assert tilt(command.target) <= LIMITS.max_tilt + 1e-6


def test_a_blocked_arm_lets_the_target_lead_only_so_far():
    safety = started()
    commands = [safety.step(np.array([1.0, 0, 0, 0, 0, 0, 1]), HOME) for _ in range(3)]
    assert [c.interventions for c in commands] == [(), ("lead",), ("lead",)]
    np.testing.assert_allclose(commands[-1].target.position[0] - 0.5, LIMITS.max_lead_pos)
    np.testing.assert_allclose([c.executed[0] for c in commands], [1, 0.25, 0], atol=1e-6)


def test_a_step_without_reset_is_a_mistake_in_the_program():
    with pytest.raises(RuntimeError, match="reset"):
        SafetyFilter(LIMITS, SPEC).step(np.zeros(7), HOME)


def tilt(pose):
    return np.arccos(np.clip(-pose.rotation.as_matrix()[2, 2], -1, 1))


anything = st.floats(width=32) | st.floats(-2, 2)
actions = st.lists(st.tuples(*[anything] * 7), min_size=1, max_size=6)
motions = st.lists(st.tuples(*[st.floats(-1, 1)] * 6), min_size=6, max_size=6)


@settings(max_examples=150, deadline=None)
@given(actions, motions)
def test_no_sequence_of_actions_breaks_a_limit(sequence, arm_motions):
    """The measured pose stays inside the box and wanders by at most one full step a tick, as an arm does."""
    safety = started()
    measured, previous = HOME, HOME
    for action, motion in zip(sequence, arm_motions, strict=False):
        command = safety.step(np.array(action), measured)
        target = command.target
        assert np.isfinite(target.position).all()
        assert np.isfinite(command.executed).all()
        assert abs(command.executed[:6]).max() <= 1
        assert command.gripper in (-1.0, 1.0)
        assert abs(target.position - previous.position).max() <= LIMITS.max_speed * SPEC.tick + 1e-6
        turn = (target.rotation * previous.rotation.inv()).as_rotvec()
        assert abs(turn).max() <= LIMITS.max_rotation_speed * SPEC.tick + 1e-6
        assert (target.position >= np.array(LIMITS.workspace_low) - 1e-9).all()
        assert (target.position <= np.array(LIMITS.workspace_high) + 1e-9).all()
        # An arm that flees at full speed on all axes may be a step beyond what the target can follow.
        assert np.linalg.norm(target.position - measured.position) <= LIMITS.max_lead_pos + np.sqrt(3) * 0.04
        np.testing.assert_allclose(
            integrate(previous, command.executed, SPEC.action).position, target.position, atol=1e-6
        )
        previous = target
        measured = integrate(measured, np.append(motion, 1.0) * 0.5, SPEC.action)
        measured = Pose(np.clip(measured.position, LIMITS.workspace_low, LIMITS.workspace_high), measured.rotation)


@settings(max_examples=100, deadline=None)
@given(st.tuples(*[anything] * 7), st.tuples(*[st.floats(-3, 3)] * 3), st.tuples(*[st.floats(-7, 7)] * 3))
def test_a_measured_pose_far_away_never_makes_the_target_jump(action, position, angles):
    measured = Pose(np.array(position), Rotation.from_euler("xyz", angles))
    target = started().step(np.array(action), measured).target
    assert abs(target.position - HOME.position).max() <= LIMITS.max_speed * SPEC.tick + 1e-6
    assert (
        rotation_distance(HOME.rotation, target.rotation) <= np.sqrt(3) * LIMITS.max_rotation_speed * SPEC.tick + 1e-6
    )
