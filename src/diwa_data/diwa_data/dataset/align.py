"""One recorded episode as dataset rows: ticks, preprocessed images, robot states and relative actions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diwa_data.dataset.hdf5 import create_images, write_rows
from diwa_data.errors import DiwaError
from diwa_data.files import require_space
from diwa_data.images import preprocess
from diwa_data.pose import Pose, action_sequence, robot_state
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, decode_value, gripper_width, needed_topics
from diwa_data.spec import Spec
from diwa_data.ticks import Tick, TickClock

_BUFFER = 64  # frames held before they are written


@dataclass(frozen=True)
class DatasetConfig:
    """`diwa build-dataset`: bags to a dataset at the spec's control rate."""

    max_age: float = 0.2
    """Seconds by which a stream may be older than the static frame before the tick is flagged."""
    max_missing: int = 2
    """Flagged ticks in a row that are bridged; one more splits the episode."""
    workers: int = 2
    """Processes; changes nothing in the result."""


@dataclass(frozen=True)
class Alignment:
    """What `align_bag` did."""

    segments: int
    """Episodes it gave: 1, unless gaps split it or nothing was left."""
    ticks: int
    """Rows written."""
    seconds: float
    """Recorded time that was read."""


@dataclass(frozen=True)
class Marks:
    """When the operator marked what, seconds received; minus infinity (start) or infinity where there is none."""

    start: float
    stop: float
    success: float


def align_bag(path: Path, parent: h5py.Group, config: DatasetConfig, stopped: Callable[[], bool]) -> Alignment:
    """Write the segments of a bag as groups `0`, `1`, ... of `parent`.

    Raises `DiwaError` on a missing topic, a damaged file or a NaN, and `KeyboardInterrupt` once `stopped()`.
    """
    segments: list[_Segment] = []
    first = last = None
    with Bag(path) as bag:
        marks = read_marks(bag)
        attributes = _attributes(bag)
        for tick in bag_ticks(bag, config, marks):
            if stopped():
                raise KeyboardInterrupt
            if not segments or segments[-1].number != tick.segment:
                segments.append(_Segment(tick.segment, parent.create_group(str(len(segments))), bag.spec, path))
            segments[-1].add(tick)
            first, last = first if first is not None else tick.received, tick.received
    kept = [segment for segment in segments if segment.finish(marks.success, attributes)]
    for number, segment in enumerate(kept):  # close the holes that dropped segments left
        if segment.group.name != f"{parent.name.rstrip('/')}/{number}":
            parent.move(segment.group.name, str(number))
    seconds = last - first if first is not None and last is not None else 0.0
    return Alignment(len(kept), sum(segment.length for segment in kept), seconds)


def tick_clock(spec: Spec, max_age: float, max_missing: int = 2) -> TickClock:
    """The tick rule for the streams of `spec`, by topic; gripper commands are latched."""
    clock, *others = [messages.image_topic(camera.name) for camera in spec.cameras]
    ages = dict.fromkeys([*others, messages.CURRENT_POSE, messages.TARGET_POSE, messages.JOINT_STATES], max_age)
    ages[messages.GRIPPER_COMMAND] = math.inf
    if spec.scene_state:
        ages[messages.SCENE_STATE] = max_age
    return TickClock(clock, ages, spec.record_rate, spec.frames_per_tick, max_missing)


def bag_ticks(bag: Bag, config: DatasetConfig, marks: Marks) -> Iterator[Tick]:
    """Ticks of a bag between its start and stop marks, values still serialised.

    A tick is taken once everything received at the same time has been fed. Raises `DiwaError` on a missing topic.
    """
    spec = bag.spec
    clock = tick_clock(spec, config.max_age, config.max_missing)
    clock_topic = messages.image_topic(spec.cameras[0].name)
    topics = needed_topics(spec)
    bag.require_topics(topics)
    now = -math.inf
    for topic, sample in bag.messages(topics):
        if sample.received > now:
            yield from clock.advance()
            now = sample.received
        if topic != clock_topic or marks.start <= sample.received <= marks.stop:
            clock.feed(topic, sample)
    yield from clock.advance()


def read_marks(bag: Bag) -> Marks:
    """The first start, stop and success events of a bag, or what was annotated afterwards instead."""

    def at(event: str, never: float) -> float:
        received = bag.sidecar.mark(event)
        return never if received is None else received

    return Marks(at("start", -math.inf), at("stop", math.inf), at("success", math.inf))


def _attributes(bag: Bag) -> dict[str, Any]:
    labels = bag.sidecar.labels
    return {
        "bag": bag.path.name,
        "source": str(labels.get("source", "")),
        "skill": str(labels.get("skill", "")),
        "labels": json.dumps(labels, sort_keys=True),
        "recorded_by": bag.sidecar.version,
    }


def _scene(values: np.ndarray, spec: Spec, where: str) -> np.ndarray:
    scene = np.array(values)
    if scene.shape != (len(spec.scene_state),) or not np.isfinite(scene).all():
        raise DiwaError(f"{where}: {scene.tolist()} is not one finite number for each of {', '.join(spec.scene_state)}")
    return scene


class _Segment:
    """Rows of one uninterrupted stretch; images go to the file in batches, so an hour needs little memory."""

    def __init__(self, number: int, group: h5py.Group, spec: Spec, bag: Path):
        self.number = number
        self.group = group
        self.length = 0
        self._spec, self._bag = spec, bag
        self._buffers: dict[str, list[np.ndarray]] = {camera.name: [] for camera in spec.cameras}
        self._states: list[np.ndarray] = []
        self._targets: list[Pose] = []
        self._grippers: list[float] = []
        self._scenes: list[np.ndarray] = []
        self._ticks: list[tuple[float, float, bool]] = []
        for camera in spec.cameras:
            create_images(group, camera.name, 0, camera.size)

    def add(self, tick: Tick) -> None:
        """Decode and append one tick."""
        values = {
            topic: decode_value(topic, sample.value, f"{self._bag}: {topic} at {sample.received:.3f} s")
            for topic, sample in tick.samples.items()
        }
        for camera in self._spec.cameras:
            self._buffers[camera.name].append(preprocess(values[messages.image_topic(camera.name)], camera))
        width = gripper_width(values[messages.JOINT_STATES], f"{self._bag}: {messages.JOINT_STATES}")
        self._states.append(robot_state(values[messages.CURRENT_POSE], width))
        self._targets.append(values[messages.TARGET_POSE])
        self._grippers.append(values[messages.GRIPPER_COMMAND])
        if self._spec.scene_state:
            self._scenes.append(
                _scene(values[messages.SCENE_STATE], self._spec, f"{self._bag}: {messages.SCENE_STATE}")
            )
        self._ticks.append((tick.stamp, tick.received, tick.flagged))
        if len(self._ticks) % _BUFFER == 0:
            self._flush()

    def finish(self, success: float, attributes: dict[str, Any]) -> bool:
        """Complete the group without trailing flagged ticks; delete it and return False if under two ticks are left."""
        self._flush()
        flagged = np.array([flag for _, _, flag in self._ticks])
        self.length = len(flagged) - int(np.argmin(flagged[::-1]))  # a segment begins with a good tick
        if self.length < 2:
            del self.group.parent[self.group.name]
            self.length = 0
            return False
        for camera in self._spec.cameras:
            self.group[camera.name].resize(self.length, axis=0)
        self._write_vectors(self.length, success)
        for name, value in (attributes | {"flagged": np.flatnonzero(flagged[: self.length])}).items():
            self.group.attrs[name] = value
        self.group.attrs["segment"] = self.number
        return True

    def _write_vectors(self, length: int, success: float) -> None:
        grippers = np.array(self._grippers[:length])
        if not np.isfinite(grippers).all():
            raise DiwaError(f"{self._bag}: {messages.GRIPPER_COMMAND} holds a value that is not finite")
        sequence = action_sequence(self._targets[:length], grippers, self._spec.action)
        hold = self._spec.action.executed(np.array([[0, 0, 0, 0, 0, 0, grippers[-1]]], np.float32))
        received = np.array([received for _, received, _ in self._ticks[:length]])
        succeeded = received >= success
        write_rows(self.group, "state", np.stack(self._states[:length]))
        write_rows(self.group, "action", np.concatenate([sequence.actions, hold]))
        write_rows(self.group, "success", succeeded)
        write_rows(self.group, "stamp", np.array([stamp for stamp, _, _ in self._ticks[:length]]))
        write_rows(self.group, "received", received)
        if self._spec.scene_state:
            write_rows(self.group, "scene_state", np.stack(self._scenes[:length]))
        self.group.attrs["success_tick"] = int(np.argmax(succeeded)) if succeeded.any() else -1
        self.group.attrs["clipped"] = int(sequence.clipped.sum())
        self.group.attrs["clipped_share"] = float(sequence.clipped.mean())

    def _flush(self) -> None:
        size = sum(image.nbytes for images in self._buffers.values() for image in images)
        require_space(Path(self.group.file.filename), size)
        for camera, images in self._buffers.items():
            if images:
                stored = self.group[camera]
                stored.resize(len(stored) + len(images), axis=0)
                stored[-len(images) :] = np.stack(images)
                images.clear()
