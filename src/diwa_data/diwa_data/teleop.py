"""Teleoperation: a held clutch turns controller motion into absolute targets within the motion limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.motion import MotionLimits, is_finite, limit_motion
from diwa_data.pose import Pose
from diwa_data.spec import Spec

GRIPPER_REPEAT = 1.0
"""Seconds between repeated gripper commands; edges are sent at once."""


@dataclass(frozen=True)
class TeleopConfig:
    """How a controller drives the robot."""

    limits: MotionLimits = field(default_factory=MotionLimits)
    """Workspace, speeds, lead and tilt."""
    rate: float = 60.0
    """Targets per second, Hz."""
    max_jump: float = 0.05
    """Metres of controller motion in one step that release the clutch (a tracking jump)."""
    trigger_threshold: float = 0.1
    """Trigger values above it close the gripper."""


@dataclass(frozen=True, eq=False)
class ControllerState:
    """One reading of a controller, its axes already turned into the robot's base frame."""

    pose: Pose
    """Controller pose; only its motion matters, never where it is."""
    deadman: bool
    """The clutch is held: move."""
    trigger: float
    """0 released .. 1 pulled; pulled closes the gripper."""
    events: tuple[str, ...] = ()
    """Operator events since the last reading: start, stop, success, discard."""
    valid: bool = True
    """False on lost tracking or frozen buttons: the clutch releases and the gripper keeps its command."""


class Device(Protocol):
    """Anything that reads like a VR controller: vive, keyboard, webxr or the scripted operator."""

    def read(self) -> ControllerState:
        """The controller now."""


@dataclass(frozen=True, eq=False)
class Command:
    """What the arm is told at one teleoperation step."""

    target: Pose
    """Absolute target in the base frame, after all limits."""
    gripper: float
    """+1 open, -1 close."""
    interventions: tuple[str, ...] = ()
    """Limits that changed the target: jump, finite, workspace, tilt, speed, lead."""


class ClutchStep(NamedTuple):
    """Where the operator wants the hand."""

    desired: Pose
    jumped: bool


class Clutch:
    """Hold to move. Pressing anchors the controller to the last commanded target, so nothing ever jumps.

    A controller jump of more than `max_jump` in one step, a pose that is not finite or an invalid reading
    releases the clutch until the deadman is pressed again.
    """

    def __init__(self, max_jump: float):
        self._max_jump = max_jump
        self._anchor: tuple[Pose, Pose] | None = None
        self._last = np.zeros(3)
        self._must_release = False

    @property
    def engaged(self) -> bool:
        """The hand follows the controller."""
        return self._anchor is not None

    def reset(self) -> None:
        """Release; a deadman that is held must be pressed anew."""
        self._anchor = None
        self._must_release = True

    def step(self, controller: ControllerState, commanded: Pose) -> ClutchStep:
        """The desired hand pose, given the last commanded target; `commanded` itself while released."""
        if not controller.deadman:
            self._anchor, self._must_release = None, False
            return ClutchStep(commanded, False)
        if self._must_release:
            return ClutchStep(commanded, False)
        if not controller.valid or not is_finite(controller.pose):
            self.reset()
            return ClutchStep(commanded, False)
        if self._anchor is None:
            self._anchor = (controller.pose, commanded)
        elif np.linalg.norm(controller.pose.position - self._last) > self._max_jump:
            self.reset()
            return ClutchStep(commanded, True)
        self._last = controller.pose.position
        start, hand = self._anchor
        position = hand.position + controller.pose.position - start.position
        rotation = controller.pose.rotation * start.rotation.inv() * hand.rotation
        return ClutchStep(Pose(position, rotation), False)


class Teleoperator:
    """Controller readings in, limited commands out, at `config.rate`."""

    def __init__(self, spec: Spec, config: TeleopConfig):
        """Raises `DiwaError` if the speed limits exceed what one action of `spec` can express."""
        _check_speed("max_speed", config.limits.max_speed, spec.action.max_pos, "max_pos", spec)
        _check_speed("max_rotation_speed", config.limits.max_rotation_speed, spec.action.max_rot, "max_rot", spec)
        self._config = config
        self._clutch = Clutch(config.max_jump)
        self._target: Pose | None = None
        self._gripper = 1.0

    def reset(self, measured: Pose, gripper: float) -> None:
        """Start from the measured pose and gripper command; the operator must press the deadman anew."""
        self._clutch.reset()
        self._target = measured
        self._gripper = gripper

    def step(self, controller: ControllerState, measured: Pose, dt: float) -> Command:
        """The command `dt` seconds after the last one. `reset` must have been called."""
        if self._target is None:
            raise RuntimeError("Teleoperator.step before reset")
        wanted = self._clutch.step(controller, self._target)
        limited = limit_motion(self._target, wanted.desired, measured, dt, self._config.limits)
        self._target = limited.pose
        if controller.valid:
            self._gripper = -1.0 if controller.trigger > self._config.trigger_threshold else 1.0
        interventions = (("jump",) if wanted.jumped else ()) + limited.interventions
        return Command(self._target, self._gripper, interventions)


def _check_speed(name: str, speed: float, full_scale: float, scale_name: str, spec: Spec) -> None:
    if speed * spec.tick > full_scale * (1 + 1e-6):
        raise DiwaError(
            f"teleop limits.{name} {speed:g}/s is {speed * spec.tick:.3g} per tick at {spec.rate:g} Hz, more than "
            f"spec.action.{scale_name} {full_scale:g}: every fast action would be clipped; lower {name}"
        )
