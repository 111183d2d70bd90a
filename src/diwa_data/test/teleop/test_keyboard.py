"""The keyboard as a controller, on a real pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from contextlib import closing
from fcntl import ioctl

import numpy as np
import pytest

from diwa_data.teleop.devices import KeyboardConfig
from diwa_data.teleop.keyboard import Keyboard


@pytest.fixture
def typed():
    """A keyboard and what types on it: `keys, keyboard, clock = typed`; `clock[0]` is the time in seconds."""
    master, terminal = pty.openpty()
    clock = [0.0]

    def keys(pressed: str) -> None:
        """Returns when they can be read: the kernel passes them on in its own time."""
        sent, deadline = os.write(master, pressed.encode()), time.monotonic() + 10
        while struct.unpack("i", ioctl(terminal, termios.FIONREAD, bytes(4)))[0] < sent:
            assert time.monotonic() < deadline, f"{pressed!r} never came through the terminal"

    with closing(Keyboard(KeyboardConfig(speed=0.1), terminal, lambda: clock[0])) as keyboard:
        yield keys, keyboard, clock
    os.close(master)
    os.close(terminal)


def test_a_held_key_moves_and_a_released_one_does_not(typed):
    keys, keyboard, clock = typed
    assert not keyboard.read().deadman
    for _ in range(30):  # held for half a second: repeated at 30 Hz, read at 60 Hz
        keys("w")
        for _ in range(2):
            clock[0] += 1 / 60
            state = keyboard.read()
    assert state.deadman
    assert state.pose.position[0] == pytest.approx(0.1, rel=1e-6)
    clock[0] += 0.2
    assert not keyboard.read().deadman
    np.testing.assert_allclose(keyboard.read().pose.position, [0.1, 0, 0], atol=1e-9)


def test_keys_act_together_turn_close_and_mark(typed):
    keys, keyboard, clock = typed
    keys("aj y")
    clock[0] = 0.1
    state = keyboard.read()
    np.testing.assert_allclose(state.pose.position, [0, 0.01, 0], atol=1e-9)
    np.testing.assert_allclose(state.pose.rotation.as_rotvec(), [0, 0, 0.05], atol=1e-9)
    assert (state.trigger, state.events) == (1.0, ("success",))
    keys(" nmbxé\x1b")
    clock[0] = 0.11
    state = keyboard.read()
    assert (state.trigger, state.events) == (0.0, ("start", "stop", "fail", "discard"))


def test_the_terminal_is_given_back_as_it_was():
    master, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    with closing(Keyboard(KeyboardConfig(), terminal)):
        assert termios.tcgetattr(terminal)[3] & termios.ICANON == 0
    assert termios.tcgetattr(terminal) == before
    os.close(master)
    os.close(terminal)


def test_without_a_terminal_there_is_one_clear_error():
    code = "from diwa_data.teleop.devices import DeviceConfig, open_device\nopen_device('keyboard', DeviceConfig())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, start_new_session=True)
    assert "the keyboard needs a terminal and this process has none" in ran.stderr
    assert "or use the device webxr" in ran.stderr


def test_signals_ring_the_bell():
    master, terminal = pty.openpty()
    with closing(Keyboard(KeyboardConfig(), terminal)) as keyboard:
        for what in ("start", "stop", "lost"):
            keyboard.signal(what)
        heard = b""
        while len(heard) < 6 and select.select([master], [], [], 10)[0]:  # a read may return a part
            heard += os.read(master, 64)
        assert heard == b"\a" * 6
    os.close(master)
    os.close(terminal)
