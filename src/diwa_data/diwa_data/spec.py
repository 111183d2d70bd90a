"""The contract between robot, recordings, datasets, checkpoints and deployment.

It travels robot config -> bag -> HDF5 attributes -> checkpoint -> node as JSON; a mismatch anywhere is an
error that names the field and both values.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError


@dataclass(frozen=True)
class CameraSpec:
    """One camera: what is recorded and what the networks see."""

    name: str
    """Stream name; `static` looks at the scene, `gripper` sits on the wrist."""
    record_size: tuple[int, int] = (200, 200)
    """Height and width of the recorded rgb8 image, pixels."""
    crop: tuple[int, int, int, int] | None = None
    """Top, left, height, width cut from the driver's image before it is resized to `record_size`; None = all."""
    size: tuple[int, int] = (64, 64)
    """Height and width in datasets and networks, pixels."""


@dataclass(frozen=True)
class ActionSpec:
    """Seven numbers in [-1, 1]: position delta, rotation delta, gripper (METHOD: actions; ROBOT: conventions)."""

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

    @property
    def dim(self) -> int:
        """Length of an action."""
        return 7

    @property
    def null(self) -> np.ndarray:
        """(7,) float32: no motion, gripper open. Stands before the first frame of every sequence."""
        return np.array([0, 0, 0, 0, 0, 0, self.gripper_open], np.float32)

    def executed(self, action: np.ndarray) -> np.ndarray:
        """What the robot executes of a raw action (..., 7): clipped to [-1, 1], gripper +1 (a >= 0) or -1."""
        action = np.clip(action, -1.0, 1.0)
        action[..., 6] = np.where(action[..., 6] >= 0, 1.0, -1.0)
        return action


@dataclass(frozen=True)
class Spec:
    """Everything that two parts of the system must agree on."""

    robot: str = "panda_sim"
    """Which robot and table: `panda_sim`, `calvin` or the lab's own name."""
    cameras: tuple[CameraSpec, ...] = (CameraSpec("static"), CameraSpec("gripper"))
    """The first one is the clock of the dataset."""
    action: ActionSpec = field(default_factory=ActionSpec)
    state: tuple[str, ...] = ("position", "rotation_6d", "gripper_width")
    """Parts of the robot state: 3 + 6 + 1 numbers; metres."""
    record_rate: float = 30.0
    """Frames per second of recordings, Hz."""
    rate: float = 7.5
    """Control and dataset ticks per second, Hz."""
    inference_delay: float = 0.0
    """Nominal time from a frame's arrival to the command that answers it, seconds."""
    scene_state: tuple[str, ...] = ()
    """Names of the scene state's numbers; simulated robots only."""

    def __post_init__(self) -> None:
        ratio = self.record_rate / self.rate
        if abs(ratio - round(ratio)) > 1e-9 or ratio < 1:
            raise DiwaError(f"spec.rate {self.rate} Hz must divide spec.record_rate {self.record_rate} Hz")
        if len({camera.name for camera in self.cameras}) != len(self.cameras) or not self.cameras:
            raise DiwaError(f"spec.cameras needs one entry per name, got {[c.name for c in self.cameras]}")

    @property
    def action_dim(self) -> int:
        return self.action.dim

    @property
    def state_dim(self) -> int:
        return sum({"position": 3, "rotation_6d": 6, "gripper_width": 1}[part] for part in self.state)

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
        try:
            return from_mapping(cls, json.loads(text), where)
        except json.JSONDecodeError as error:
            raise DiwaError(f"{where}: the spec is not JSON ({error}); the file is damaged or foreign") from error


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


def require_same(expected: Spec, actual: Spec, where: str) -> None:
    """Raise `DiwaError` naming every field of `actual` (found in `where`) that differs from `expected`."""
    differences = _differences("spec", dataclasses.asdict(expected), dataclasses.asdict(actual))
    if differences:
        lines = "; ".join(f"{path} is {b!r}, expected {a!r}" for path, a, b in differences)
        raise DiwaError(f"{where} was made for another robot or recording: {lines}")


def _differences(path: str, expected: Any, actual: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        return [d for key in expected for d in _differences(f"{path}.{key}", expected[key], actual.get(key))]
    if isinstance(expected, tuple) and isinstance(actual, tuple) and len(expected) == len(actual):
        return [
            d for i, (a, b) in enumerate(zip(expected, actual, strict=True)) for d in _differences(f"{path}[{i}]", a, b)
        ]
    return [] if expected == actual else [(path, expected, actual)]
