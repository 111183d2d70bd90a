"""Teleoperation: a held clutch turns controller motion into absolute targets within the motion limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from diwa_data import quaternions
from diwa_data.errors import DiwaError
from diwa_data.interpolator import Interpolator
from diwa_data.limits import MotionLimits
from diwa_data.motion import is_finite
from diwa_data.pose import Pose
from diwa_data.spec import Spec

GRIPPER_REPEAT = 1.0
"""Seconds between repeated gripper commands; edges are sent at once."""


@dataclass(frozen=True)
class TeleopConfig:
    """How the controller's motion moves the robot."""

    limits: MotionLimits = field(default_factory=MotionLimits)
    """Workspace, speeds, lead and tilt."""
    rate: float = 60.0
    """Targets per second."""
    max_jump: float = 0.05
    """Metres of controller motion in one step at which the clutch releases (a tracking jump)."""
    max_turn: float = 0.5
    """Radians of controller rotation in one step at which the clutch releases."""
    trigger_threshold: float = 0.1
    """Trigger value above which the gripper closes, from 0 to 1."""


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


@dataclass(frozen=True, eq=False)
class Command:
    """The command to the arm at one teleoperation step."""

    target: Pose
    """Absolute target in the base frame, after all limits."""
    gripper: float
    """+1 open, -1 close."""
    interventions: tuple[str, ...] = ()
    """Limits that changed the target: jump, finite, workspace, tilt, lead, ramp."""


class Clutch:
    """Hold to move. Pressing anchors the controller to where the target rests, so nothing ever jumps.

    A controller that jumps by more than `max_jump` metres or `max_turn` rad in one step, a pose that is not finite or
    an invalid reading releases the clutch until the deadman is pressed again.
    """

    def __init__(self, max_jump: float, max_turn: float):
        self._max_jump, self._max_turn = max_jump, max_turn
        self._anchor: tuple[Pose, Pose] | None = None
        self._last: Pose
        self._must_release = False
        self.jumped = False
        """The last step released it because the controller jumped."""

    def reset(self) -> None:
        """Release; a deadman that is held must be pressed again."""
        self._anchor = None
        self._must_release = True

    def step(self, controller: ControllerState, commanded: Pose) -> Pose | None:
        """The pose in which the operator wants the hand, given where the target rests; None while released."""
        self.jumped = False
        if not controller.deadman:
            self._anchor, self._must_release = None, False
        if not controller.deadman or self._must_release:
            return None
        if not controller.valid or not is_finite(controller.pose):
            self.reset()
            return None
        if self._anchor is None:
            self._anchor = (controller.pose, commanded)
        elif self._far(controller.pose):
            self.reset()
            self.jumped = True
            return None
        self._last = controller.pose
        start, hand = self._anchor
        position = hand.position + controller.pose.position - start.position
        turn = quaternions.difference(start.quaternion.tolist(), controller.pose.quaternion.tolist())
        return Pose.from_unit(position, quaternions.product(turn, hand.quaternion.tolist()))

    def _far(self, pose: Pose) -> bool:
        metres = float(np.linalg.norm(pose.position - self._last.position))
        turn = quaternions.difference(self._last.quaternion.tolist(), pose.quaternion.tolist())
        return metres > self._max_jump or quaternions.angle(turn) > self._max_turn


class Teleoperator:
    """Controller readings in, published targets out, one a step."""

    def __init__(self, spec: Spec, config: TeleopConfig, rate: float | None = None):
        """`rate`: steps per second, Hz; None takes `config.rate`.

        Raises `DiwaError` if the speed limits exceed what one action of `spec` can express.
        """
        _check_speed("max_speed", config.limits.max_speed, spec.action.max_pos, "max_pos", spec)
        _check_speed("max_rotation_speed", config.limits.max_rotation_speed, spec.action.max_rot, "max_rot", spec)
        self._config = config
        self._clutch = Clutch(config.max_jump, config.max_turn)
        self._interpolator = Interpolator(config.limits.within(spec), rate or config.rate)
        self._gripper = 1.0

    @property
    def target(self) -> Pose | None:
        """Commanded last; None before the first `reset`."""
        return self._interpolator.target

    @property
    def at_rest(self) -> bool:
        """Nothing has been commanded yet, or the target stands still and the clutch is released."""
        return self._interpolator.target is None or self._interpolator.at_rest

    @property
    def is_left(self) -> bool:
        """Something else has moved the arm away from the target."""
        return self._interpolator.is_left

    def reset(self, pose: Pose, gripper: float) -> None:
        """Rest at `pose` with this gripper command; the operator must press the deadman again.

        Raises `DiwaError` if the pose is outside of the workspace or the tilt limit.
        """
        self._clutch.reset()
        self._interpolator.reset(pose)
        self._gripper = gripper

    def step(self, controller: ControllerState, measured: Pose) -> Command:
        """The next command. `reset` must have been called."""
        wanted = self._clutch.step(controller, self._interpolator.rest)
        interventions: tuple[str, ...] = ("jump",) if self._clutch.jumped else ()
        if wanted is not None:
            interventions += self._interpolator.track(wanted)
        else:
            self._interpolator.hold()
        motion = self._interpolator.step(measured)
        if controller.valid:
            self._gripper = -1.0 if controller.trigger > self._config.trigger_threshold else 1.0
        return Command(motion.pose, self._gripper, interventions + motion.interventions)

    def brake(self) -> Command:
        """The next command of a target that brakes, whatever the controller does."""
        self._clutch.reset()
        self._interpolator.hold()
        return Command(self._interpolator.step().pose, self._gripper)


def _check_speed(name: str, speed: float, full_scale: float, scale_name: str, spec: Spec) -> None:
    if speed * spec.tick > math.sqrt(3) * full_scale * 1.01:
        raise DiwaError(
            f"teleop limits.{name} {speed:g}/s is {speed * spec.tick / math.sqrt(3):.3g} per axis and tick at "
            f"{spec.rate:g} Hz, more than spec.action.{scale_name} {full_scale:g}: every fast action would be clipped; "
            f"lower {name}"
        )
