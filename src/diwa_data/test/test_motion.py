"""Motion limits: by hand, and as properties of random poses."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.motion import lead, limit_goal, outside, use_of_limits
from diwa_data.pose import DOWN, Pose, quaternion_of, rotation_distance, tilt_and_yaw
from diwa_data.spec import Spec

LIMITS = MotionLimits(workspace_low=(0.2, -0.5, 0.1), workspace_high=(0.8, 0.5, 0.8), max_tilt=0.5)


def pose(x: float, y: float, z: float, rotation: Rotation = DOWN) -> Pose:
    return Pose(np.array([x, y, z]), rotation)


def test_workspace() -> None:
    limited = limit_goal(pose(0.9, 0, 0.05), LIMITS)
    assert limited.interventions == ("workspace",)
    np.testing.assert_allclose(limited.pose.position, [0.8, 0, 0.1])
    inside = pose(0.5, 0, 0.3)
    assert limit_goal(inside, LIMITS) == (inside, ())


def test_tilt_turns_back_to_the_limit_on_the_shortest_way() -> None:
    tilted = Rotation.from_euler("y", 0.9) * DOWN
    limited = limit_goal(pose(0.5, 0, 0.3, tilted), LIMITS)
    assert limited.interventions == ("tilt",)
    assert rotation_distance(DOWN, limited.pose.rotation) == pytest.approx(0.5)
    assert rotation_distance(tilted, limited.pose.rotation) == pytest.approx(0.4)
    assert not limit_goal(pose(0.5, 0, 0.3, Rotation.from_euler("z", 2.0) * DOWN), LIMITS).interventions
    assert limit_goal(pose(0.5, 0, 0.3, Rotation.identity()), LIMITS).interventions  # straight up


def test_lead_is_the_larger_of_position_and_rotation() -> None:
    turned = Rotation.from_euler("z", 0.6) * DOWN
    assert lead(pose(0.55, 0, 0.3), pose(0.5, 0, 0.3), LIMITS) == pytest.approx(1.0)
    assert lead(pose(0.55, 0, 0.3, turned), pose(0.5, 0, 0.3), LIMITS) == pytest.approx(2.0)


def test_where_a_target_may_begin() -> None:
    assert outside(pose(0.5, 0, 0.3), LIMITS) == ""
    assert "0.050 m outside of the workspace" in outside(pose(0.5, 0, 0.05), LIMITS)
    assert "tilted by 0.90 rad, 0.5 is the limit" in outside(
        pose(0.5, 0, 0.3, Rotation.from_euler("y", 0.9) * DOWN), LIMITS
    )
    assert "not finite" in outside(pose(np.inf, 0, 0.3), LIMITS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_speed": 0.0}, "max_speed is 0"),
        ({"max_jerk": -1.0}, "max_jerk is -1"),
        ({"max_tilt": np.nan}, "max_tilt is nan"),
        ({"workspace_low": (0.2, np.inf, 0.0)}, "workspace_low is .* finite"),
        ({"workspace_low": (0.2, 0.5, 0.0)}, "must be below workspace_high"),
    ],
)
def test_limits_that_make_no_sense_are_refused(change, words) -> None:
    with pytest.raises(DiwaError, match=words):
        MotionLimits(**change)


def test_limits_within_a_contract_fit_a_tick_into_one_action() -> None:
    spec = Spec()
    limits = dataclasses.replace(MotionLimits(), max_speed=1.0).within(spec)
    assert limits.max_speed / np.sqrt(3) * spec.tick == pytest.approx(spec.action.max_pos)
    assert limits.max_rotation_speed / np.sqrt(3) * spec.tick <= spec.action.max_rot * (1 + 1e-9)
    assert dataclasses.replace(LIMITS, max_speed=0.1).within(spec).max_speed == 0.1


def test_use_of_limits_by_hand() -> None:
    """One step of 1 mm at 10 Hz: 0.01 m/s, 0.1 m/s2 into and out of it, 2 m/s3 in between."""
    used = use_of_limits([pose(0.5, 0, 0.3), pose(0.501, 0, 0.3), pose(0.501, 0, 0.3)], MotionLimits(), 10.0)
    assert used["max_speed"] == pytest.approx(0.01 / 0.52)
    assert used["max_acceleration"] == pytest.approx(0.1 / 4)
    assert used["max_jerk"] == pytest.approx(2 / 200)
    assert used["max_rotation_speed"] == used["max_tilt"] == pytest.approx(0.0, abs=1e-6)
    assert use_of_limits([pose(0.9, 0, 0.3)], MotionLimits(), 10.0)["workspace"] == pytest.approx(1.1)


coordinate = st.floats(-3, 3)
rotations = st.tuples(coordinate, coordinate, coordinate).map(Rotation.from_rotvec)


@settings(max_examples=200)
@given(rotations)
def test_tilt_and_yaw_are_a_rotation_and_back(rotation: Rotation) -> None:
    angles = tilt_and_yaw(rotation.as_quat().tolist())
    approach = rotation.as_matrix()[2, 2]
    assert np.hypot(*angles[:2]) == pytest.approx(np.arccos(np.clip(-approach, -1, 1)), abs=1e-6)
    if np.hypot(*angles[:2]) < np.pi - 1e-4:
        assert rotation_distance(Rotation.from_quat(quaternion_of(angles)), rotation) < 1e-7


@settings(max_examples=200)
@given(st.tuples(coordinate, coordinate, coordinate), rotations)
def test_a_limited_goal_may_be_begun_at(position, rotation: Rotation) -> None:
    limited = limit_goal(Pose(np.array(position), rotation), LIMITS).pose
    assert outside(limited, LIMITS) == ""
    assert limit_goal(limited, LIMITS).interventions == ()
