"""Opens a device by name, and tells the hand that holds it what goes on."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from diwa_data.errors import unknown
from diwa_data.teleop.clutch import ControllerState, Device
from diwa_data.teleop.config import DeviceConfig

DEVICES = ("vive", "webxr", "keyboard")
"""What `open_device` opens."""
SIGNALS = ("start", "stop", "lost")
"""What a hand can be told: an episode has begun, none is running any more, tracking is lost."""


class Controller(Device, Protocol):
    """A device that a person holds: it can be felt or heard, and is given back at the end."""

    instructions: str
    """What to tell the operator: keys, buttons, or where the page's address is. May be logged."""

    def signal(self, what: str) -> None:
        """Tell the hand: one of `SIGNALS`. Returns at once."""

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
        self._controller = controller
        self._recording = False
        self._valid = False

    def update(self, state: ControllerState, recording: bool) -> None:
        """`state`: what was read in this step; `recording`: an episode runs after it.

        Operator events that change nothing are answered too: a start that was refused is a stop.
        """
        asked = {"start", "stop", "discard"} & set(state.events)
        if asked or recording != self._recording:
            self._controller.signal("start" if recording else "stop")
        if self._valid and not state.valid:
            self._controller.signal("lost")
        self._recording, self._valid = recording, state.valid
