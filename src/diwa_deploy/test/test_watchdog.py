"""What follows from ages."""

import numpy as np
import pytest

from diwa_deploy.safety import WatchdogConfig, judge


@pytest.mark.parametrize(
    ("age", "level"),
    [(0.0, "ok"), (0.1, "ok"), (0.11, "warn"), (0.21, "hold"), (1.0, "hold"), (1.01, "abort"), (np.inf, "abort")],
)
def test_the_oldest_decides(age, level):
    verdict = judge({"a": 0.0, "b": age, "c": 0.01}, WatchdogConfig())
    assert verdict.level == level
    assert verdict.reason == ("" if level == "ok" else f"b is {age:.2f} s old")


def test_an_unknown_age_is_infinite_and_no_ages_are_fine():
    assert judge({"a": np.nan}, WatchdogConfig()).level == "abort"
    assert judge({}, WatchdogConfig()).level == "ok"
    assert judge({"a": 0.3}, WatchdogConfig(hold=0.5)).level == "warn"
