"""Between a policy's action and the goal that the arm is told: step, box and tilt, each named when it intervenes.

Speed, acceleration, jerk and lead are kept by what follows the goal (`diwa_data.interpolator`). What was executed is
read from the published target afterwards, by the dataset's own rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WatchdogConfig:
    """Ages of frames, pose and inference, seconds."""

    warn: float = 0.1
    """Counted and told."""
    hold: float = 0.2
    """The target stands still until it is younger again."""
    abort: float = 1.0
    """The skill ends, and the node must be armed anew."""


@dataclass(frozen=True)
class Verdict:
    """What follows from the ages."""

    level: str
    """ok, warn, hold or abort."""
    reason: str
    """What is too old, and how old; empty if nothing is."""


def judge(ages: Mapping[str, float], config: WatchdogConfig) -> Verdict:
    """The verdict on the oldest of `ages` (name -> seconds). NaN counts as infinitely old."""
    name, age = max(ages.items(), key=lambda item: _or_infinite(item[1]), default=("", 0.0))
    age = _or_infinite(age)
    for level in ("abort", "hold", "warn"):
        if age > getattr(config, level):
            return Verdict(level, f"{name} is {age:.2f} s old")
    return Verdict("ok", "")


def _or_infinite(age: float) -> float:
    return age if age == age else float("inf")
