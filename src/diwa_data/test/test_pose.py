"""Poses and relative actions: hand-computed cases, and round trips of random ones (rotations near pi too)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.pose import (
    Pose,
    action_sequence,
    integrate,
    interpolate,
    relative_action,
    robot_state,
    rotation_6d,
    rotation_distance,
    scaled_delta,
)
from diwa_data.spec import ActionSpec

SPEC = ActionSpec()
DOWN = Rotation.from_rotvec([np.pi, 0, 0])

unit = st.floats(-1, 1)
metres = st.tuples(unit, unit, unit).map(np.array)


@st.composite
def rotations(draw: st.DrawFn) -> Rotation:
    """Any rotation, half of them within a hair of pi ("gripper down")."""
    axis = np.array([draw(unit), draw(unit), draw(st.floats(0.01, 1))])
    axis /= np.linalg.norm(axis)
    angle = draw(st.one_of(st.floats(-np.pi, np.pi), st.floats(np.pi - 1e-6, np.pi + 1e-6)))
    return Rotation.from_rotvec(angle * axis)


@st.composite
def poses(draw: st.DrawFn) -> Pose:
    return Pose(draw(metres), draw(rotations()))


actions = st.lists(unit, min_size=7, max_size=7).map(lambda values: SPEC.executed(np.array(values)))


def assert_same_pose(first: Pose, second: Pose, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(first.position, second.position, atol=tolerance)
    assert rotation_distance(first.rotation, second.rotation) < tolerance


def test_translation_by_hand() -> None:
    start = Pose(np.array([0.5, 0.0, 0.3]), DOWN)
    end = Pose(np.array([0.54, -0.02, 0.3]), DOWN)
    np.testing.assert_allclose(relative_action(start, end, 1.0, SPEC), [1, -0.5, 0, 0, 0, 0, 1], atol=1e-6)


def test_rotation_is_applied_on_the_left_in_the_base_frame() -> None:
    start = Pose(np.zeros(3), DOWN)
    end = Pose(np.zeros(3), Rotation.from_euler("z", 0.05) * DOWN)
    np.testing.assert_allclose(relative_action(start, end, -1.0, SPEC), [0, 0, 0, 0, 0, 0.5, -1], atol=1e-6)


def test_gripper_sign_is_kept_and_zero_opens() -> None:
    pose = Pose(np.zeros(3), DOWN)
    assert [relative_action(pose, pose, g, SPEC)[6] for g in (0.3, 0.0, -0.1)] == [1, 1, -1]


def test_euler_difference_wraps_around_pi() -> None:
    spec = ActionSpec(max_pos=0.02, max_rot=0.05, rotation="euler_difference")
    start = Pose(np.zeros(3), Rotation.from_euler("xyz", [np.pi - 0.01, 0, 0]))
    end = Pose(np.zeros(3), Rotation.from_euler("xyz", [-np.pi + 0.01, 0, 0]))
    np.testing.assert_allclose(scaled_delta(start, end, spec), [0, 0, 0, 0.4, 0, 0], atol=1e-6)
    assert_same_pose(integrate(start, relative_action(start, end, 1, spec), spec), end)


@settings(max_examples=200)
@given(poses(), actions)
def test_action_survives_integration(start: Pose, action: np.ndarray) -> None:
    end = integrate(start, action, SPEC)
    np.testing.assert_allclose(relative_action(start, end, action[6], SPEC), action, atol=1e-5)


@settings(max_examples=200)
@given(poses(), rotations(), metres)
def test_unclipped_delta_reaches_the_end(start: Pose, turn: Rotation, step: np.ndarray) -> None:
    turn = Rotation.from_rotvec(0.05 * turn.as_rotvec() / np.pi)
    end = Pose(start.position + 0.03 * step, turn * start.rotation)
    action = np.append(scaled_delta(start, end, SPEC), 1.0)
    assert_same_pose(integrate(start, action, SPEC), end)


@settings(max_examples=100)
@given(poses(), poses(), st.floats(0, 1))
def test_interpolation_ends_and_proportion(start: Pose, end: Pose, fraction: float) -> None:
    assert_same_pose(interpolate(start, end, 0.0), start)
    assert_same_pose(interpolate(start, end, 1.0), end, 1e-5)
    part = rotation_distance(start.rotation, interpolate(start, end, fraction).rotation)
    assert part == pytest.approx(fraction * rotation_distance(start.rotation, end.rotation), abs=1e-6)


@settings(max_examples=100)
@given(rotations())
def test_rotation_6d_is_two_columns_and_continuous_across_pi(rotation: Rotation) -> None:
    columns = rotation_6d(rotation)
    np.testing.assert_allclose(columns, rotation.as_matrix()[:, :2].T.reshape(-1))
    near = Rotation.from_rotvec([1e-7, 0, 0]) * rotation
    assert np.abs(rotation_6d(near) - columns).max() < 1e-6


@settings(max_examples=100)
@given(poses(), st.floats(0.5, 2))
def test_quaternion_round_trip_normalises(pose: Pose, scale: float) -> None:
    assert_same_pose(Pose.from_quaternion(pose.position, scale * pose.quaternion), pose)


def test_robot_state_order() -> None:
    state = robot_state(Pose(np.array([1.0, 2, 3]), Rotation.from_euler("z", 90, degrees=True)), 0.04)
    np.testing.assert_allclose(state, [1, 2, 3, 0, 1, 0, -1, 0, 0, 0.04], atol=1e-7)
    assert state.dtype == np.float32


def test_clipping_delays_motion_but_loses_none() -> None:
    targets = [Pose(np.array([x, 0, 0]), DOWN) for x in (0.0, 0.06, 0.06, 0.06)]
    sequence = action_sequence(targets, np.array([1, 1, -1, -1.0]), SPEC)
    np.testing.assert_allclose(sequence.actions[:, 0], [1.0, 0.5, 0.0], atol=1e-6)
    np.testing.assert_array_equal(sequence.actions[:, 6], [1, -1, -1])
    assert sequence.clipped.tolist() == [True, False, False]


@settings(max_examples=30)
@given(poses(), st.lists(actions, min_size=1, max_size=20))
def test_a_sequence_of_actions_is_found_again(start: Pose, given_actions: list[np.ndarray]) -> None:
    targets = [start]
    for action in given_actions:
        targets.append(integrate(targets[-1], action, SPEC))
    grippers = np.array([1.0, *(action[6] for action in given_actions)])
    sequence = action_sequence(targets, grippers, SPEC)
    np.testing.assert_allclose(sequence.actions, given_actions, atol=1e-4)


@given(st.integers(0, 2**31))
def test_a_pose_comes_back_from_its_robot_state(seed: int) -> None:
    pose = Pose(np.random.default_rng(seed).uniform(-1, 1, 3), Rotation.random(random_state=seed))
    back = Pose.from_state(robot_state(pose, 0.04))
    np.testing.assert_allclose(back.position, pose.position, atol=1e-6)
    assert rotation_distance(back.rotation, pose.rotation) < 1e-5
