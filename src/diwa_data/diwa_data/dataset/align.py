"""One recorded episode as dataset rows: ticks, preprocessed images, robot states and relative actions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diwa_data.dataset.file import EpisodeWriter
from diwa_data.errors import DiwaError
from diwa_data.files import json_text
from diwa_data.images import preprocess
from diwa_data.pose import Pose, action_sequence, robot_state
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, needed_topics
from diwa_data.recording.messages import decode_value, gripper_width
from diwa_data.spec import Spec
from diwa_data.ticks import Tick, TickClock


@dataclass(frozen=True)
class DatasetConfig:
    """`diwa build-dataset`: bags to a dataset at the spec's control rate."""

    max_age: float = 0.2
    """Seconds by which a stream may be older than the first camera's frame before the tick is flagged."""
    max_missing: int = 2
    """Flagged ticks in a row that are bridged; one more splits the episode."""
    workers: int = 2
    """Processes; changes nothing in the result."""


def align_bag(path: Path, parent: h5py.Group, config: DatasetConfig) -> float:
    """Write the segments of a bag as groups `0`, `1`, ... of `parent`; returns the seconds of it that were read.

    Raises `DiwaError` on a missing topic, a damaged file or a NaN.
    """
    segments: list[_SegmentWriter] = []
    with Bag(path) as bag:
        labels, success = bag.sidecar.labels, bag.sidecar.mark("success")
        for tick in bag_ticks(bag, config):
            if not segments or segments[-1].number != tick.segment:
                segments.append(_SegmentWriter(tick.segment, parent.create_group(str(len(segments))), bag.spec, path))
            segments[-1].add(tick)
    attributes = {
        "bag": path.name,
        "source": str(labels.get("source", "")),
        "skill": str(labels.get("skill", "")),
        "outcome": bag.sidecar.outcome,
        "labels": json_text(labels),
        "recorded_by": bag.sidecar.version,
    }
    marks = _Marks(*(math.inf if at is None else at for at in (success, bag.sidecar.withdrawn)))
    kept = [each for each in segments if each.finish(marks, attributes)]
    for number, segment in enumerate(kept):  # close the holes that dropped segments left
        if segment.group.name != f"{parent.name.rstrip('/')}/{number}":
            parent.move(segment.group.name, str(number))
    return segments[-1].ticks[-1].received - segments[0].ticks[0].received if segments else 0.0


def bag_ticks(bag: Bag, config: DatasetConfig) -> Iterator[Tick]:
    """Ticks of a bag between its first start and stop events, values still serialised.

    Gripper commands are latched. A tick is taken once everything received at the same time has been fed. Raises
    `DiwaError` on a missing topic.
    """
    spec, topics = bag.spec, needed_topics(bag.spec)
    bag.require_topics(topics)
    ages = {topic: math.inf if topic == messages.GRIPPER_COMMAND else config.max_age for topic in topics[1:]}
    clock = TickClock(topics[0], ages, spec.record_rate, spec.frames_per_tick, config.max_missing)
    start, stop = bag.sidecar.mark("start"), bag.sidecar.mark("stop")
    first, last, now = -math.inf if start is None else start, math.inf if stop is None else stop, -math.inf
    for topic, sample in bag.messages(topics):
        if sample.received > now:
            yield from clock.advance()
            now = sample.received
        if topic != topics[0] or first <= sample.received <= last:
            clock.feed(topic, sample)
    yield from clock.advance()


@dataclass(frozen=True)
class _Marks:
    """When an attempt became a success, or one that was taken back, seconds received; infinite if it never did."""

    success: float
    withdrawn: float


@dataclass(frozen=True, eq=False)
class _Row:
    """One tick of an episode without its images."""

    received: float
    stamp: float
    flagged: bool
    state: np.ndarray
    target: Pose
    gripper: float
    scene: np.ndarray


class _SegmentWriter:
    """Writes a segment, an uninterrupted part of a recording, as an episode."""

    def __init__(self, number: int, group: h5py.Group, spec: Spec, bag: Path):
        self.number, self.group, self.ticks = number, group, list[_Row]()
        self._spec, self._bag, self._writer = spec, bag, EpisodeWriter(group, spec)

    def add(self, tick: Tick) -> None:
        """Decode and append one tick."""
        values = {
            topic: decode_value(topic, sample.value, f"{self._bag}: {topic} at {sample.received:.3f} s")
            for topic, sample in tick.samples.items()
        }
        width, gripper = self._gripper(values)
        state = robot_state(values[messages.CURRENT_POSE], width)
        scene = self._scene(values.get(messages.SCENE_STATE, ()))
        row = _Row(tick.received, tick.stamp, tick.flagged, state, values[messages.TARGET_POSE], gripper, scene)
        cameras = {camera: values[messages.image_topic(camera.name)] for camera in self._spec.cameras}
        self._writer.add_images({camera.name: preprocess(image, camera) for camera, image in cameras.items()})
        self.ticks.append(row)

    def finish(self, marks: _Marks, attributes: dict[str, Any]) -> bool:
        """Complete the group without trailing flagged ticks; delete it and return False if under two ticks are left."""
        flagged = np.array([row.flagged for row in self.ticks])
        length = len(flagged) - int(np.argmin(flagged[::-1]))  # a segment begins with a good tick
        if length < 2:
            del self.group.parent[self.group.name]
            return False
        ticks, action = self.ticks[:length], self._spec.action
        grippers = np.array([row.gripper for row in ticks])
        sequence = action_sequence([row.target for row in ticks], grippers, action)
        hold = action.executed(action.hold(grippers[-1])[None])
        rows = {
            "state": np.stack([row.state for row in ticks]),
            "action": np.concatenate([sequence.actions, hold]),
            "success": np.array([row.received >= marks.success for row in ticks]),
            "stamp": np.array([row.stamp for row in ticks]),
            "received": np.array([row.received for row in ticks]),
        }
        rows |= {"scene_state": np.stack([row.scene for row in ticks])} if self._spec.scene_state else {}
        attributes = attributes | {"flagged": np.flatnonzero(flagged[:length]), "segment": self.number}
        withdrawn = np.array([row.received >= marks.withdrawn for row in ticks])
        attributes["withdrawn_tick"] = int(np.argmax(withdrawn)) if withdrawn.any() else -1
        self._writer.finish(rows, sequence.clipped, attributes)
        return True

    def _gripper(self, values: dict[str, Any]) -> tuple[float | None, float]:
        """The gripper's width, metres (None on a robot without one), and the last command to it."""
        if not self._spec.action.gripper:
            return None, self._spec.action.gripper_open
        width = gripper_width(values[messages.JOINT_STATES], f"{self._bag}: {messages.JOINT_STATES}")
        if not math.isfinite(values[messages.GRIPPER_COMMAND]):
            raise DiwaError(f"{self._bag}: {messages.GRIPPER_COMMAND} holds a value that is not finite")
        return width, values[messages.GRIPPER_COMMAND]

    def _scene(self, values: Any) -> np.ndarray:
        names, scene = self._spec.scene_state, np.array(values)
        if scene.shape != (len(names),) or not np.isfinite(scene).all():
            where = f"{self._bag}: {messages.SCENE_STATE}"
            raise DiwaError(f"{where}: {scene.tolist()} is not one finite number for each of {', '.join(names)}")
        return scene
