"""Motion limits: by hand, and as properties of random motion."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.motion import MotionLimits, clamp_lead, clamp_speed, clamp_tilt, clamp_workspace, limit_motion
from diwa_data.pose import Pose, rotation_distance

LIMITS = MotionLimits(workspace_low=(0.2, -0.5, 0.1), workspace_high=(0.8, 0.5, 0.8), max_tilt=0.5)
DOWN = Rotation.from_rotvec([np.pi, 0, 0])


def pose(x: float, y: float, z: float, rotation: Rotation = DOWN) -> Pose:
    return Pose(np.array([x, y, z]), rotation)


def test_workspace() -> None:
    limited = clamp_workspace(pose(0.9, 0, 0.05), LIMITS)
    assert limited.intervened
    np.testing.assert_allclose(limited.pose.position, [0.8, 0, 0.1])
    inside = pose(0.5, 0, 0.3)
    assert clamp_workspace(inside, LIMITS) == (inside, False)


def test_speed_is_per_axis_and_keeps_the_direction() -> None:
    limited = clamp_speed(pose(0.5, 0, 0.3), pose(0.56, 0.03, 0.3), 0.1, LIMITS)
    np.testing.assert_allclose(limited.pose.position, [0.53, 0.015, 0.3])
    assert limited.intervened
    assert not clamp_speed(pose(0.5, 0, 0.3), pose(0.53, 0.03, 0.3), 0.1, LIMITS).intervened


def test_rotation_speed() -> None:
    turned = Rotation.from_euler("z", 0.3) * DOWN
    limited = clamp_speed(pose(0.5, 0, 0.3), pose(0.5, 0, 0.3, turned), 0.1, LIMITS)
    assert limited.intervened
    assert rotation_distance(DOWN, limited.pose.rotation) == pytest.approx(0.075)


def test_lead() -> None:
    turned = Rotation.from_euler("z", 0.6) * DOWN
    limited = clamp_lead(pose(0.6, 0, 0.3, turned), pose(0.5, 0, 0.3), LIMITS)
    assert limited.intervened
    np.testing.assert_allclose(limited.pose.position, [0.55, 0, 0.3])
    assert rotation_distance(DOWN, limited.pose.rotation) == pytest.approx(0.3)
    only_turn = clamp_lead(pose(0.5, 0, 0.3, turned), pose(0.5, 0, 0.3), LIMITS)
    np.testing.assert_array_equal(only_turn.pose.position, [0.5, 0, 0.3])


def test_tilt_turns_back_to_the_limit_on_the_shortest_way() -> None:
    tilted = Rotation.from_euler("y", 0.9) * DOWN
    limited = clamp_tilt(pose(0.5, 0, 0.3, tilted), LIMITS)
    assert limited.intervened
    assert rotation_distance(DOWN, limited.pose.rotation) == pytest.approx(0.5)
    assert rotation_distance(tilted, limited.pose.rotation) == pytest.approx(0.4)
    assert not clamp_tilt(pose(0.5, 0, 0.3, Rotation.from_euler("z", 2.0) * DOWN), LIMITS).intervened
    assert clamp_tilt(pose(0.5, 0, 0.3, Rotation.identity()), LIMITS).intervened  # straight up


def test_target_that_is_not_finite_holds_the_last_one() -> None:
    limited = limit_motion(pose(0.5, 0, 0.3), pose(np.nan, 0, 0.3), pose(0.5, 0, 0.3), 0.1, LIMITS)
    assert limited.interventions == ("finite",)
    np.testing.assert_array_equal(limited.pose.position, [0.5, 0, 0.3])


def test_interventions_are_named_in_order() -> None:
    far = pose(2.0, 0, 0.3, Rotation.from_euler("y", 1.5) * DOWN)
    limited = limit_motion(pose(0.5, 0, 0.3), far, pose(0.44, 0, 0.3), 0.1, LIMITS)
    assert limited.interventions == ("workspace", "tilt", "speed", "lead")


coordinate = st.floats(-3, 3)
rotvec = st.tuples(coordinate, coordinate, coordinate).map(Rotation.from_rotvec)
free_pose = st.builds(lambda p, r: Pose(np.array(p), r), st.tuples(coordinate, coordinate, coordinate), rotvec)


@settings(max_examples=200, deadline=None)
@given(free_pose, st.floats(-1, 1), st.floats(-0.4, 0.4), st.floats(0.001, 0.2))
def test_all_limits_hold_together(target: Pose, turn: float, tilt: float, dt: float) -> None:
    previous = pose(0.5, 0.1, 0.4, Rotation.from_euler("xz", [tilt, turn]) * DOWN)
    result = limit_motion(previous, target, previous, dt, LIMITS).pose
    assert (result.position >= np.array(LIMITS.workspace_low) - 1e-9).all()
    assert (result.position <= np.array(LIMITS.workspace_high) + 1e-9).all()
    assert np.abs(result.position - previous.position).max() <= LIMITS.max_speed * dt + 1e-8
    turned = (result.rotation * previous.rotation.inv()).as_rotvec()
    assert np.abs(turned).max() <= LIMITS.max_rotation_speed * dt + 1e-8
    assert np.linalg.norm(result.position - previous.position) <= LIMITS.max_lead_pos + 1e-8
