"""The keyboard as a controller: keys move it while they are held, from the terminal the process was started in.

Terminals report a key again and again while it is held, and never that it was let go: a key counts as held for a moment
after each report.
"""

from __future__ import annotations

import os
import select
import termios
import time
import tty
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.teleop.clutch import ControllerState
from diwa_data.teleop.devices import KeyboardConfig

HELP = """keys (hold to move):  w/s forward, back   a/d left, right   r/f up, down
                      j/l turn   i/k pitch   u/o roll   SPACE open or close the gripper
episodes:             n start   m stop   y success   b fail   x discard"""

_MOTIONS = {
    "w": (1, 0, 0, 0, 0, 0), "s": (-1, 0, 0, 0, 0, 0), "a": (0, 1, 0, 0, 0, 0), "d": (0, -1, 0, 0, 0, 0),
    "r": (0, 0, 1, 0, 0, 0), "f": (0, 0, -1, 0, 0, 0), "u": (0, 0, 0, 1, 0, 0), "o": (0, 0, 0, -1, 0, 0),
    "i": (0, 0, 0, 0, 1, 0), "k": (0, 0, 0, 0, -1, 0), "j": (0, 0, 0, 0, 0, 1), "l": (0, 0, 0, 0, 0, -1),
}  # fmt: skip
_BELLS = {"start": 1, "stop": 2, "lost": 3, "success": 1, "fail": 2}
_EVENTS = {"n": "start", "m": "stop", "y": "success", "b": "fail", "x": "discard"}


class Keyboard:
    """Reads keys without blocking."""

    instructions = HELP

    def __init__(
        self, config: KeyboardConfig, terminal: int | None = None, clock: Callable[[], float] = time.monotonic
    ):
        """`terminal`: file descriptor, default the controlling terminal. Raises `DiwaError` where there is none."""
        self._speeds = np.array([config.speed] * 3 + [config.turn_speed] * 3)
        self._hold, self._clock = config.hold, clock
        self._owned = terminal is None
        self._terminal = _controlling_terminal() if terminal is None else terminal
        self._before: list[Any] = termios.tcgetattr(self._terminal)
        tty.setcbreak(self._terminal)
        self._reported: dict[str, float] = {}
        self._position, self._rotation = np.zeros(3), Rotation.identity()
        self._closed = False
        self._last = clock()

    def read(self) -> ControllerState:
        """The controller now."""
        now = self._clock()
        events = self._take_keys(now)
        held = [key for key, reported in self._reported.items() if now - reported <= self._hold]
        if held:
            motion = np.sum([_MOTIONS[key] for key in held], axis=0) * self._speeds * (now - self._last)
            self._position = self._position + motion[:3]
            self._rotation = Rotation.from_rotvec(motion[3:]) * self._rotation
        self._last = now
        return ControllerState(Pose(self._position, self._rotation), bool(held), float(self._closed), events)

    def signal(self, what: str) -> None:
        """Ring the bell: once for `start` and `success`, twice for `stop` and `fail`, three times for `lost`."""
        os.write(self._terminal, b"\a" * _BELLS[what])

    def close(self) -> None:
        """Give the terminal back as it was."""
        termios.tcsetattr(self._terminal, termios.TCSADRAIN, self._before)
        if self._owned:
            os.close(self._terminal)

    def _take_keys(self, now: float) -> tuple[str, ...]:
        events = []
        while select.select([self._terminal], [], [], 0)[0]:
            typed = os.read(self._terminal, 64).decode(errors="ignore")
            if not typed:
                break
            for key in typed.lower():
                if key in _MOTIONS:
                    self._reported[key] = now
                elif key == " ":
                    self._closed = not self._closed
                elif key in _EVENTS:
                    events.append(_EVENTS[key])
        return tuple(events)


def _controlling_terminal() -> int:
    try:
        return os.open("/dev/tty", os.O_RDWR)
    except OSError as error:
        raise DiwaError(
            "the keyboard needs a terminal and this process has none (under a launch file, a service or a pipe): run "
            "the command itself in a terminal, or use the device webxr (a page with buttons, in any browser)"
        ) from error
