"""The last look at a target, where the arm is commanded."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.motion import MotionLimits
from diwa_data.pose import Pose
from diwa_data.tilt import DOWN
from diwa_deploy.gate import TargetGate

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
