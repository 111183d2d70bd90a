"""Controllers without their hardware: buttons, tracking, and a VIVE on a tracking system of the same interface."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError
from diwa_data.files import write_json
from diwa_data.pose import Pose
from diwa_data.teleop.clutch import ControllerState
from diwa_data.teleop.devices import (
    LONG_PRESS,
    SIGNALS,
    DeviceConfig,
    EpisodeButtons,
    Feedback,
    ViveConfig,
    facing_yaw,
    open_device,
    to_robot,
)
from diwa_data.teleop.vive import Vive, calibrate, find_yaw, load_yaw


def test_menu_starts_stops_and_discards_and_mark_says_success_or_failure_once():
    buttons = EpisodeButtons()
    assert buttons.update([], 0.0) == ()
    assert buttons.update(["menu"], 1.0) == ()
    assert buttons.update([], 1.2) == ("start",)
    assert buttons.update(["mark"], 2.0) == ()
    assert buttons.update(["mark"], 2.1) == ()
    assert buttons.update([], 2.2) == ("success",)
    assert buttons.update(["mark"], 2.3) == ()
    assert buttons.update(["mark"], 2.3 + LONG_PRESS) == ("fail",)
    assert buttons.update(["mark"], 6.0) == ()
    assert buttons.update([], 6.1) == ()
    assert buttons.update(["menu"], 3.0) == ()
    assert buttons.update([], 3.1) == ("stop",)
    assert buttons.update(["menu"], 4.0) == ()
    assert buttons.update(["menu"], 4.0 + LONG_PRESS) == ("discard",)
    assert buttons.update(["menu"], 9.0) == ()
    assert buttons.update([], 9.1) == ()
    assert buttons.update(["menu"], 10.0) == ()
    assert buttons.update([], 10.1) == ("start",)


def test_an_episode_that_ended_by_itself_is_started_by_the_next_press():
    buttons = EpisodeButtons()
    presses = [([], 0.0), (["menu"], 1.0), ([], 1.1)]
    assert [buttons.update(*press) for press in presses][-1] == ("start",)
    buttons.recording = False
    buttons.update(["menu"], 2.0)
    assert buttons.update([], 2.1) == ("start",)


def test_presses_in_the_dark_cause_no_event():
    buttons = EpisodeButtons()
    assert buttons.update(["menu", "mark"], 0.0) == ()
    assert buttons.update([], 0.1) == ()
    assert buttons.update(["menu"], 1.0) == ()
    buttons.lose()
    assert buttons.update(["menu", "mark"], 2.0) == ()
    assert buttons.update(["menu", "mark"], 2.0 + 2 * LONG_PRESS) == ()
    assert buttons.update([], 9.0) == ()
    assert buttons.update(["mark"], 9.1) == ()
    assert buttons.update([], 9.2) == ("success",)


@given(st.lists(st.tuples(st.sets(st.sampled_from(["menu", "mark"])), st.floats(0.0, 3.0), st.booleans()), max_size=30))
def test_starts_and_stops_alternate_whatever_is_pressed(presses):
    buttons, now, events = EpisodeButtons(), 0.0, []
    for pressed, wait, lost in presses:
        now += wait
        events += buttons.update(pressed, now)
        if lost:
            buttons.lose()
    running = False
    for event in (event for event in events if event not in ("success", "fail")):
        assert event != ("start" if running else "stop")
        running = event == "start"


def test_room_axes_become_the_robots():
    forward, right, up = (to_robot(np.array(v, float), Rotation.identity(), 0.0).position for v in
                          ([0, 0, -1], [1, 0, 0], [0, 1, 0]))  # fmt: skip
    np.testing.assert_allclose([forward, right, up], [[1, 0, 0], [0, -1, 0], [0, 0, 1]], atol=1e-12)


@given(st.floats(-3.1, 3.1), st.floats(0.11, 2.0), st.floats(-0.5, 0.5))
def test_calibrating_finds_the_yaw_of_the_room(angle, length, height):
    start = np.array([0.3, 1.0, -0.2])
    end = start + np.array([length * np.sin(angle), height, -length * np.cos(angle)])  # in the room, forward is -z
    found = find_yaw(start, end)
    before, after = (to_robot(place, Rotation.identity(), found.yaw).position for place in (start, end))
    np.testing.assert_allclose(after - before, [length, 0, height], atol=1e-9)
    assert found.baseline == pytest.approx(length)


@given(st.floats(-3.1, 3.1), st.floats(-1.0, 1.0), st.floats(-3.0, 3.0))
def test_what_a_device_points_along_becomes_forward(heading, pitch, roll):
    pointing = Rotation.from_euler("YXZ", [heading, pitch, roll])
    ahead = to_robot(pointing.apply([0.0, 0.0, -1.0]), pointing, facing_yaw(pointing)).position
    np.testing.assert_allclose(ahead, [np.cos(pitch), 0, np.sin(pitch)], atol=1e-9)


def test_a_device_that_points_down_has_no_forward():
    with pytest.raises(DiwaError, match="hold it level"):
        facing_yaw(Rotation.from_euler("x", -80, degrees=True))


@given(st.floats(-3.0, 3.0), st.integers(0, 2**31))
def test_a_turn_of_the_controller_is_the_same_turn_in_base_axes(yaw, seed):
    start, turn = Rotation.from_rotvec(np.random.default_rng(seed).normal(size=(2, 3)))
    before, after = (to_robot(np.zeros(3), rotation, yaw).rotation for rotation in (start, turn * start))
    axes = to_robot(np.zeros(3), Rotation.identity(), yaw).rotation
    difference = (after * before.inv()) * Rotation.from_rotvec(axes.apply(turn.as_rotvec())).inv()
    assert difference.magnitude() < 1e-9


def test_a_short_baseline_and_a_bad_file_are_refused(tmp_path: Path):
    with pytest.raises(DiwaError, match=r"moved 5\.0 cm.*at least 10 cm"):
        find_yaw(np.zeros(3), np.array([0.0, 0.4, -0.05]))
    path = tmp_path / "vive.json"
    with pytest.raises(DiwaError, match=r"no calibration at .*vive.json.*run `diwa calibrate` first"):
        load_yaw(path)
    write_json(path, {"yaw": 0.25})
    assert load_yaw(path) == 0.25
    for text in ("{", '{"yaw": "left"}', '{"yaw": NaN}', "[]"):
        path.write_text(text)
        with pytest.raises(DiwaError, match="run `diwa calibrate` again"):
            load_yaw(path)


class Room:
    """A tracking system with OpenVR's interface: two controllers and a headset; tests move them and press."""

    class OpenVRError(Exception):
        """Nothing there."""

    VRApplication_Background = 3
    TrackingUniverseStanding = 1
    TrackedDeviceClass_Controller = 2
    TrackedControllerRole_LeftHand, TrackedControllerRole_RightHand = 1, 2
    Prop_SerialNumber_String = 1002
    k_unMaxTrackedDeviceCount = 4

    def __init__(self) -> None:
        self.running = True
        self.classes, self.roles = [1, 2, 2, 0], [0, 1, 2, 0]
        self.serials = ["HMD", "LHR-1", "LHR-2", ""]
        self.position, self.result, self.seen = np.zeros(3), 200, True
        self.packet, self.pressed, self.trigger = 1, 0, 0.0
        self.pulses: list[int] = []

    def init(self, application):
        if not self.running:
            raise self.OpenVRError
        return self

    def shutdown(self):
        self.running = False

    def getTrackedDeviceClass(self, index):
        return self.classes[index]

    def getStringTrackedDeviceProperty(self, index, name):
        return self.serials[index]

    def getControllerRoleForTrackedDeviceIndex(self, index):
        return self.roles[index]

    def getControllerState(self, index):
        axes = [SimpleNamespace(x=0.0), SimpleNamespace(x=self.trigger)]
        return True, SimpleNamespace(unPacketNum=self.packet, ulButtonPressed=self.pressed, rAxis=axes)

    def getDeviceToAbsoluteTrackingPose(self, universe, seconds, count):
        rows = np.column_stack([np.eye(3), self.position])
        matrix = (ctypes.c_float * 4 * 3)(*map(tuple, rows))
        pose = SimpleNamespace(
            bPoseIsValid=self.seen, eTrackingResult=self.result, mDeviceToAbsoluteTracking=SimpleNamespace(m=matrix)
        )
        return [pose] * count

    def triggerHapticPulse(self, index, axis, microseconds):
        self.pulses.append(index)


MENU, GRIP, TOUCHPAD = 1 << 1, 1 << 2, 1 << 32


@pytest.fixture
def held():
    """A VIVE and its room: `vive, room, read = held`; `read()` is the next reading, 1/60 s and a packet later."""
    room, clock = Room(), [0.0]
    vive = Vive(ViveConfig(), room, lambda: clock[0])

    def read(packets: int = 1) -> ControllerState:
        clock[0] += 1 / 60
        room.packet += packets
        return vive.read()

    return vive, room, read


def test_a_vive_moves_closes_and_marks(held):
    _, room, read = held
    assert not read().deadman
    room.position, room.pressed, room.trigger = np.array([0.1, 0.2, -0.3]), GRIP, 0.8
    state = read()
    np.testing.assert_allclose(state.pose.position, [0.3, -0.1, 0.2], atol=1e-6)
    assert state.deadman
    assert state.valid
    assert state.trigger == 0.8
    room.pressed = TOUCHPAD
    assert read().events == ()
    room.pressed = MENU
    assert read().events == ("success",)
    room.pressed = TOUCHPAD
    assert read().events == ("start",)
    assert [event for _ in range(100) for event in read().events] == ["fail"]
    room.pressed = MENU
    assert read().events == ()
    room.pressed = 0
    assert read().events == ("stop",)


def test_frozen_packets_release_the_clutch_and_press_nothing(held):
    _, room, read = held
    read()
    room.pressed = GRIP | MENU
    assert read().deadman
    states = [read(packets=0) for _ in range(40)]
    assert states[20].deadman
    assert not states[35].deadman
    assert not states[35].valid
    room.pressed = 0
    assert read().valid
    assert all(state.events == () for state in [*states, read()])


@pytest.mark.parametrize(("seen", "result"), [(False, 200), (True, 201), (True, 101)])
def test_lost_tracking_is_not_valid(held, seen, result):
    _, room, read = held
    assert read().valid
    room.seen, room.result = seen, result
    assert not read().valid


def test_signals_are_felt_for_a_while(held):
    vive, room, read = held
    lengths = {}
    for what in SIGNALS:
        room.pulses.clear()
        vive.signal(what)
        for _ in range(60):
            read()
        lengths[what] = len(room.pulses)
    assert 0 < lengths["start"] == lengths["success"] < lengths["stop"] < lengths["fail"] < lengths["lost"] < 60
    assert set(room.pulses) == {2}


@pytest.mark.parametrize(
    ("config", "index"),
    [(ViveConfig(), 2), (ViveConfig(role="left"), 1), (ViveConfig(serial="LHR-1"), 1)],
)
def test_a_controller_is_chosen_by_hand_or_serial(config, index):
    room = Room()
    Vive(config, room).signal("start")
    vive = Vive(config, room)
    vive.signal("start")
    vive.read()
    assert room.pulses == [index]


def test_a_controller_that_is_not_there_is_told_with_those_that_are():
    room = Room()
    with pytest.raises(DiwaError, match=r"serial LHR-9; SteamVR sees: LHR-1 \(left\), LHR-2 \(right\)"):
        Vive(ViveConfig(serial="LHR-9"), room)
    assert not room.running
    room = Room()
    room.classes = [1, 0, 0, 0]
    with pytest.raises(DiwaError, match="the right hand; SteamVR sees: none, switch one on"):
        Vive(ViveConfig(), room)
    with pytest.raises(DiwaError, match="'both' is not a hand; choose left or right"):
        Vive(ViveConfig(role="both"), Room())


def test_without_steamvr_the_way_on_is_named_in_time():
    room = Room()
    room.running = False
    with pytest.raises(DiwaError, match=r"no SteamVR; start it \("):
        Vive(ViveConfig(), room)
    stuck = Room()
    stuck.init = lambda application: time.sleep(30)
    started = time.monotonic()
    with pytest.raises(DiwaError, match=r"no SteamVR; restart it \(it does not answer"):
        Vive(ViveConfig(), stuck)
    assert time.monotonic() - started < 3


def test_the_installed_openvr_answers_in_time_too(tmp_path):
    """With the package or without it, as this machine happens to be; with SteamVR running there is nothing to show."""
    code = "from diwa_data.teleop.devices import DeviceConfig, open_device\nopen_device('vive', DeviceConfig())"
    environment = {"HOME": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, env=environment)
    assert "no SteamVR; try device:=scripted robot:=sim (" in ran.stderr


def test_a_vive_is_opened_with_its_calibration_or_let_go_of(tmp_path, monkeypatch):
    room = Room()
    monkeypatch.setitem(sys.modules, "openvr", room)
    config = DeviceConfig(vive=ViveConfig(calibration=str(tmp_path / "vive.json")))
    with pytest.raises(DiwaError, match=r"vive\.json"):
        open_device("vive", config)
    assert not room.running
    room.running = True
    write_json(tmp_path / "vive.json", {"yaw": 0.5})
    assert open_device("vive", config).yaw == pytest.approx(0.5)
    room.running = False
    with pytest.raises(DiwaError, match=r"no SteamVR; try --device scripted \(OpenVRError\)"):
        open_device("vive", config, "--device scripted")
    monkeypatch.setitem(sys.modules, "openvr", None)
    with pytest.raises(DiwaError, match=r"no SteamVR; try device:=scripted robot:=sim \(.*a VIVE needs openvr: "):
        open_device("vive", config)


def test_calibrating_asks_twice_and_stores(tmp_path):
    room, asked = Room(), []

    def move(question):
        asked.append(question)
        room.position = np.array([0.2, 0.0, 0.0]) * len(asked)

    vive = Vive(ViveConfig(), room)
    found = calibrate(vive, tmp_path / "vive.json", move)
    assert found.yaw == pytest.approx(np.pi / 2)
    assert found.baseline == pytest.approx(0.2)
    assert load_yaw(tmp_path / "vive.json") == found.yaw
    assert ["still" in question for question in asked] == [True, True]
    room.result = 201
    with pytest.raises(DiwaError, match="not tracked"):
        calibrate(vive, tmp_path / "vive.json", move)
    room.result = 200
    with pytest.raises(DiwaError, match=r"moved 0\.0 cm"):
        calibrate(vive, tmp_path / "other.json", lambda question: None)
    assert not (tmp_path / "other.json").exists()


def test_an_unknown_device_names_the_choices_and_settings_come_from_plain_values():
    with pytest.raises(DiwaError, match="unknown device 'mouse'; choose one of vive, webxr, keyboard"):
        open_device("mouse", DeviceConfig())
    config = from_mapping(DeviceConfig, {"vive": {"serial": "LHR-1"}, "webxr": {"port": 9000}}, "here")
    assert (config.vive.serial, config.webxr.port) == ("LHR-1", 9000)


def test_feedback_tells_what_changed_and_answers_what_was_asked():
    class Hand:
        """Writes down what it feels."""

        instructions = ""

        def __init__(self):
            self.felt = []

        def read(self):
            return reading()

        def signal(self, what):
            self.felt.append(what)

        def close(self):
            """Nothing to give back."""

    def reading(*events, valid=True):
        return ControllerState(Pose(np.zeros(3), Rotation.identity()), False, 0.0, events, valid)

    hand = Hand()
    feedback = Feedback(hand)
    for state, recording, felt in [
        (reading(valid=False), False, []),
        (reading(), False, []),
        (reading("start"), True, ["start"]),
        (reading("success"), True, ["success"]),
        (reading("success", "fail"), True, ["success", "fail"]),
        (reading(valid=False), True, ["lost"]),
        (reading(valid=False), True, []),
        (reading(), False, ["stop"]),
        (reading("start"), False, ["stop"]),
    ]:
        hand.felt.clear()
        feedback.update(state, recording)
        assert hand.felt == felt
