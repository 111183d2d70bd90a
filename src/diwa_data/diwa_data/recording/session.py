"""A recording session: serialised messages and operator events in, finished episodes out. ROS-free.

The recorder node only hands over what arrives. Between episodes nothing is written; the last message of latched
topics is kept, so that an episode knows them from its first moment. Times are seconds received.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_data.errors import DiwaError
from diwa_data.files import FolderLock, free_mb
from diwa_data.images import require_record_size
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import find_bags, is_bag
from diwa_data.recording.bag_writer import Backend, RosbagsBackend, Storage, tell_unfinished
from diwa_data.recording.messages import decode_value, require_frame
from diwa_data.recording.recorder import EpisodeRecorder
from diwa_data.recording.sidecar import Sidecar, TopicStatistics, slow_cameras
from diwa_data.spec import Spec, require_same

MAX_SILENCE = 1.5
"""Seconds without a message after which a required topic counts as silent."""
_MOST_KEPT = 100  # messages of a latched topic


@dataclass(frozen=True)
class Status:
    """The state of a session, for an operator once a second."""

    episode: str
    """Name of the running episode; empty between two."""
    seconds: float
    """Since it began; 0 between two."""
    finished: int
    """Episodes finished in this session."""
    free_mb: float
    """Free disk, megabytes."""
    minutes_left: float
    """Minutes until the disk is full, at the rate so far; infinite while unknown."""
    rates: dict[str, float]
    """Topic -> true messages per second since the last status."""
    silent: dict[str, float]
    """Required topics that are silent -> seconds since their last message; infinite if there was none."""

    def line(self) -> str:
        """All of it on one line."""
        what = f"episode {self.episode} {self.seconds:6.1f} s" if self.episode else "waiting to start"
        left = f", {self.minutes_left:.0f} min" if self.minutes_left < 1e6 else ""
        rates = "  ".join(f"{topic.removeprefix('/diwa/')} {rate:.1f}" for topic, rate in sorted(self.rates.items()))
        silent = f" | SILENT: {', '.join(sorted(self.silent))}" if self.silent else ""
        return f"{what} | {self.finished} finished | {self.free_mb / 1000:.1f} GB free{left} | Hz: {rates}{silent}"


class Session:
    """Episodes of one recorder; a context manager, which finishes a running episode when it ends.

    The folder is locked: two recorders never write into it at once.
    """

    def __init__(
        self,
        spec: Spec,
        folder: Path,
        labels: dict[str, Any],
        required: Sequence[str] = (),
        storage: Storage = "mcap",
        min_free_mb: float = 1000.0,
        base_frame: str = messages.BASE_FRAME,
        backend: Callable[[Path, Storage], Backend] = RosbagsBackend,
    ):
        """Record into `folder`; episodes that lie there already are kept.

        `labels`: of every episode (source: play | demonstration, skill, operator, free ones). `required`: topics
        that must be published for an episode to start. `min_free_mb`: free disk below which an episode is stopped, and
        none is started. `base_frame`: frame in which measured and target poses must be. Raises `DiwaError` if the
        folder is in use, holds episodes of another spec, or has too little free space.
        """
        self.spec = spec
        self._folder, self._min_free_mb = folder, min_free_mb
        self._configured, self._required, self._base_frame = labels, required, base_frame
        self._lock = FolderLock(folder)
        self.unfinished = tell_unfinished(folder)
        """A line about episodes that killed recorders left here, and how to save them; empty if there are none."""
        self._recorder = EpisodeRecorder(folder, spec, storage, min_free_mb, backend)
        self._recorder.labels = labels
        infos = [messages.camera_info_topic(camera.name) for camera in spec.cameras]
        self._latched: dict[str, list[tuple[str, bytes]]] = {topic: [] for topic in (messages.GRIPPER_COMMAND, *infos)}
        self._kept_whole: set[str] = set()
        self._cameras = {messages.image_topic(camera.name): camera for camera in spec.cameras}
        self._bytes, self._recorded, self._last = 0, 0.0, 0.0
        self._seen: dict[str, TopicStatistics] = {}
        self._last_message: dict[str, float] = {}
        self._faults: dict[str, str] = {}
        self._rates: dict[str, float] = {}
        try:
            self._require_same_spec()
            self._recorder.require_free()
        except DiwaError:
            self._lock.release()
            raise

    @property
    def episode(self) -> str:
        """Name of the running episode; empty between two."""
        return self._recorder.episode

    def numbers(self, topic: str) -> dict[str, float]:
        """Count, largest gap (s) and, for cameras, estimated drops of a topic in the running episode."""
        statistics = self._recorder.statistics(topic)
        if statistics is None:
            return {}
        numbers = {"count": statistics.count, "largest_gap": round(statistics.largest_gap, 3)}
        return numbers | ({"dropped": statistics.missing(self.spec.record_rate)} if topic in self._cameras else {})

    def message(self, topic: str, message_type: str, received: float, data: bytes) -> str:
        """Take in one message; returns what the operator must be told, mostly nothing.

        Raises `DiwaError` when it cannot be written; the running episode is lost then, and no other.
        """
        fresh = received - self._last_message.get(topic, -float("inf")) > MAX_SILENCE
        fault = self._check(topic, message_type, data) if fresh or topic in self._faults else ""
        self._last_message[topic] = self._last = received
        self._seen.setdefault(topic, TopicStatistics()).add(received)
        if topic in self._latched:
            self._keep(topic, (message_type, bytes(data)))
        if not self._recorder.recording:
            return fault
        self._recorder.write(topic, received, data, message_type)
        self._bytes += len(data)
        try:
            self._recorder.require_free()
        except DiwaError as error:
            return f"{error}. {self.event('stop', received)}"
        return fault

    @property
    def heard(self) -> set[str]:
        """Topics on which something came."""
        return {*self._last_message}

    def keep(self, topic: str) -> None:
        """Have episodes begin with all that different nodes have said on a latched topic, /tf_static above all."""
        self._latched.setdefault(topic, [])
        self._kept_whole.add(topic)

    def label(self, labels: dict[str, Any]) -> None:
        """Labels that the episodes from the next one on get besides the configured ones, which win."""
        self._recorder.labels = labels | self._configured

    def event(self, name: str, received: float) -> str:
        """An operator's event: start, stop, success, fail or discard; returns what it did.

        Raises `DiwaError` if no episode can start: required topics are silent or wrong, or the disk is nearly full.
        """
        was_recording, seconds = self._recorder.recording, self._recorder.seconds(received)
        self._last = received
        if name == "start" and not was_recording:
            self._require_healthy(received)
        said = self._recorder.event(name, received)
        if self._recorder.recording and not was_recording:
            for topic, kept in self._latched.items():
                for message_type, data in kept:
                    self._recorder.write(topic, received, data, message_type)
        if name == "stop" and was_recording:
            self._recorded += seconds
            return f"{said}. Reset the scene, then start the next"
        return said

    def status(self, now: float) -> Status:
        """How it goes; rates count from the last call."""
        free, seconds = free_mb(self._folder), self._recorder.seconds(now)
        recorded = self._recorded + seconds
        rate = self._bytes / recorded / 1e6 if recorded > 1.0 else 0.0
        left = max(0.0, free - self._min_free_mb) / rate / 60 if rate else float("inf")
        rates = {topic: seen.rate for topic, seen in self._seen.items() if topic not in self._latched}
        self._seen, self._rates = {}, rates
        return Status(self.episode, seconds, len(self._recorder.finished), free, left, rates, self._silent(now))

    def close(self) -> str:
        """Finish a running episode and let go of the folder."""
        said = self.event("stop", self._last) if self._recorder.recording else ""
        self._lock.release()
        return said

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, topic: str, message: tuple[str, bytes]) -> None:
        kept = self._latched[topic]
        if topic not in self._kept_whole:
            kept.clear()
        if message not in kept:
            kept.append(message)
            del kept[:-_MOST_KEPT]

    def _require_healthy(self, now: float) -> None:
        """Raise `DiwaError` naming the required topics that are silent, slow or wrong."""
        problems = self._slow() | {topic: f"nothing on {topic}" for topic in self._silent(now)} | self._faults
        if problems:
            raise DiwaError(f"cannot start: {'; '.join(problems.values())}")

    def _silent(self, now: float) -> dict[str, float]:
        """Required topics that are silent, and for how long."""
        ages = {topic: now - self._last_message.get(topic, -float("inf")) for topic in self._required}
        return {topic: age for topic, age in ages.items() if age > MAX_SILENCE}

    def _slow(self) -> dict[str, str]:
        """Required cameras that were slow when `status` was last asked; a driver's default may be 5 Hz."""
        wanted = f"not {self.spec.record_rate:g}: set its driver to that, or record_rate in the robot file"
        slow = slow_cameras(self.spec, {topic: self._rates.get(topic, 0.0) for topic in self._required})
        return {topic: f"{topic} comes at {rate:.1f} Hz, {wanted}" for topic, rate in slow.items()}

    def _check(self, topic: str, message_type: str, data: bytes) -> str:
        """A new fault of a topic's messages, for which no dataset could be built from them; empty if there is none."""
        before = self._faults.pop(topic, "")
        expected = messages.IMAGE_TYPE if topic in self._cameras else messages.TYPES.get(topic, message_type)
        if message_type != expected:
            self._faults[topic] = f"{topic} is a {message_type}, not a {expected}"
        else:
            self._faults |= self._content(topic, data)
        now = self._faults.get(topic, "")
        return "" if now == before else now

    def _content(self, topic: str, data: bytes) -> dict[str, str]:
        """The fault of a message of the right type, under the name of its topic; empty if there is none."""
        try:
            if topic in self._cameras:
                require_record_size(decode_value(topic, data, topic), self._cameras[topic])
            elif topic in (messages.CURRENT_POSE, messages.TARGET_POSE):
                require_frame(data, self._base_frame, topic)
        except DiwaError as error:
            return {topic: str(error) if topic in str(error) else f"{topic}: {error}"}
        return {}

    def _require_same_spec(self) -> None:
        if any(is_bag(path) and not path.name.startswith(".") for path in self._folder.iterdir()):
            bag = find_bags([self._folder])[0]
            require_same(self.spec, Sidecar.read(bag).spec, str(bag))
