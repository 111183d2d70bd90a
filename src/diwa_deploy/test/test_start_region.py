"""Where a skill may begin."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_deploy.bundle import StartRegion

DOWN = Rotation.from_rotvec([np.pi, 0, 0])
POSES = [
    Pose(np.array([x, y, 0.3]), Rotation.from_euler("z", turn) * DOWN)
    for x, y, turn in ((0.4, 0.0, -0.2), (0.5, 0.1, 0.2), (0.45, -0.1, 0.0))
]
REGION = StartRegion.of(POSES)


def test_the_region_is_a_box_and_the_largest_angle_to_the_mean():
    np.testing.assert_allclose([REGION.low, REGION.high], [[0.4, -0.1, 0.3], [0.5, 0.1, 0.3]])
    assert REGION.angle == pytest.approx(0.2, abs=1e-6)
    assert (Rotation.from_quat(REGION.rotation) * DOWN.inv()).magnitude() == pytest.approx(0.0, abs=1e-6)
    assert StartRegion.from_card(json.loads(json.dumps({"start": REGION.to_card()})), "card") == REGION
    assert StartRegion.from_card({}, "card") is None
    with pytest.raises(DiwaError, match="card: start: unknown key 'box'"):
        StartRegion.from_card({"start": {"box": 1}}, "card")


def test_far_outside_is_refused_with_the_distance():
    def at(x: float, turn: float = 0.0) -> str:
        pose = Pose(np.array([x, 0.0, 0.3]), Rotation.from_euler("z", turn) * DOWN)
        return REGION.problem(pose, distance=0.05, angle=0.1)

    assert (at(0.45), at(0.54), at(0.45, 0.29)) == ("", "", "")
    assert "the hand is 12 cm outside of where its demonstrations began, (0.40, -0.10, 0.30) to" in at(0.62)
    assert "the hand is turned 11 degrees more" in at(0.45, 0.4)
