"""Recording episodes as rosbag2 folders (MCAP + zstd, or sqlite3), without ROS.

A killed recorder leaves only a hidden `.recording-*` folder, which `diwa recover` salvages. Beside the bag lies
`episode.json` (counts, true rates, largest gaps, labels, spec, software version).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diwa_data.errors import DiwaError, unknown
from diwa_data.files import require_free
from diwa_data.images import require_record_size
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.bag_writer import Backend, BagWriter, RosbagsBackend, Storage, next_name
from diwa_data.recording.marks import MARKS
from diwa_data.recording.sidecar import Sidecar, TopicStatistics
from diwa_data.spec import Spec
from diwa_data.teleop.clutch import ControllerState, TeleopConfig
from diwa_data.teleop.devices import DeviceConfig

EVENTS = ("start", "stop", *MARKS, "discard")
DISCARDED = ".discarded-"
"""Finished episodes that were discarded are renamed to this and their name."""
_DISK_CHECK_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class RecordConfig:
    """`diwa record`: skill, amount, operator and device."""

    device: Literal["scripted", "keyboard", "webxr", "vive"] = "scripted"
    """Device that the operator holds; `scripted` needs no person."""
    skill: str = ""
    """Skill to demonstrate: any name; for the scripted operator a simulated task. Empty = play."""
    episodes: int = 50
    """Number of demonstrations to record, with a skill."""
    minutes: float = 360.0
    """Minutes of play to record, without a skill."""
    tasks: tuple[str, ...] = ()
    """Simulated tasks that the scripted operator tries in play, beside the paper's eight."""
    task_share: float = 0.5
    """Share of play that goes to `tasks`, from 0 to 1."""
    episode_seconds: float = 120.0
    """Length of the longest episode, in seconds; play is cut into episodes of this length."""
    storage: Storage = "mcap"
    """Storage format of rosbag2."""
    keep_failed: bool = True
    """Keep the scripted operator's failed tries, marked, as NAME-failed-TRY. World model and classifier learn from
    them. They do not count as `episodes`."""
    failures: int = 0
    """Attempts at the skill that the scripted operator spoils on purpose, kept and marked as failed-NUMBER.
    They show what only looks like a success, and do not count as `episodes`."""
    workers: int = 2
    """Episodes recorded at the same time (simulated robot only)."""
    seed: int = 0
    """Seed of start states and scripted operator."""
    operator: str = ""
    """Name of the person who records, for the labels; empty = the device's name."""
    teleop: TeleopConfig = field(default_factory=TeleopConfig)
    """Clutch and motion limits."""
    devices: DeviceConfig = field(default_factory=DeviceConfig)
    """Settings of the devices that a person holds."""


class Refusal(str):
    """Line for the operator when nothing was done, with the reason."""


class EpisodeRecorder:
    """Episodes in `folder`, one after another: each is started, marked, and stopped or discarded. A context manager.

    The robot's node and the simulator record through it. All times are seconds; `stamp` is when a value was measured,
    `received` when it arrived here: the bag's order and the dataset's clock. Write target, gripper command, pose and
    joints before the first images, so that the first tick knows them.
    """

    def __init__(
        self,
        folder: Path,
        spec: Spec,
        storage: Storage = "mcap",
        min_free_mb: float = 300.0,
        backend: Callable[[Path, Storage], Backend] = RosbagsBackend,
    ):
        """Episodes become `folder/<name>`. Below `min_free_mb` of free disk nothing more is recorded."""
        self.folder, self.spec = Path(folder), spec
        self.labels: dict[str, Any] = {}
        """Labels of the episodes that an operator's `start` begins."""
        self.finished: list[Path] = []
        """Episodes that were finished here and not discarded since."""
        self._storage, self._min_free_mb, self._backend = storage, min_free_mb, backend
        self._cameras = {camera.name: camera for camera in spec.cameras}
        self._bag: BagWriter | None = None
        self._begun = self._disk_checked = 0.0

    @property
    def recording(self) -> bool:
        """An episode is running."""
        return self._bag is not None

    @property
    def episode(self) -> str:
        """Name of the running episode; empty between two."""
        return self._bag.path.name if self._bag else ""

    @property
    def next_name(self) -> str:
        """Name of the next episode, unless it is given one: the first free number."""
        return next_name(self.folder)

    def seconds(self, now: float) -> float:
        """Length of the running episode; 0 between two."""
        return now - self._begun if self._bag else 0.0

    def statistics(self, topic: str) -> TopicStatistics | None:
        """Counts of a topic in the running episode; None if nothing came on it."""
        return self._bag.sidecar.topics.get(topic) if self._bag else None

    def event(self, name: str, received: float) -> str:
        """Do what an operator asks for: start, stop, success, fail or discard. Returns a line that says what was done.

        It is a `Refusal` if nothing was.
        Between two episodes `discard` sets the last finished one aside, and success or failure is marked at its end.
        Raises `DiwaError` if no episode can start.
        """
        if name not in EVENTS:
            raise unknown("episode event", name, EVENTS)
        if name == "discard":
            return self._discard_last() if self._bag is None else f"discarded {self.discard()}"
        if name == "start":
            if self._bag:
                return Refusal(f"{self.episode} is being recorded already")
            self.start(received, self.labels)
            return f"recording {self.episode}"
        if self._bag is None:
            return self._mark_last(name) if name in MARKS else Refusal("nothing is being recorded")
        seconds, said = self.seconds(received), self.episode
        if name in MARKS:
            self.mark(name, received)
            return f"{said}: {name} at {seconds:.1f} s"
        self.stop(received)
        return f"finished {said}, {seconds:.1f} s"

    def start(self, received: float, labels: dict[str, Any], name: str = "") -> None:
        """Begin an episode. `labels` must be JSON: source (play | demonstration), skill, seed, operator, free ones.

        `name` defaults to `next_name`. Raises `DiwaError` if it is taken or the disk is nearly full.
        """
        if self._bag is not None:
            raise DiwaError("an episode is being recorded already: stop or discard it first")
        self.folder.mkdir(parents=True, exist_ok=True)
        require_free(self.folder, self._min_free_mb)
        sidecar = Sidecar(self.spec, dict(labels), complete=False)
        self._bag = BagWriter(self.folder, name or self.next_name, sidecar, self._storage, self._backend)
        self._begun = received
        self.mark("start", received)

    def mark(self, event: str, received: float) -> None:
        """Write an event into the running episode."""
        self.write(messages.EPISODE_EVENT, received, messages.encode_string(event))
        self._require_bag().sidecar.events.append((event, received))

    def stop(self, received: float, name: str = "") -> Path:
        """Finish the episode and return its folder; only now does it appear, under another `name` if one is given."""
        self.mark("stop", received)
        bag, self._bag = self._require_bag(), None
        bag.path = bag.path.with_name(name or bag.path.name)
        self.finished.append(bag.finish())
        return self.finished[-1]

    def discard(self) -> str:
        """Delete the running episode, if there is one; returns its name."""
        name = self.episode
        if self._bag is not None:
            self._bag.discard()
            self._bag = None
        return name

    def write(self, topic: str, received: float, data: bytes | memoryview, message_type: str = "") -> None:
        """A serialised message; the types of our own topics are known. A full disk loses the episode: `DiwaError`."""
        try:
            self._require_bag().write(topic, message_type or messages.TYPES[topic], received, data)
        except BaseException:
            self._bag = None  # the writer has discarded it
            raise

    def require_free(self) -> None:
        """Raise `DiwaError` when the disk is nearly full, looked at once a second: stop the episode, and it is kept."""
        if time.monotonic() - self._disk_checked >= _DISK_CHECK_EVERY:
            require_free(self.folder, self._min_free_mb)
            self._disk_checked = time.monotonic()

    def image(self, name: str, image: np.ndarray, stamp: float, received: float) -> None:
        """An rgb image (H, W, 3) uint8 at the camera's `record_size`. Raises as `require_free` does."""
        if name not in self._cameras:
            raise DiwaError(f"camera {name!r} is not in the spec, which has {', '.join(self._cameras)}")
        require_record_size(image, self._cameras[name])
        data = messages.encode_image(image, stamp, f"{name}_camera")
        self.write(messages.image_topic(name), received, data, messages.IMAGE_TYPE)
        self.require_free()

    def pose(self, pose: Pose, stamp: float, received: float) -> None:
        """Measured hand pose."""
        self.write(messages.CURRENT_POSE, received, messages.encode_pose(pose, stamp))

    def target(self, pose: Pose, stamp: float, received: float) -> None:
        """Commanded hand pose."""
        self.write(messages.TARGET_POSE, received, messages.encode_pose(pose, stamp))

    def joints(
        self, names: list[str], positions: np.ndarray, velocities: np.ndarray, stamp: float, received: float
    ) -> None:
        """Arm and fingers, rad and m. Gripper width is the sum of the joints that have `finger` in their name."""
        self.write(messages.JOINT_STATES, received, messages.encode_joints(names, positions, velocities, stamp))

    def gripper(self, value: float, received: float) -> None:
        """Gripper command, +1 open or -1 close: at the start, on edges and at 1 Hz."""
        self.write(messages.GRIPPER_COMMAND, received, messages.encode_float(value))

    def controller(self, state: ControllerState, stamp: float, received: float) -> None:
        """The raw controller: its pose, and a Joy of axes [trigger] and buttons [deadman, valid]."""
        self.write(messages.CONTROLLER_POSE, received, messages.encode_pose(state.pose, stamp))
        joy = messages.encode_joy(np.array([state.trigger]), np.array([state.deadman, state.valid]), stamp)
        self.write(messages.CONTROLLER_JOY, received, joy)

    def scene_state(self, vector: np.ndarray, received: float) -> None:
        """Scene state of the simulated robot, in the order of `spec.scene_state`."""
        self.write(messages.SCENE_STATE, received, messages.encode_vector(vector))

    def __enter__(self) -> EpisodeRecorder:
        return self

    def __exit__(self, *_: object) -> None:
        """An episode that was not stopped is discarded."""
        self.discard()

    def _discard_last(self) -> str:
        if not self.finished:
            return Refusal("nothing to discard in this session")
        last = self.finished.pop()
        aside = last.with_name(f"{DISCARDED}{last.name}-{time.time_ns()}")
        os.replace(last, aside)
        return f"discarded {last.name}; it is kept as {aside.name}"

    def _mark_last(self, name: str) -> str:
        """Mark the last finished episode at its end; a success only where nothing is marked, for it is imitated."""
        if not self.finished:
            return Refusal("nothing is being recorded; mark a finished episode with 'diwa annotate'")
        last = self.finished[-1]
        sidecar = Sidecar.read(last)
        if sidecar.outcome == name or (name == "success" and sidecar.outcome != "none"):
            return Refusal(f"{last.name} is marked {sidecar.outcome} already; correct it with 'diwa annotate {last}'")
        sidecar.annotate(name, sidecar.mark("stop"))  # type: ignore[arg-type]
        sidecar.write(last)
        return f"{last.name}: {name} at its end; when it was can be mended with 'diwa annotate {last}'"

    def _require_bag(self) -> BagWriter:
        if self._bag is None:
            raise DiwaError("no episode is being recorded: call start first")
        return self._bag
