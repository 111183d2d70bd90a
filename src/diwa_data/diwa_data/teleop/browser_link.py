"""A browser's messages about its controller, without the socket: they are checked, aged, and become readings.

A message is a JSON object with these keys, all of them, and no others:

    n        number of the message, rising
    t        the page's clock, seconds
    frame    "xr": a tracked device in its room (x right, y up, -z forward); "base": jogged in the robot's base axes
    p, q     position (3), metres; quaternion (4), x y z w
    forward  quaternion (4) of a device that points along the robot's +x in the room; only used with "xr"
    tracked  the pose is a measured one
    held     the clutch is held
    trigger  0..1, pulled closes the gripper
    buttons  of "menu" and "mark": those down on a controller, as on a VIVE
    events   of start, stop, success, discard: pressed since the last message
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.teleop.clutch import ControllerState
from diwa_data.teleop.devices import EpisodeButtons, facing_yaw, to_robot

_EVENTS = ("start", "stop", "success", "discard")
_KEYS = {"n", "t", "frame", "p", "q", "forward", "tracked", "held", "trigger", "buttons", "events"}
_FARTHEST = 1000.0  # metres
_MOST_EVENTS = 16  # that wait to be read
_DRIFT = 1e-3  # seconds per second by which the browser's clock may run slow: a hundred times what clocks do


@dataclass(frozen=True, eq=False)
class BrowserMessage:
    """One checked message."""

    number: int
    time: float
    frame: str
    pose: Pose
    tracked: bool
    held: bool
    trigger: float
    buttons: tuple[str, ...]
    events: tuple[str, ...]


def parse_message(text: str) -> BrowserMessage:
    """Raises `ValueError` for anything that is not a whole message of finite numbers, and `DiwaError` for a `forward`
    that points up or down."""
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(fields, dict) or set(fields) != _KEYS:
        raise ValueError("not an object of the known keys")
    number, frame = fields["n"], fields["frame"]
    if not isinstance(number, int) or isinstance(number, bool) or frame not in ("xr", "base"):
        raise ValueError("bad n or frame")
    position, rotation = np.array(_numbers(fields["p"], 3)), _rotation(fields["q"])
    if np.abs(position).max() > _FARTHEST:
        raise ValueError("position out of range")
    forward = _rotation(fields["forward"])
    pose = to_robot(position, rotation, facing_yaw(forward)) if frame == "xr" else Pose(position, rotation)
    (time,), (trigger,) = _numbers([fields["t"]], 1), _numbers([fields["trigger"]], 1)
    if not 0.0 <= trigger <= 1.0:
        raise ValueError("trigger out of range")
    tracked, held = _flag(fields["tracked"]), _flag(fields["held"])
    buttons, events = _words(fields["buttons"], ("menu", "mark")), _words(fields["events"], _EVENTS)
    return BrowserMessage(number, time, frame, pose, tracked, held, trigger, buttons, events)


class BrowserLink:
    """The latest of one browser's messages, from the thread that receives them to the one that reads.

    The clutch releases on a lost connection, on a message that is late by more than `stale_after` (by arrival, or by
    its own time: a congested network delivers regularly, but late) and on a change of frame, and stays released until
    the button is let go.
    """

    def __init__(self, stale_after: float):
        """`stale_after`: seconds."""
        self.malformed = 0
        """Messages that were ignored."""
        self.buttons = EpisodeButtons()
        self._stale_after = stale_after
        self._lock = threading.Lock()
        self._message: BrowserMessage | None = None
        self._events: deque[str] = deque(maxlen=_MOST_EVENTS)
        self._armed = False
        self._arrival = self._late = self._offset = 0.0
        self._pose, self._trigger = Pose(np.zeros(3), Rotation.identity()), 0.0

    def connect(self) -> None:
        """A browser has taken the controls."""
        with self._lock:
            self._message, self._armed = None, False
            self.buttons.lose()

    disconnect = connect

    def receive(self, text: str, now: float) -> None:
        """Take one message, which arrived at `now` seconds; one that is malformed is counted and otherwise ignored."""
        try:
            message = parse_message(text)
        except (ValueError, OverflowError, DiwaError):
            self.ignore()
            return
        with self._lock:
            before = self._message
            if before is not None and message.number <= before.number:
                self.malformed += 1
                return
            self._late = self._lateness(message, now)
            continues = before is not None and before.frame == message.frame
            on_time = max(now - self._arrival, self._late) <= self._stale_after
            self._armed = not message.held or (self._armed and continues and on_time)
            self._message, self._arrival = message, now
            self._pose, self._trigger = message.pose, message.trigger
            self._events.extend((*message.events, *self.buttons.update(message.buttons, now)))

    def ignore(self) -> None:
        """Count a message that is none."""
        with self._lock:
            self.malformed += 1

    def reading(self, now: float) -> ControllerState:
        """The controller at `now` seconds."""
        with self._lock:
            events = tuple(self._events)
            self._events.clear()
            message = self._message
            fresh = message is not None and not self._stale(now)
            valid = fresh and message is not None and message.tracked
            held = fresh and self._armed and message is not None and message.held
            return ControllerState(self._pose, held, self._trigger, events, valid)

    def _stale(self, now: float) -> bool:
        return max(now - self._arrival, 0.0) + self._late > self._stale_after

    def _lateness(self, message: BrowserMessage, now: float) -> float:
        """Seconds by which the message came later than the quickest did; the clocks' offset is learnt from those."""
        offset = now - message.time
        if self._message is None:
            self._offset = offset
        else:
            self._offset = min(offset, self._offset + _DRIFT * (now - self._arrival))
        return offset - self._offset


def _numbers(values: Any, count: int) -> list[float]:
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"not {count} numbers")
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise ValueError("not numbers")
    numbers = [float(value) for value in values]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("not finite")
    return numbers


def _rotation(values: Any) -> Rotation:
    quaternion = np.array(_numbers(values, 4))
    if not 0.9 < np.linalg.norm(quaternion) < 1.1:
        raise ValueError("not a unit quaternion")
    return Rotation.from_quat(quaternion)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("not true or false")
    return value


def _words(values: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) > _MOST_EVENTS or any(value not in known for value in values):
        raise ValueError(f"not a list of {', '.join(known)}")
    return tuple(values)
