"""The published target: where it goes, how it stops, and no input that breaks a limit."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.interpolator import Interpolator, way
from diwa_data.limits import MotionLimits
from diwa_data.motion import LARGEST_TILT, lead, limit_goal, use_of_limits
from diwa_data.pose import DOWN, Pose, quaternion_of, rotation_distance

TICK, RATE = 1 / 7.5, 60.0
LIMITS = MotionLimits()
HOME = Pose(np.array([0.5, 0.0, 0.3]), DOWN)


def at(x: float, turn: float = 0.0) -> Pose:
    return Pose(np.array([x, 0.0, 0.3]), Rotation.from_euler("z", turn) * DOWN)


def started(pose: Pose = HOME) -> Interpolator:
    made = Interpolator(LIMITS, RATE)
    made.reset(pose)
    return made


def rested(interpolator: Interpolator, steps: int = 120) -> list[Pose]:
    """The targets until it rests."""
    poses = []
    while not interpolator.at_rest:
        poses.append(interpolator.step().pose)
        assert len(poses) < steps
    return poses


def test_it_comes_to_rest_exactly_at_the_goal() -> None:
    interpolator = started()
    interpolator.command(at(0.532, 0.08), TICK)
    poses = [interpolator.step().pose for _ in range(40)]
    np.testing.assert_allclose(poses[-1].position, [0.532, 0, 0.3], atol=1e-9)
    assert rotation_distance(poses[-1].rotation, at(0, 0.08).rotation) < 1e-9
    assert max(use_of_limits([HOME, *poses], LIMITS, RATE).values()) <= 1 + 1e-9


@pytest.mark.parametrize("velocity", [(0.27, 0, 0), (0.15, -0.15, 0.1), (0.02, 0, 0)])
@pytest.mark.parametrize("tracked", [False, True])
def test_a_steadily_moving_goal_is_followed_within_5_mm(velocity, tracked) -> None:
    """After the run-up: half a second at 0.27 m/s."""
    begin = Pose(np.array([0.3, 0.1, 0.3]), DOWN)
    interpolator, lags = started(begin), []
    for step in range(8 * 10):
        moved = begin.position + np.array(velocity) * (step + 1) / RATE
        if tracked:
            interpolator.track(Pose(moved, DOWN))
        elif step % 8 == 0:
            interpolator.command(Pose(begin.position + np.array(velocity) * (step / RATE + TICK), DOWN), TICK)
        lags.append(np.linalg.norm(interpolator.step().pose.position - moved))
    assert max(lags[-16:]) < 0.005
    assert max(lags) < 0.04


def test_a_hold_brakes_along_the_ramp_and_rests_where_it_said() -> None:
    interpolator, way_there = started(), [HOME]
    for x in (0.535, 0.57, 0.605):
        interpolator.command(at(x), TICK)
        way_there += [interpolator.step().pose for _ in range(8)]
    rest = interpolator.rest
    interpolator.hold()
    ramp = rested(interpolator)
    np.testing.assert_allclose(ramp[-1].position, rest.position, atol=1e-9)
    assert 0.005 < ramp[-1].position[0] - way_there[-1].position[0] < 0.025
    assert len(ramp) / RATE < 0.25
    assert max(use_of_limits(way_there + ramp, LIMITS, RATE).values()) <= 1 + 1e-9


@pytest.mark.parametrize("seconds", [0.0, -TICK, np.nan, np.inf])
def test_a_goal_in_no_time_is_refused(seconds) -> None:
    with pytest.raises(DiwaError, match="the time must be positive"):
        started().command(at(0.53), seconds)


def test_at_rest_it_does_not_move_at_all() -> None:
    interpolator = started()
    interpolator.command(at(0.533, 0.08), TICK)
    for _ in range(5):
        interpolator.step()
    interpolator.hold()
    rest = rested(interpolator)[-1]
    for _ in range(20):
        np.testing.assert_array_equal(interpolator.step().pose.position, rest.position)
    np.testing.assert_array_equal(interpolator.rest.position, rest.position)


def test_a_late_command_finds_the_target_resting() -> None:
    interpolator = started()
    interpolator.command(at(0.532), TICK)
    poses = [interpolator.step().pose for _ in range(60)]
    np.testing.assert_allclose([pose.position[0] for pose in poses[-10:]], 0.532, atol=1e-9)


_ANGLE = st.floats(0.0, 2 * np.pi)


@settings(max_examples=20)
@example(5.38, 5.2, 1.0)
@given(_ANGLE, _ANGLE, st.sampled_from([1.0, 0.95]))
def test_a_goal_across_the_disc_of_tilts_is_reached(begin, end, share) -> None:
    """Each coordinate in its own time would leave the disc where it bends: the straight way is taken there."""
    largest = share * LIMITS.max_tilt
    start, goal = (
        Pose.from_quaternion(place, quaternion_of(largest * np.array([np.cos(angle), np.sin(angle), yaw])))
        for place, angle, yaw in ((HOME.position, begin, 0.0), (np.array([0.2, 0.17, 0.45]), end, 0.7))
    )
    interpolator = started(start)
    interpolator.command(goal, TICK)
    poses = [start, *(interpolator.step().pose for _ in range(600))]
    assert rotation_distance(poses[-1].rotation, goal.rotation) < 1e-6
    assert max(use_of_limits(poses, LIMITS, RATE).values()) <= 1 + 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_goal_that_is_not_finite_holds(bad) -> None:
    interpolator = started()
    for told in (interpolator.track, lambda goal: interpolator.command(goal, TICK)):
        assert told(at(bad)) == ("finite",)
        assert interpolator.at_rest


def test_a_measured_pose_that_is_not_finite_brakes_and_is_named() -> None:
    interpolator = started()
    interpolator.command(at(0.53), TICK)
    assert interpolator.step(at(np.nan)).interventions == ("finite",)
    np.testing.assert_array_equal(interpolator.target.position, HOME.position)


def test_goals_outside_are_drawn_in_and_named() -> None:
    interpolator = started()
    far = Pose(np.array([3.0, 0, 0.3]), Rotation.from_euler("y", 2.0) * DOWN)
    assert interpolator.command(far, 1.0) == ("workspace", "tilt")
    for _ in range(300):
        pose = interpolator.step().pose
    np.testing.assert_allclose(pose.position[0], LIMITS.workspace_high[0], atol=1e-9)
    assert rotation_distance(pose.rotation, DOWN) == pytest.approx(LIMITS.max_tilt)


def test_tilt_is_kept_on_the_way_too() -> None:
    """The straight way from one leaning to the opposite one, the yaw half round, leads over more than either."""
    leaning = [Rotation.from_euler("xz", [1.15 * sign, yaw]) * DOWN for sign, yaw in ((1, 0), (-1, 3))]
    interpolator = started(Pose(HOME.position, leaning[0]))
    interpolator.command(Pose(HOME.position, leaning[1]), 0.5)
    poses = [interpolator.step().pose for _ in range(400)]
    assert rotation_distance(poses[-1].rotation, leaning[1]) < 1e-6
    assert max(use_of_limits([Pose(HOME.position, leaning[0]), *poses], LIMITS, RATE).values()) <= 1 + 1e-9


def test_a_blocked_arm_stops_the_target_within_the_lead() -> None:
    interpolator, told = started(), set()
    for tick in range(6):
        interpolator.command(at(0.5 + 0.04 * (tick + 1)), TICK)
        for _ in range(8):
            motion = interpolator.step(HOME)
            told |= set(motion.interventions)
            assert lead(motion.pose, HOME, LIMITS) <= 1 + 1e-9
    assert told == {"lead"}
    assert motion.pose.position[0] > 0.54
    assert not interpolator.is_left
    interpolator.command(HOME, TICK)  # the way back is free
    for _ in range(30):
        motion = interpolator.step(HOME)
    np.testing.assert_allclose(motion.pose.position, HOME.position, atol=1e-6)


def test_an_arm_that_is_taken_away_for_half_a_second_has_left_the_target() -> None:
    interpolator, elsewhere = started(), at(0.6)
    left = []
    for _ in range(40):
        interpolator.step(elsewhere)
        left.append(interpolator.is_left)
    assert left.index(True) in (30, 31)
    np.testing.assert_array_equal(interpolator.target.position, HOME.position)


def test_it_begins_within_the_limits_only() -> None:
    with pytest.raises(DiwaError, match=r"0\.100 m outside of the workspace"):
        started(at(0.9))
    with pytest.raises(DiwaError, match=r"tilted by 1\.50 rad, 1\.2 is the limit"):
        started(Pose(HOME.position, Rotation.from_euler("y", 1.5) * DOWN))
    with pytest.raises(DiwaError, match="not finite"):
        started(at(np.nan))
    with pytest.raises(RuntimeError, match="reset"):
        Interpolator(LIMITS, RATE).step()


@pytest.mark.parametrize("rate", [0.0, -60.0, np.nan, np.inf])
def test_a_rate_that_is_none_is_refused(rate) -> None:
    with pytest.raises(DiwaError, match="it must be positive"):
        Interpolator(LIMITS, rate)


def test_limits_that_no_motion_can_keep_are_refused() -> None:
    with pytest.raises(DiwaError, match="lower the speed"):
        Interpolator(dataclasses.replace(LIMITS, max_rotation_acceleration=1.0), RATE)
    with pytest.raises(DiwaError, match="upside down"):
        Interpolator(dataclasses.replace(LIMITS, max_tilt=3.1), RATE)


def test_a_slow_way_is_straight_ends_at_the_goal_and_keeps_its_speed() -> None:
    poses = [at(0.5), *way(at(0.5), at(0.6, 0.4), speed=0.05, rotation_speed=0.2, tick=TICK)]
    assert len(poses) - 1 == 15  # 2 s for both 0.1 m and 0.4 rad
    np.testing.assert_allclose([pose.position[0] for pose in poses], np.linspace(0.5, 0.6, 16), atol=1e-9)
    np.testing.assert_allclose((poses[-1].rotation * DOWN.inv()).as_rotvec(), [0, 0, 0.4], atol=1e-9)
    assert len(list(way(at(0.5), at(0.5), 0.05, 0.2, TICK))) == 1


_NUMBER = st.floats(-2, 2) | st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf])
_POSE = st.builds(
    lambda position, turn: Pose(np.array(position), Rotation.from_rotvec(turn)),
    st.tuples(_NUMBER, _NUMBER, _NUMBER) | st.tuples(*[st.floats(0.2, 0.8)] * 3),
    st.tuples(*[st.floats(-3.2, 3.2)] * 3),
)
_TOLD = st.tuples(st.sampled_from(["command", "track", "hold"]), _POSE, st.none() | _POSE, st.integers(1, 10))


@settings(max_examples=100)
@given(_POSE, st.lists(_TOLD, min_size=1, max_size=12))
def test_no_goal_and_no_arm_break_a_limit(start: Pose, steps) -> None:
    if not np.isfinite(start.position).all():
        start = HOME
    interpolator = started(limit_goal(start, LIMITS).pose)
    published = [interpolator.target]
    for how, goal, measured, count in steps:
        for number in range(count):
            if how == "track":
                interpolator.track(goal)
            elif how == "hold":
                interpolator.hold()
            elif number == 0:
                interpolator.command(goal, TICK)
            published.append(interpolator.step(measured).pose)
    used = use_of_limits(published, LIMITS, RATE)
    assert max(used.values()) <= 1 + 1e-6, used


_SCALE = st.floats(-1.0, 1.0).map(lambda power: 10.0**power)


@settings(max_examples=40)
@example(
    (3.6959368807216744, 2.9634380940541787, 2.780161434402478, 1.037712471288209, 5.0, 0.7367590663028634), 2.0, 121
)
@given(st.tuples(*[_SCALE] * 6), st.floats(0.05, LARGEST_TILT), st.integers(0, 1000))
def test_no_choice_of_limits_makes_them_break(scales, max_tilt, seed) -> None:
    """Each a tenth to ten times its default; what no motion can keep is refused."""
    names = ("max_speed", "max_acceleration", "max_jerk")
    names += tuple(name.replace("max_", "max_rotation_") for name in names)
    changed = {name: scale * getattr(LIMITS, name) for name, scale in zip(names, scales, strict=True)}
    limits, rng = MotionLimits(**changed, max_tilt=max_tilt), np.random.default_rng(seed)
    try:
        interpolator = Interpolator(limits, RATE)
    except DiwaError:
        return
    interpolator.reset(HOME)
    published = [HOME]
    for _ in range(8):
        turn = Rotation.from_rotvec(rng.normal(0, 1.5, 3)) * DOWN
        interpolator.command(Pose(HOME.position + rng.normal(0, 0.3, 3), turn), TICK)
        published += [interpolator.step().pose for _ in range(rng.integers(1, 11))]
    used = use_of_limits(published, limits, RATE)
    assert max(used.values()) <= 1 + 1e-6, used


def test_one_that_lives_to_the_end_of_the_process_is_no_news() -> None:
    code = "from diwa_data.interpolator import Interpolator; from diwa_data.limits import MotionLimits; "
    code += (
        "import ctypes; kept = Interpolator(MotionLimits(), 60.0); ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
