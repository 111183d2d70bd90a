"""A gripper behind goals that block: edges only, one at a time, from a thread of its own. No arm waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

OPEN_ABOVE, CLOSE_BELOW = 0.2, -0.2
"""A command changes the gripper's mind only beyond these: +1 opens, -1 closes, and what flickers around 0 does not."""


class Goal(Protocol):
    """A motion of the gripper on its way."""

    def done(self) -> bool:
        """It has ended, well or not."""

    def cancel(self) -> None:
        """Ask it to end; returns at once."""


@dataclass(frozen=True)
class GripperConfig:
    """Patience of the gripper's thread."""

    patience: float = 3.0
    """Seconds after which a goal that does not end is cancelled: a move onto an object may hang for very long."""
    rest: float = 0.5
    """Seconds between a cancel and the next goal."""


class GripperWorker:
    """Keeps the gripper at what was commanded last; a newer wish cancels a goal that is under way."""

    def __init__(self, send: Callable[[bool], Goal], config: GripperConfig, tell: Callable[[str], None]):
        """`send(open)` starts a motion; `tell` says what went wrong."""
        self._send, self._config, self._tell = send, config, tell
        self._wanted: bool | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="gripper", daemon=True)
        self._thread.start()

    def command(self, value: float) -> None:
        """+1 open .. -1 close; returns at once."""
        if CLOSE_BELOW <= value <= OPEN_ABOVE or value != value:
            return
        with self._changed:
            if self._wanted != (value > 0):
                self._wanted = value > 0
                self._changed.notify()

    def close(self) -> None:
        """Cancel what is under way and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        reached: bool | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda last=reached: self._closed or self._wanted != last)  # type: ignore[misc]
                if self._closed:
                    return
                reached = self._wanted
            assert reached is not None
            self._follow(self._send(reached), reached)

    def _follow(self, goal: Goal, wish: bool) -> None:
        """Until the goal ends, hangs, or something else is wanted."""
        begun = time.monotonic()
        while not goal.done():
            with self._changed:
                if self._closed or self._wanted != wish:
                    break
                self._changed.wait(0.02)
            if time.monotonic() - begun > self._config.patience:
                self._tell(
                    f"the gripper did not {'open' if wish else 'close'} within {self._config.patience:g} s: cancelled"
                )
                break
        else:
            return
        goal.cancel()
        with self._changed:
            self._changed.wait_for(lambda: self._closed, self._config.rest)
