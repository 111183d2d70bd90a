"""Recording episodes as rosbag2 folders (MCAP + zstd, or sqlite3), without ROS.

A killed recorder leaves only a hidden `.recording-*` folder, which `diwa recover` salvages. Beside the bag lies
`episode.json` (counts, true rates, largest gaps, labels, spec, software version).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diwa_data.errors import DiwaError, unknown
from diwa_data.files import require_free
from diwa_data.images import require_record_size
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.bag_writer import BagWriter, Storage, next_name
from diwa_data.recording.sidecar import Sidecar
from diwa_data.spec import Spec
from diwa_data.teleop.clutch import ControllerState, TeleopConfig
from diwa_data.teleop.config import DeviceConfig

EVENTS = ("start", "stop", "success", "discard")

_DISK_CHECK_EVERY = 30  # images


@dataclass(frozen=True)
class RecordConfig:
    """`diwa record`: what is recorded, how much of it, and how."""

    device: Literal["scripted", "keyboard", "webxr", "vive"] = "scripted"
    """Who holds the controller."""
    skill: str = ""
    """Skill to demonstrate; empty records play."""
    episodes: int = 50
    """Demonstrations to record (with a skill)."""
    minutes: float = 360.0
    """Minutes of play to record (without a skill)."""
    episode_seconds: float = 120.0
    """Longest episode, seconds; play is cut into episodes of this length."""
    storage: Storage = "mcap"
    """rosbag2 storage."""
    workers: int = 2
    """Episodes recorded at the same time (simulated robot only)."""
    seed: int = 0
    """Start states and the scripted operator."""
    operator: str = ""
    """Who recorded; goes into the labels. Empty = the device's name."""
    teleop: TeleopConfig = field(default_factory=TeleopConfig)
    """Clutch and motion limits."""
    devices: DeviceConfig = field(default_factory=DeviceConfig)
    """Settings of the devices that a person holds."""


class EpisodeRecorder:
    """Writes one episode after another into `folder`; a context manager; all times in seconds.

    `stamp` is when a value was measured, `received` when it arrived here: the bag's order and the dataset's clock.
    Publish target, gripper command, pose and joints before the first images, so that the first tick knows them.
    """

    def __init__(self, folder: Path, spec: Spec, storage: Storage = "mcap", min_free_mb: float = 300.0):
        """Episodes become `folder/<name>`. Below `min_free_mb` of free disk nothing more is recorded."""
        self.folder = Path(folder)
        self.spec = spec
        self._storage = storage
        self._min_free_mb = min_free_mb
        self._cameras = {camera.name: camera for camera in spec.cameras}
        self._images = 0
        self._bag: BagWriter | None = None

    @property
    def recording(self) -> bool:
        """Between `start` and `stop` or `discard`."""
        return self._bag is not None

    def start(self, labels: dict[str, Any], name: str | None = None) -> None:
        """Begin an episode. `labels` must be JSON: source (play | demonstration), skill, seed, operator, free ones.

        `name` defaults to the next free number. Raises `DiwaError` if it is taken or the disk is nearly full.
        """
        if self._bag is not None:
            raise DiwaError("an episode is being recorded already: stop or discard it first")
        self.folder.mkdir(parents=True, exist_ok=True)
        require_free(self.folder, self._min_free_mb)
        sidecar = Sidecar(self.spec, dict(labels), complete=False)
        self._bag = BagWriter(self.folder, name or next_name(self.folder), sidecar, self._storage)

    def image(self, name: str, image: np.ndarray, stamp: float, received: float) -> None:
        """An rgb image (H, W, 3) uint8 at the camera's `record_size`.

        Raises `DiwaError` when the disk is nearly full; the episode can still be stopped, and is then kept.
        """
        if name not in self._cameras:
            raise DiwaError(f"camera {name!r} is not in the spec, which has {', '.join(self._cameras)}")
        require_record_size(image, self._cameras[name])
        data = messages.encode_image(image, stamp, f"{name}_camera")
        self._write(messages.image_topic(name), received, data, messages.IMAGE_TYPE)
        self._images += 1
        if self._images % _DISK_CHECK_EVERY == 0:
            require_free(self.folder, self._min_free_mb)

    def pose(self, pose: Pose, stamp: float, received: float) -> None:
        """Measured hand pose."""
        self._write(messages.CURRENT_POSE, received, messages.encode_pose(pose, stamp))

    def target(self, pose: Pose, stamp: float, received: float) -> None:
        """Commanded hand pose."""
        self._write(messages.TARGET_POSE, received, messages.encode_pose(pose, stamp))

    def joints(
        self, names: list[str], positions: np.ndarray, velocities: np.ndarray, stamp: float, received: float
    ) -> None:
        """Arm and fingers, rad and m. Gripper width is the sum of the joints that have `finger` in their name."""
        self._write(messages.JOINT_STATES, received, messages.encode_joints(names, positions, velocities, stamp))

    def gripper(self, value: float, received: float) -> None:
        """Gripper command, +1 open or -1 close: at the start, on edges and at 1 Hz."""
        self._write(messages.GRIPPER_COMMAND, received, messages.encode_float(value))

    def controller(self, state: ControllerState, stamp: float, received: float) -> None:
        """The raw controller: its pose, and a Joy of axes [trigger] and buttons [deadman, valid]."""
        self._write(messages.CONTROLLER_POSE, received, messages.encode_pose(state.pose, stamp))
        joy = messages.encode_joy(np.array([state.trigger]), np.array([state.deadman, state.valid]), stamp)
        self._write(messages.CONTROLLER_JOY, received, joy)

    def scene_state(self, vector: np.ndarray, received: float) -> None:
        """Scene state of the simulated robot, in the order of `spec.scene_state`."""
        self._write(messages.SCENE_STATE, received, messages.encode_vector(vector))

    def event(self, name: str, received: float) -> None:
        """Operator event: start, stop, success or discard."""
        if name not in EVENTS:
            raise unknown("episode event", name, EVENTS)
        self._write(messages.EPISODE_EVENT, received, messages.encode_string(name))
        self._require_bag().sidecar.events.append((name, received))

    def stop(self) -> Path:
        """Finish the episode and return its folder; only now does it appear."""
        bag, self._bag = self._require_bag(), None
        return bag.finish()

    def discard(self) -> None:
        """Throw the running episode away, if there is one."""
        if self._bag is not None:
            self._bag.discard()
            self._bag = None

    def __enter__(self) -> EpisodeRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        """An episode that was not stopped is discarded."""
        self.discard()

    def _write(self, topic: str, received: float, data: memoryview, message_type: str | None = None) -> None:
        try:
            self._require_bag().write(topic, message_type or messages.TYPES[topic], received, data)
        except BaseException:
            self._bag = None  # the writer has discarded it
            raise

    def _require_bag(self) -> BagWriter:
        if self._bag is None:
            raise DiwaError("no episode is being recorded: call start first")
        return self._bag
