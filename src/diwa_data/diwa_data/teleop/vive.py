"""A VIVE controller by OpenVR (SteamVR must run); `openvr` is imported when a controller is opened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError, how_to_install
from diwa_data.files import expanded, home, read_object, write_json
from diwa_data.teleop.clutch import ControllerState
from diwa_data.teleop.devices import EpisodeButtons, ViveConfig, to_robot, yaw_of

_TRACKING_OK = 200
_TRIGGER_AXIS = 1
_BUTTONS = {"menu": 1, "grip": 2, "mark": 32}  # bits of ulButtonPressed; mark is the touchpad
_PULSE = 3000  # microseconds, about the longest that one call makes
_PULSES = {"start": 4, "success": 4, "stop": 8, "fail": 12, "lost": 20}  # one a reading: how long the hand feels it
_PATIENCE = 2.5  # seconds for SteamVR to answer
SHORTEST_BASELINE = 0.10
"""Metres that the controller must move along the robot's +x to find the yaw."""


class Calibration(NamedTuple):
    """The direction of a tracking room relative to the robot, and its evidence."""

    yaw: float
    """Turn about the vertical for `to_robot`, rad."""
    baseline: float
    """Metres that the controller was moved to find it."""


class NoSteamVR(DiwaError):
    """SteamVR does not run, or `openvr` is not installed; `why` says which."""

    def __init__(self, why: str, cure: str = "start it"):
        super().__init__(f"no SteamVR; {cure} ({why})")
        self.why = why


class Vive:
    """One controller of a running SteamVR. Readings without calibration are in the tracking room's own direction."""

    instructions = (
        "VIVE controller: hold the grip to move, pull the trigger to close the gripper\n"
        "episodes: menu starts and stops, held for 1.5 s it discards the last one; the touchpad marks success,\n"
        "held for 1.5 s failure"
    )

    def __init__(self, config: ViveConfig, openvr: Any, clock: Callable[[], float] = time.monotonic):
        """`openvr`: the module. Raises `DiwaError` without SteamVR or that controller."""
        if config.role not in ("left", "right"):
            raise DiwaError(f"vive.role {config.role!r} is not a hand; choose left or right")
        self._openvr, self._clock = openvr, clock
        self._system = _connect(openvr)
        self.yaw = 0.0
        """Turn of the tracking room to the robot, rad."""
        try:
            self._index = self._find(config)
        except BaseException:
            self.close()
            raise
        self._buttons, self._frozen_after, self._pulses = EpisodeButtons(), config.frozen_after, 0
        self._packet, self._packet_at = -1, 0.0

    def read(self) -> ControllerState:
        """The controller now. Without input focus buttons freeze while poses go on: without new packets it is lost."""
        now = self._clock()
        found, state = self._system.getControllerState(self._index)
        if state.unPacketNum != self._packet:
            self._packet, self._packet_at = state.unPacketNum, now
        alive = bool(found) and now - self._packet_at < self._frozen_after
        pressed = {name for name, bit in _BUTTONS.items() if alive and state.ulButtonPressed >> bit & 1}
        events: tuple[str, ...] = ()
        if alive:
            events = self._buttons.update(pressed & {"menu", "mark"}, now)
        else:
            self._buttons.lose()
        if self._pulses:
            self._pulses -= 1
            self._system.triggerHapticPulse(self._index, 0, _PULSE)
        matrix, tracked = self._matrix()
        pose = to_robot(matrix[:, 3], Rotation.from_matrix(matrix[:, :3]), self.yaw)
        trigger = float(state.rAxis[_TRIGGER_AXIS].x)
        return ControllerState(pose, "grip" in pressed, trigger, events, alive and tracked)

    def signal(self, what: str) -> None:
        """Let the controller vibrate: shortly for `start` and `success`, then `stop` and `fail`, longest for `lost`."""
        self._pulses = _PULSES[what]
        if what in ("start", "stop"):
            self._buttons.recording = what == "start"

    def close(self) -> None:
        """Let go of SteamVR."""
        self._openvr.shutdown()

    def position(self) -> np.ndarray:
        """The controller's position in the tracking room (3,), metres. Raises `DiwaError` if it is not tracked."""
        matrix, tracked = self._matrix()
        if not tracked:
            raise DiwaError("the controller is not tracked: hold it where both base stations see it, then try again")
        return matrix[:, 3]

    def _matrix(self) -> tuple[np.ndarray, bool]:
        """Device to room (3, 4), the identity while it is unknown; True while it is tracked well."""
        universe, count = self._openvr.TrackingUniverseStanding, self._openvr.k_unMaxTrackedDeviceCount
        found = self._system.getDeviceToAbsoluteTrackingPose(universe, 0, count)[self._index]
        if not found.bPoseIsValid:
            return np.eye(3, 4), False
        return np.array([list(row) for row in found.mDeviceToAbsoluteTracking.m]), found.eTrackingResult == _TRACKING_OK

    def _find(self, config: ViveConfig) -> int:
        openvr, system = self._openvr, self._system
        roles = {openvr.TrackedControllerRole_LeftHand: "left", openvr.TrackedControllerRole_RightHand: "right"}
        seen = []
        for index in range(openvr.k_unMaxTrackedDeviceCount):
            if system.getTrackedDeviceClass(index) != openvr.TrackedDeviceClass_Controller:
                continue
            serial = system.getStringTrackedDeviceProperty(index, openvr.Prop_SerialNumber_String)
            role = roles.get(system.getControllerRoleForTrackedDeviceIndex(index), "no hand")
            if config.serial == serial or (not config.serial and config.role == role):
                return index
            seen.append(f"{serial} ({role})")
        wanted = f"serial {config.serial}" if config.serial else f"the {config.role} hand"
        raise DiwaError(f"no VIVE controller of {wanted}; SteamVR sees: {', '.join(seen) or 'none, switch one on'}")


def open_vive(config: ViveConfig) -> Vive:
    """The calibrated controller. Raises `DiwaError` without openvr, SteamVR, that controller or a calibration."""
    vive = Vive(config, import_openvr())
    try:
        vive.yaw = load_yaw(calibration_path(config))
    except DiwaError:
        vive.close()
        raise
    return vive


def calibrate(vive: Vive, path: Path, ask: Callable[[str], object]) -> Calibration:
    """Find the yaw from two positions of the controller and store it. `ask` returns when the operator has done it.

    Raises `DiwaError` if the controller is not tracked, or was moved less than 10 cm in the horizontal plane.
    """
    ask("hold the controller still and press Enter ")
    start = vive.position()
    ask("move it 10 cm or more straight along the robot's +x (forward), hold it still and press Enter ")
    found = find_yaw(start, vive.position())
    write_json(path, {"yaw": found.yaw})
    return found


def find_yaw(start: np.ndarray, end: np.ndarray) -> Calibration:
    """The yaw from two positions (3,) of a controller moved along the robot's +x.

    Raises `DiwaError` if they are less than 10 cm apart in the horizontal plane.
    """
    found = Calibration(*yaw_of(end - start))
    if not found.baseline >= SHORTEST_BASELINE:
        raise DiwaError(
            f"the controller moved {100 * found.baseline:.1f} cm in the horizontal plane: move it at least "
            f"{100 * SHORTEST_BASELINE:.0f} cm straight along the robot's +x (forward), then calibrate again"
        )
    return found


def load_yaw(path: Path) -> float:
    """The stored calibration. Raises `DiwaError` if there is none, or a damaged one."""
    if not path.is_file():
        raise DiwaError(f"no calibration at {path}: run `diwa calibrate` first")
    yaw = read_object(path, "run `diwa calibrate` again").get("yaw")
    if not isinstance(yaw, int | float) or isinstance(yaw, bool) or not np.isfinite(yaw):
        raise DiwaError(f"{path} holds yaw {yaw!r:.100}: run `diwa calibrate` again")
    return float(yaw)


def calibration_path(config: ViveConfig) -> Path:
    """The file of the yaw between tracking room and robot."""
    return expanded(config.calibration) if config.calibration else home() / "vive.json"


def import_openvr() -> Any:
    """The module. Raises `DiwaError` if it is not installed, or its library does not load on this machine."""
    try:
        import openvr
    except (ImportError, OSError) as error:
        raise NoSteamVR(f"{error}; a VIVE needs openvr: {how_to_install('vive')}") from error
    return openvr


def _connect(openvr: Any) -> Any:
    """The running SteamVR; never starts one, never waits for more than 2.5 s. Raises `DiwaError` if there is none."""
    outcome: list[Any] = []

    def connect() -> None:
        try:
            outcome.append(openvr.init(openvr.VRApplication_Background))
        except openvr.OpenVRError as error:
            outcome.append(error)

    thread = threading.Thread(target=connect, daemon=True, name="openvr")  # it cannot be interrupted
    thread.start()
    thread.join(_PATIENCE)
    if not outcome:
        raise NoSteamVR("it does not answer", "restart it")
    if isinstance(outcome[0], openvr.OpenVRError):
        raise NoSteamVR(type(outcome[0]).__name__) from outcome[0]
    return outcome[0]
