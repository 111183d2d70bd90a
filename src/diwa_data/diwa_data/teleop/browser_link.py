"""A browser's messages about its controller, without the socket: they are checked, aged, and become readings."""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.teleop.clutch import ControllerState
from diwa_data.teleop.devices import EpisodeButtons, facing_yaw, to_robot

_FARTHEST = 1000.0  # metres
_MOST_EVENTS = 16  # that wait to be read
_DRIFT = 1e-3  # seconds per second by which the browser's clock may run slow: a hundred times what clocks do


@dataclass(frozen=True, eq=False)
class BrowserMessage:
    """One message: a JSON object with these keys, all of them, and no others."""

    n: int
    """Number of the message, rising."""
    t: float
    """The page's clock, seconds."""
    frame: Literal["xr", "base"]
    """`xr`: a tracked device in its room (x right, y up, -z forward); `base`: jogged in the robot's base axes."""
    p: tuple[float, float, float]
    """Position, metres."""
    q: tuple[float, float, float, float]
    """Quaternion x y z w."""
    forward: tuple[float, float, float, float]
    """Quaternion of a device that points along the robot's +x in the room; only used with `xr`."""
    tracked: bool
    """The pose is a measured one."""
    held: bool
    """The clutch is held."""
    trigger: float
    """0..1, pulled closes the gripper."""
    buttons: tuple[Literal["menu", "mark"], ...]
    """Buttons that are down on a controller, as on a VIVE."""
    events: tuple[Literal["start", "stop", "success", "fail", "discard"], ...]
    """Pressed since the last message."""

    def __post_init__(self) -> None:
        numbers = (self.n, self.t, *self.p, *self.q, *self.forward, self.trigger)
        lengths = np.linalg.norm([self.q, self.forward], axis=1)
        if any(isinstance(number, bool) for number in numbers) or not np.isfinite(numbers).all():
            raise ValueError("not finite numbers")
        if not 0.0 <= self.trigger <= 1.0:
            raise ValueError("trigger out of range")
        if np.abs(self.p).max() > _FARTHEST or not ((lengths > 0.9) & (lengths < 1.1)).all():
            raise ValueError("a pose out of range")
        if max(len(self.buttons), len(self.events)) > _MOST_EVENTS:
            raise ValueError("too many events")

    @cached_property
    def pose(self) -> Pose:
        """In axes parallel to the robot's base. Raises `DiwaError` if `forward` points up or down."""
        position, rotation = np.array(self.p, float), Rotation.from_quat(self.q)
        if self.frame == "base":
            return Pose(position, rotation)
        return to_robot(position, rotation, facing_yaw(Rotation.from_quat(self.forward)))


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
            message = from_mapping(BrowserMessage, json.loads(text), "message")
            pose = message.pose
        except (ValueError, RecursionError, DiwaError):
            self.ignore()
            return
        with self._lock:
            before = self._message
            if before is not None and message.n <= before.n:
                self.malformed += 1
                return
            self._late = self._lateness(message, now)
            continues = before is not None and before.frame == message.frame
            on_time = max(now - self._arrival, self._late) <= self._stale_after
            self._armed = not message.held or (self._armed and continues and on_time)
            self._message, self._arrival = message, now
            self._pose, self._trigger = pose, message.trigger
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
            if message is None or max(now - self._arrival, 0.0) + self._late > self._stale_after:
                return ControllerState(self._pose, False, self._trigger, events, False)
            return ControllerState(self._pose, self._armed and message.held, self._trigger, events, message.tracked)

    def _lateness(self, message: BrowserMessage, now: float) -> float:
        """Seconds by which the message came later than the quickest did; the clocks' offset is learnt from those."""
        offset = now - message.t
        if self._message is None:
            self._offset = offset
        else:
            self._offset = min(offset, self._offset + _DRIFT * (now - self._arrival))
        return offset - self._offset
