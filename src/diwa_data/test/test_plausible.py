"""Which measured poses are believed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.limits import MotionLimits
from diwa_data.motion import BelievedPose, PlausibleConfig
from diwa_data.pose import DOWN, Pose
from diwa_data.robot_config import load_robot

DT = 1 / 60


def at(x: float, turn: float = 0.0) -> Pose:
    return Pose(np.array([x, 0.0, 0.3]), Rotation.from_euler("z", turn) * DOWN)


def heard(*poses: Pose) -> BelievedPose:
    believed = BelievedPose(MotionLimits())
    for number, pose in enumerate(poses):
        believed.update(pose, number * DT)
    return believed


def test_three_poses_that_agree_are_believed_and_each_one_after_them() -> None:
    assert heard(at(0.5), at(0.5)).pose is None
    assert heard(at(0.5), at(0.5)).problem == "no measured pose yet"
    believed = heard(at(0.5), at(0.501), at(0.502), at(0.503))
    assert believed.pose is not None
    assert believed.pose.position[0] == 0.503
    assert (believed.problem, believed.received) == ("", pytest.approx(3 * DT))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (at(0.7), "jumped by 0.200 m"),
        (at(0.5, 1.0), "jumped by 1.00 rad"),
        (at(500.0), "is it in metres"),
        (at(np.nan), "not finite"),
        (Pose(np.array([0.5, 0.0, -0.3]), DOWN), "outside of the workspace"),
    ],
)
def test_one_wrong_sample_is_not_believed_and_named(wrong, words) -> None:
    believed = heard(*[at(0.5)] * 5, wrong)
    assert believed.pose is None
    assert words in believed.problem
    believed.update(at(0.5), 6 * DT)
    assert believed.pose is None, "one good sample after a wrong one proves nothing"
    for number in range(7, 10):
        believed.update(at(0.5), number * DT)
    assert (believed.pose is not None, believed.problem) == (True, "")


def test_a_unit_mistake_is_never_believed() -> None:
    assert heard(*[at(500.0)] * 20).pose is None


def test_a_pause_makes_the_next_samples_strangers() -> None:
    believed = heard(*[at(0.5)] * 5)
    believed.update(at(0.5), 3.0)
    assert "for 2.93 s" in believed.problem
    assert believed.pose is None


@given(st.lists(st.tuples(st.integers(1, 27), st.booleans()), min_size=5, max_size=20), st.floats(-0.5, 0.5))
def test_pauses_and_bursts_of_a_stream_at_30_hz_are_ordinary(pauses, speed: float) -> None:
    """After a pause of less than 1 s the samples that waited come at once, or are lost."""
    believed, sent = heard(*[at(0.5)] * 5), 0
    for length, lost in pauses:
        before, sent = sent, sent + length
        for number in range(sent if lost else before + 1, sent + 1):
            believed.update(at(0.5 + 0.1 * np.sin(speed / 0.1 * number / 30)), 4 * DT + sent / 30)
        assert believed.problem == ""


def test_a_clock_that_runs_backwards_is_not_believed() -> None:
    believed = heard(*[at(0.5)] * 5)
    believed.update(at(0.5), -1.0)
    assert believed.pose is None


@given(st.floats(-1.6, 1.6), st.floats(0.2, 0.75))
def test_what_an_arm_can_do_is_believed(speed: float, start: float) -> None:
    xs = np.clip(start + speed * DT * np.arange(20), 0.15, 0.85)
    assert heard(*map(at, xs)).problem == ""


def test_a_lab_says_in_its_robot_file_what_its_pose_stream_is_like(tmp_path) -> None:
    """Samples of 10 Hz that come two at a time, of an arm at 0.5 m/s."""
    path = tmp_path / "robot.yaml"
    path.write_text("/**: {ros__parameters: {robot: {plausible: {jitter_pos: 0.06}}}}")
    for config, agree in ((PlausibleConfig(), False), (load_robot(path).plausible, True)):
        believed = BelievedPose(MotionLimits(), config)
        for number in range(10):
            believed.update(at(0.3 + 0.05 * number), 0.2 * (number // 2))
        assert (believed.problem == "") is agree
