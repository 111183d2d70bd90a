"""Thresholds of the arm's collision detection, as they stand in a file."""

from __future__ import annotations

import pytest

from diwa_data.errors import DiwaError
from diwa_deploy.collision import CollisionConfig

SEVEN, SIX = (10.0,) * 7, (10.0,) * 6


def test_all_or_none() -> None:
    assert not CollisionConfig()
    assert CollisionConfig(SEVEN, SEVEN, SIX, SIX)
    with pytest.raises(DiwaError, match=r"collision.torque has 0 numbers; give 7"):
        CollisionConfig(contact_torque=SEVEN)


@pytest.mark.parametrize("bad", [float("nan"), -1.0, 0.0, float("inf")])
def test_what_is_no_threshold_is_refused(bad: float) -> None:
    with pytest.raises(DiwaError, match="finite and above 0"):
        CollisionConfig(SEVEN, SEVEN, SIX, (*SIX[:5], bad))


def test_a_contact_comes_before_a_collision() -> None:
    with pytest.raises(DiwaError, match=r"collision.contact_force lies above collision.force"):
        CollisionConfig(SEVEN, SEVEN, (20.0,) * 6, SIX)
