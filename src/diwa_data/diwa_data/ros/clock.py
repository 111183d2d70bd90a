"""The clock of receive times, ages and deadlines: seconds since 1970 that nobody can set back."""

from __future__ import annotations

import time

_OFFSET = time.time() - time.monotonic()
LONGEST_WAIT = 10.0
"""Seconds that a message may have waited in the middleware; a longer time means that the wall clock was set."""


def now() -> float:
    """Seconds since 1970: the wall clock when this process began, and from there on the monotonic clock."""
    return _OFFSET + time.monotonic()


def at(wall: float) -> float:
    """`now()` at the moment when the wall clock showed `wall` seconds, a short while ago."""
    age = time.time() - wall
    return now() - (age if 0 <= age <= LONGEST_WAIT else 0.0)
