"""The last look at a target, where the arm is commanded."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.limits import MotionLimits
from diwa_data.pose import DOWN, Pose
from diwa_deploy.target import LATE, PAUSE, TargetGate

HAND = Pose(np.array([0.4, 0.0, 0.4]), DOWN)
DT = 1 / 60


def at(x: float, turn: float = 0.0) -> Pose:
    return Pose(np.array([x, 0.0, 0.4]), Rotation.from_euler("z", turn) * DOWN)


def test_a_stream_that_begins_at_the_hand_passes_though_the_arm_lags() -> None:
    gate = TargetGate(MotionLimits())
    for step in range(60):
        assert gate.refusal(at(0.4 + 0.3 * DT * step), HAND, step * DT) == ""


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (at(0.6), "the target jumped: it is 0.200 m and 0.00 rad from the hand"),
        (at(0.4, 1.0), "1.00 rad from the hand"),
        (at(0.9), "outside of the workspace"),
        (at(np.nan), "not finite"),
        (Pose(HAND.position, Rotation.identity()), "tilted by 3.14 rad"),
    ],
)
def test_a_target_that_jumps_or_leaves_is_refused_and_the_stream_goes_on(target, words) -> None:
    gate = TargetGate(MotionLimits())
    assert gate.refusal(at(0.41), HAND, 0.0) == ""
    assert words in gate.refusal(target, HAND, DT)
    assert gate.refusal(at(0.41), HAND, 2 * DT) == ""


def test_after_a_pause_or_a_recovery_a_stream_must_begin_at_the_hand() -> None:
    gate = TargetGate(MotionLimits())
    assert gate.refusal(at(0.44), HAND, 0.0) == ""
    assert gate.refusal(at(0.46), HAND, DT) == ""
    assert "jumped" in gate.refusal(at(0.46), HAND, 10.0)
    assert gate.refusal(at(0.44), HAND, 10.1) == ""
    gate.close()
    assert "jumped" in gate.refusal(at(0.46), HAND, 10.1 + DT)
    assert "jumped" in gate.refusal(at(0.46), HAND, 1.0), "nor may time run backwards"


@given(st.lists(st.tuples(st.floats(0.0, 0.1), st.floats(-0.1, 0.1), st.floats(0.0, 0.04)), max_size=60))
def test_no_stream_is_followed_faster_than_the_limits(targets) -> None:
    """Steps that would each be near enough to the last, or to an arm that runs after them, add up."""
    limits = MotionLimits(workspace_low=(-50.0, -0.5, 0.0), workspace_high=(50.0, 0.5, 0.8))
    gate, now, followed = TargetGate(limits), 0.0, [(0.0, 0.4)]
    for wait, step, behind in targets:
        now += wait
        target = followed[-1][1] + step
        if not gate.refusal(at(target), at(target - behind), now):
            followed.append((now, target))
    way, paused = 0.0, followed[1][0] if followed[1:] else 0.0
    for (before, start), (then, end) in itertools.pairwise(followed[1:]):
        way, paused = (0.0, then) if then - before > PAUSE else (way + abs(end - start), paused)
        assert way <= limits.max_speed * (then - paused + LATE) + 1e-9


def test_messages_that_come_late_and_together_are_followed() -> None:
    gate, speed = TargetGate(MotionLimits()), MotionLimits().max_speed
    for step in range(60):
        received = step * DT if step < 30 else max(step, 36) * DT
        assert gate.refusal(at(0.2 + 0.999 * speed * DT * step), at(0.2), received) == ""
