"""Settings of every device: plain values only, so that each is a flag of `diwa record` and a ROS parameter as well."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class KeyboardConfig:
    """How fast keys move the hand."""

    speed: float = 0.12
    """Metres per second while a key is held."""
    turn_speed: float = 0.5
    """Radians per second while a key is held."""
    hold: float = 0.15
    """Seconds for which a key counts as held after the terminal told of it; longer than its repeat interval."""


@dataclass(frozen=True)
class ViveConfig:
    """Which controller, and how the tracking room lies to the robot."""

    serial: str = ""
    """Serial number of the controller (`LHR-...`); empty takes the one of `role`."""
    role: str = "right"
    """Hand that the controller is assigned to in SteamVR: left or right."""
    calibration: str = ""
    """File with the yaw that `diwa calibrate` found; empty is `$DIWA_HOME/vive.json` (default `~/.diwa`)."""
    frozen_after: float = 0.5
    """Seconds without a new button packet after which the clutch releases."""


@dataclass(frozen=True)
class WebXRConfig:
    """The page that a phone, a headset or any browser drives the robot from."""

    host: str = ""
    """Address to listen at; empty listens at all of this machine's and prints the one of the local network."""
    port: int = 8443
    """TCP port; 0 takes any free one."""
    stale_after: float = 0.1
    """Seconds without a fresh message after which the clutch releases."""
    speed: float = 0.12
    """Metres per second of the page's jog buttons."""
    turn_speed: float = 0.5
    """Radians per second of the page's jog buttons."""
    folder: str = ""
    """Folder of the certificate; empty is `$DIWA_HOME/webxr` (default `~/.diwa`)."""


@dataclass(frozen=True)
class DeviceConfig:
    """One section a device."""

    vive: ViveConfig = field(default_factory=ViveConfig)
    """HTC VIVE controller."""
    webxr: WebXRConfig = field(default_factory=WebXRConfig)
    """Phone, headset or browser."""
    keyboard: KeyboardConfig = field(default_factory=KeyboardConfig)
    """Keys in a terminal."""
