"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0
"""Seconds, on a busy machine."""


def wait(future: Any, seconds: float = PATIENCE) -> Any:
    """The result of a future that another thread completes."""
    until(future.done, seconds, "no answer")
    return future.result()


def until(condition: Callable[[], Any], seconds: float = PATIENCE, otherwise: str = "it did not come to that") -> None:
    """Return once `condition` holds; fail if it does not within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.002)
