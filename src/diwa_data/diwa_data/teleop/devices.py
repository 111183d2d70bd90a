"""Controllers that people hold: their settings, how they are opened, and what their buttons and axes mean."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError, unknown
from diwa_data.pose import Pose
from diwa_data.teleop.clutch import ControllerState

DEVICES = ("vive", "webxr", "keyboard")
"""Devices that `open_device` opens."""
LONG_PRESS = 1.5
"""Seconds for which a button is held for its second meaning: menu discards, mark says that the attempt failed."""
SIGNALS = ("start", "stop", "success", "fail", "lost")
"""Signals to a hand: an episode has begun, none runs any more, one was marked, the controller is lost."""
LEAST_LEVEL = 0.5
"""Horizontal share of a unit vector that can tell where forward is: up to 60 degrees from level."""
ROOM_AXES = Rotation.from_matrix([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""OpenVR and WebXR (x right, y up, -z forward) to the robot's axes: (x, y, z) -> (-z, -x, y)."""


@dataclass(frozen=True)
class KeyboardConfig:
    """Speeds of the hand while a key is held."""

    speed: float = 0.12
    """Speed while a key is held, in metres per second."""
    turn_speed: float = 0.5
    """Rotation speed while a key is held, in radians per second."""
    hold: float = 0.15
    """Seconds for which a key counts as held after the terminal reported it; more than its repeat interval."""


@dataclass(frozen=True)
class ViveConfig:
    """Choice of controller, and the direction of the tracking room relative to the robot."""

    serial: str = ""
    """Serial number of the controller (`LHR-...`); empty = the one of `role`."""
    role: str = "right"
    """Hand that the controller is assigned to in SteamVR: left or right."""
    calibration: str = ""
    """File with the yaw that `diwa calibrate` found; empty = `$DIWA_HOME/vive.json` (default `~/.diwa`)."""
    frozen_after: float = 0.5
    """Seconds without a new button packet after which the clutch releases."""


@dataclass(frozen=True)
class WebXRConfig:
    """The page on which a phone, a headset or any browser drives the robot."""

    host: str = ""
    """Address to listen at; empty = all of this machine's, and the printed one is that of the local network."""
    port: int = 8443
    """TCP port; 0 = any free one."""
    stale_after: float = 0.1
    """Seconds without a fresh message after which the clutch releases."""
    speed: float = 0.12
    """Speed of the page's jog buttons, in metres per second."""
    turn_speed: float = 0.5
    """Rotation speed of the page's jog buttons, in radians per second."""
    folder: str = ""
    """Folder of the certificate; empty = `$DIWA_HOME/webxr` (default `~/.diwa`)."""


@dataclass(frozen=True)
class DeviceConfig:
    """Settings of every device: plain values only, so that each is a flag of `diwa record` and a ROS parameter too."""

    vive: ViveConfig = field(default_factory=ViveConfig)
    """HTC VIVE controller."""
    webxr: WebXRConfig = field(default_factory=WebXRConfig)
    """Phone, headset or browser."""
    keyboard: KeyboardConfig = field(default_factory=KeyboardConfig)
    """Keys in a terminal."""


class Controller(Protocol):
    """A device that a person holds: it is read, gives signals, and is given back at the end."""

    instructions: str
    """Text for the operator: keys, buttons, or where the page's address is. May be logged."""

    def read(self) -> ControllerState:
        """The controller now."""

    def signal(self, what: str) -> None:
        """Tell the hand one of `SIGNALS`. Returns at once."""

    def close(self) -> None:
        """Give the device back."""


def open_device(name: str, config: DeviceConfig, instead: str = "device:=scripted robot:=sim") -> Controller:
    """Open one of `DEVICES`. Raises `DiwaError` if there is none of that name, or it cannot be opened.

    `instead` is what the caller's user can write to do without a VIVE.
    """
    if name == "vive":
        from diwa_data.teleop.vive import NoSteamVR, open_vive

        try:
            return open_vive(config.vive)
        except NoSteamVR as error:
            raise NoSteamVR(error.why, f"try {instead}") from error
    if name == "webxr":
        from diwa_data.teleop.webxr import WebXR

        device = WebXR(config.webxr)
        show(device.invitation)
        return device
    if name == "keyboard":
        from diwa_data.teleop.keyboard import Keyboard

        return Keyboard(config.keyboard)
    raise unknown("device", name, DEVICES)


def show(text: str) -> None:
    """Write a line to the terminal that the process was started in, past logs and pipes; nothing if there is none."""
    with suppress(OSError), open("/dev/tty", "w") as terminal:
        terminal.write(text + "\n")


class Feedback:
    """Signals a controller whenever what its hand should know has changed. Call `update` once a step."""

    def __init__(self, controller: Controller):
        self._controller, self._recording, self._valid = controller, False, False

    def update(self, state: ControllerState, recording: bool) -> None:
        """`state`: what was read in this step; `recording`: an episode runs after it.

        Operator events that change nothing are answered too: a start that was refused is a stop.
        """
        for event in state.events:
            if event in ("success", "fail"):
                self._controller.signal(event)
        if {"start", "stop", "discard"} & set(state.events) or recording != self._recording:
            self._controller.signal("start" if recording else "stop")
        if self._valid and not state.valid:
            self._controller.signal("lost")
        self._recording, self._valid = recording, state.valid


class EpisodeButtons:
    """Menu: start or stop on a short press, discard on a long one. Mark: success on a short press, fail on a long one.

    Buttons that are down when they are first seen were pressed in the dark: they count from their next press on.
    """

    def __init__(self) -> None:
        self.recording = False
        """A short press stops; set it when an episode began or ended without the button."""
        self._down: dict[str, float] = {}
        self._spent: set[str] = set()
        self._blind = True

    def update(self, pressed: Collection[str], now: float) -> tuple[str, ...]:
        """Events since the last call, given the buttons that are down (`menu`, `mark`) at `now` seconds."""
        if self._blind:
            self._spent, self._blind = set(pressed), False
        self._spent &= set(pressed)
        before = self._down
        self._down = {name: before.get(name, now) for name in pressed if name not in self._spent}
        long = {name for name, since in self._down.items() if now - since >= LONG_PRESS}
        short = before.keys() - set(pressed)
        self._spent |= long
        self._down = {name: since for name, since in self._down.items() if name not in long}
        events = ["fail"] * ("mark" in long) + ["success"] * ("mark" in short)
        if "menu" in long:
            events.append("discard")
            self.recording = False
        elif "menu" in short:
            events.append("stop" if self.recording else "start")
            self.recording = not self.recording
        return tuple(events)

    def lose(self) -> None:
        """The buttons cannot be seen: presses that are under way are forgotten and cause no event."""
        self._down, self._blind = {}, True


def to_robot(position: np.ndarray, rotation: Rotation, yaw: float) -> Pose:
    """A controller's pose in the tracking system's room, in axes parallel to the robot's base after a turn by `yaw`.

    Only motion matters to the clutch, so the two origins need not agree; the rotation is that of the controller's
    motion: R' R^T of two results is the controller's own turn, seen in base axes.
    """
    turn = Rotation.from_euler("z", yaw) * ROOM_AXES
    return Pose(turn.apply(position), turn * rotation)


def yaw_of(direction: np.ndarray) -> tuple[float, float]:
    """The yaw (rad) that turns a direction (3,) of the room along the robot's +x, and its horizontal length."""
    x, y, _ = ROOM_AXES.apply(direction)
    return float(-np.arctan2(y, x)), float(np.hypot(x, y))


def facing_yaw(rotation: Rotation) -> float:
    """The yaw (rad) in which a device of that rotation in its room points along the robot's +x (its own forward: -z).

    Raises `DiwaError` if it points too steeply up or down to tell.
    """
    yaw, level = yaw_of(rotation.apply([0.0, 0.0, -1.0]))
    if level < LEAST_LEVEL:
        raise DiwaError("the device points up or down: hold it level, towards the robot's forward")
    return yaw
