"""The contract between robot, recordings, datasets, checkpoints and deployment.

It travels robot config -> bag -> HDF5 attributes -> checkpoint -> node as JSON; a mismatch anywhere is an
error that names the field and both values.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import parse_json
from diwa_data.limits import MotionLimits, widest

MAX_RECORD_SIZE = 4096
"""Largest height and width of recorded images, pixels."""
MAX_SIZE = 1024
"""Largest height and width in datasets and networks, pixels."""
MAX_RATE = 1000.0
"""Highest rate, Hz."""
MAX_CAMERAS = 4
"""Most cameras of one robot."""
NETWORK_SIDES = (48, 64, 80, 96, 112, 128)
"""Heights and widths of images that the world model's convolutions neither crop nor pad, pixels."""
RESERVED = ("state", "action", "success", "stamp", "received", "scene_state", "executed", "target")
"""Names of a dataset's rows and of an environment's observations that no camera can have."""
_STATE_PARTS = {"position": 3, "rotation_6d": 6, "gripper_width": 1}
STATE = tuple(_STATE_PARTS)
"""Parts of the state of a robot with a gripper."""
_NAME = re.compile("[A-Za-z][A-Za-z0-9_]{0,63}")
_NAME_RULE = f"letters, digits and '_', none of {', '.join(RESERVED)}"

A = TypeVar("A", bound=Any)


def _require(right: bool, name: str, value: Any, wanted: str) -> None:
    if not right:
        raise DiwaError(f"spec.{name} is {value!r}, but must be {wanted}")


def require_names(names: Sequence[str], where: str) -> None:
    """Raise `DiwaError` unless one to four cameras have one name each; `where` names the list in errors."""
    listed = ", ".join(names)
    if not 1 <= len(names) <= MAX_CAMERAS:
        raise DiwaError(f"{where} names {len(names) or 'no'} cameras{listed and f' ({listed})'}: there must be 1 to 4")
    for name in names:
        if names.count(name) > 1:
            raise DiwaError(f"{where} names {name!r} twice ({listed}): each camera needs a name of its own")


@dataclass(frozen=True)
class CameraSpec:
    """One camera: what is recorded and what the networks see."""

    name: str
    """Name of its stream, of the lab's choosing: the paper's are `static`, which looks at the scene, and `gripper`, on
    the wrist."""
    record_size: tuple[int, int] = (200, 200)
    """Height and width of the recorded rgb8 image, pixels."""
    crop: tuple[int, int, int, int] | None = None
    """Top, left, height, width cut from the driver's image before it is resized to `record_size`; None = all."""
    size: tuple[int, int] = (64, 64)
    """Height and width in datasets and networks, pixels."""

    def __post_init__(self) -> None:
        _require(bool(_NAME.fullmatch(self.name)) and self.name not in RESERVED, "cameras.name", self.name, _NAME_RULE)
        for field_, most in (("record_size", MAX_RECORD_SIZE), ("size", MAX_SIZE)):
            value = getattr(self, field_)
            _require(all(1 <= side <= most for side in value), f"cameras.{field_}", value, f"1 to {most} pixels a side")
        if self.crop is not None:
            fits = min(self.crop[:2]) >= 0 and all(1 <= side <= MAX_RECORD_SIZE for side in self.crop[2:])
            _require(fits, "cameras.crop", self.crop, "top, left, height and width of a part of an image")


@dataclass(frozen=True)
class ActionSpec:
    """Numbers in [-1, 1]: position delta, rotation delta, gripper if there is one (conventions in `diwa_data.pose`)."""

    max_pos: float = 0.04
    """Metres per step and axis at full scale."""
    max_rot: float = 0.1
    """Radians per step and axis at full scale."""
    frame: Literal["base", "world"] = "base"
    """Frame of poses and deltas: the robot's base, or a world in which the base stands elsewhere (CALVIN)."""
    rotation: Literal["extrinsic_xyz", "euler_difference"] = "extrinsic_xyz"
    """`extrinsic_xyz`: Euler angles of R' R^T; `euler_difference`: subtraction of Euler angles (CALVIN)."""
    gripper_open: float = 1.0
    """Sign that opens the gripper; values >= 0 open."""
    gripper: bool = True
    """The robot has a gripper; without one an action is 6 numbers and the state 9."""

    def __post_init__(self) -> None:
        for name in ("max_pos", "max_rot"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"action.{name}", value, "a positive number")
        _require(abs(self.gripper_open) == 1, "action.gripper_open", self.gripper_open, "1 or -1")

    @property
    def dim(self) -> int:
        """A: 7 numbers, or 6 without a gripper."""
        return 6 + self.gripper

    @property
    def state(self) -> tuple[str, ...]:
        """Parts of the robot's state: without a gripper the last is missing."""
        return STATE if self.gripper else STATE[:-1]

    @property
    def null(self) -> np.ndarray:
        """(A,) float32: no motion, gripper open. Stands before the first frame of every sequence."""
        return self.hold(self.gripper_open)

    def hold(self, gripper: float) -> np.ndarray:
        """(A,) float32: no motion, with this command to the gripper if there is one."""
        return np.array([0, 0, 0, 0, 0, 0, gripper][: self.dim], np.float32)

    def executed(self, action: A) -> A:
        """The executed form of a raw action (..., A), an array or a tensor: clipped, gripper +1 (a >= 0) or -1."""
        action = action.clip(-1.0, 1.0)
        if self.gripper:
            action[..., 6] = 2 * (action[..., 6] >= 0) - 1
        return action

    def gripper_command(self, action: Any) -> float:
        """The command to the gripper in an action (A,); open where there is none."""
        return float(action[6]) if self.gripper else self.gripper_open


@dataclass(frozen=True)
class Spec:
    """Everything that two parts of the system must agree on."""

    robot: str = "panda_sim"
    """Which robot and table: `panda_sim`, `calvin` or the lab's own name."""
    cameras: tuple[CameraSpec, ...] = (CameraSpec("static"), CameraSpec("gripper"))
    """The first one is the clock of the dataset."""
    action: ActionSpec = field(default_factory=ActionSpec)
    state: tuple[str, ...] = STATE
    """Parts of the robot state: 3 + 6 + 1 numbers; metres. Without a gripper there is no `gripper_width`."""
    record_rate: float = 30.0
    """Frames per second of recordings, Hz."""
    rate: float = 7.5
    """Control and dataset ticks per second, Hz."""
    inference_delay: float = 0.0
    """Nominal time from a frame's arrival to the command that answers it, seconds."""
    scene_state: tuple[str, ...] = ()
    """Names of the scene state's numbers; simulated robots only."""
    limits: MotionLimits | None = None
    """Motion limits in force while recording: dreams keep them too. None where they are not known: in recordings of
    others, and in older ones of ours."""

    def __post_init__(self) -> None:
        for name in ("rate", "record_rate"):
            value = getattr(self, name)
            _require(0 < value <= MAX_RATE, name, value, f"a rate above 0 and up to {MAX_RATE} Hz")
        _require(0 <= self.inference_delay < math.inf, "inference_delay", self.inference_delay, "a number from 0 up")
        why = f", as action.gripper is {str(self.action.gripper).lower()}"
        _require(self.state == self.action.state, "state", self.state, ", ".join(self.action.state) + why)
        ratio = self.record_rate / self.rate
        if abs(ratio - round(ratio)) > 1e-9 or ratio < 1:
            raise DiwaError(f"spec.rate {self.rate} Hz must divide spec.record_rate {self.record_rate} Hz")
        require_names([camera.name for camera in self.cameras], "spec.cameras")

    @property
    def action_dim(self) -> int:
        return self.action.dim

    @property
    def state_dim(self) -> int:
        return sum(_STATE_PARTS[part] for part in self.state)

    @property
    def frames_per_tick(self) -> int:
        """Recorded frames per control tick (4 at 30 and 7.5 Hz)."""
        return round(self.record_rate / self.rate)

    @property
    def tick(self) -> float:
        """Seconds per control tick."""
        return 1.0 / self.rate

    def to_json(self) -> str:
        """One line of JSON; `from_json` reads it back to an equal spec."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Spec:
        """Read a spec; `where` names the file in errors."""
        return cls.from_plain(parse_json(text, where, "the file is damaged or foreign"), where)

    @classmethod
    def from_plain(cls, values: Any, where: str) -> Spec:
        """The spec of values as JSON has them; `where` names the file in errors."""
        try:
            with damage_as_error(f"{where} is not a spec", "the file is damaged or foreign"):
                return from_mapping(cls, values, where)
        except DiwaError as error:
            raise DiwaError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error


_BLOCK_POSE = ("x", "y", "z", "rx", "ry", "rz")

CALVIN = Spec(
    robot="calvin",
    cameras=(CameraSpec("static", (200, 200)), CameraSpec("gripper", (84, 84))),
    action=ActionSpec(max_pos=0.02, max_rot=0.05, frame="world", rotation="euler_difference"),
    record_rate=30.0,
    rate=30.0,
    scene_state=(
        *("slider", "drawer", "button", "switch", "bulb", "led"),
        *(f"{colour}_{part}" for colour in ("red", "blue", "pink") for part in _BLOCK_POSE),
    ),
)
"""The contract of CALVIN's data and environment (docs/calvin.md). Scene state (24,): joints in metres, lights 0 or 1,
positions of the three blocks in metres and their extrinsic XYZ Euler angles in rad."""


def require_network_size(camera: CameraSpec, where: str = "") -> None:
    """Raise `DiwaError` unless the world model's convolutions take images of the camera's `size`."""
    if not {*camera.size} <= {*NETWORK_SIDES}:
        sides = ", ".join(map(str, NETWORK_SIDES[:-1]))
        raise DiwaError(
            f"{where}camera {camera.name!r} has size {camera.size[0]}x{camera.size[1]}; the world model takes images "
            f"of {sides} or {NETWORK_SIDES[-1]} pixels a side"
        )


def require_same(expected: Spec, actual: Spec, where: str, limits: bool = False) -> None:
    """Raise `DiwaError` naming every field of `actual` (found in `where`) that differs from `expected`.

    The motion limits may, unless `limits` is true: whoever narrows them for a first motion, or recorded on some days
    with others, has the same robot. `MotionLimits.compared` says how they differ.
    """
    actual = actual if limits else dataclasses.replace(actual, limits=expected.limits)
    differences = _differences("spec", dataclasses.asdict(expected), dataclasses.asdict(actual))
    if differences:
        lines = "; ".join(f"{path} is {b!r}, expected {a!r}" for path, a, b in differences)
        objects = "; sim.objects names the objects of a simulated scene" * (expected.scene_state != actual.scene_state)
        raise DiwaError(f"{where} was made for another robot or recording: {lines}{objects}")


def under_all_limits(specs: Sequence[Spec], where: str) -> Spec:
    """The contract of recordings that are used together: the first one's, with the widest limits of all.

    Says so where `where`, what they are, differ in their limits.
    """
    known = {spec.limits for spec in specs if spec.limits}
    if len(known) > 1:
        print(f"{where} were recorded under {len(known)} different motion limits: the widest are used")
    return dataclasses.replace(specs[0], limits=widest(known))


def _differences(path: str, expected: Any, actual: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        return [d for key in expected for d in _differences(f"{path}.{key}", expected[key], actual.get(key))]
    if isinstance(expected, tuple) and isinstance(actual, tuple) and len(expected) == len(actual):
        return [
            d for i, (a, b) in enumerate(zip(expected, actual, strict=True)) for d in _differences(f"{path}[{i}]", a, b)
        ]
    return [] if expected == actual else [(path, expected, actual)]
