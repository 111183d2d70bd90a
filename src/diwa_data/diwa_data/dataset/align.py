"""One recorded episode as dataset rows: ticks, preprocessed images, robot states and relative actions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from diwa_data.dataset.file import EpisodeWriter
from diwa_data.errors import DiwaError
from diwa_data.files import json_text
from diwa_data.images import preprocess
from diwa_data.pose import Pose, action_sequence, robot_state
from diwa_data.recording import messages
from diwa_data.recording.source import Attempt, Source, attempt_at
from diwa_data.ticks import Tick, TickClock


@dataclass(frozen=True)
class DatasetConfig:
    """`diwa build-dataset`: bags to a dataset at the spec's control rate."""

    max_age: float = 0.2
    """Greatest age of a stream relative to the first camera's frame, in seconds; beyond it the tick is flagged."""
    max_missing: int = 2
    """Flagged ticks in a row that are bridged; one more splits the episode."""
    workers: int = 2
    """Number of processes; the result does not depend on it."""


def align(source: Source, parent: h5py.Group, config: DatasetConfig) -> float:
    """Write the segments of a recording as groups `0`, `1`, ... of `parent`; returns the seconds of it that were read.

    Raises `DiwaError` on a missing topic, a damaged file or a NaN.
    """
    segments: list[_SegmentWriter] = []
    begun: dict[Attempt, int] = {}  # attempt -> number of its first segment
    for tick in ticks_of(source, config):
        if not segments or segments[-1].number != tick.segment:
            attempt = attempt_at(source.attempts, tick.received)
            assert attempt is not None  # it begins with a frame
            segments.append(_SegmentWriter(tick.segment, parent.create_group(str(len(segments))), source, attempt))
            begun.setdefault(attempt, tick.segment)
        segments[-1].add(tick)
    kept: list[_SegmentWriter] = []
    for segment in reversed(segments):
        is_last = not kept or kept[0].attempt != segment.attempt
        if segment.finish(segment.number - begun[segment.attempt], is_last):
            kept.insert(0, segment)
    for number, segment in enumerate(kept):  # close the holes that dropped segments left
        if segment.group.name != f"{parent.name.rstrip('/')}/{number}":
            parent.move(segment.group.name, str(number))
    return segments[-1].ticks[-1].received - segments[0].ticks[0].received if segments else 0.0


def ticks_of(source: Source, config: DatasetConfig) -> Iterator[Tick]:
    """Ticks of a recording's attempts, values still serialised.

    A tick is taken once everything received at the same time has been fed. Raises `DiwaError` on a missing topic.
    """
    spec, streams = source.spec, source.streams
    source.require_topics(streams)
    attempts = source.attempts
    ages = {stream: math.inf if stream in source.latched else config.max_age for stream in streams[1:]}
    clock = TickClock(streams[0], ages, spec.record_rate, spec.frames_per_tick, config.max_missing)
    attempt, now = None, -math.inf
    for stream, sample in source.messages(streams):
        if sample.received > now:
            yield from clock.advance()
            now = sample.received
        if stream == streams[0]:
            before, attempt = attempt, attempt_at(attempts, sample.received)
            if attempt != before:
                clock.restart()
            if attempt is None:
                continue
        clock.feed(stream, sample)
    yield from clock.advance()


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

    def __init__(self, number: int, group: h5py.Group, source: Source, attempt: Attempt):
        self.number, self.group, self.attempt, self.ticks = number, group, attempt, list[_Row]()
        self._spec, self._source, self._writer = source.spec, source, EpisodeWriter(group, source.spec)

    def add(self, tick: Tick) -> None:
        """Decode and append one tick."""
        values = {stream: self._source.value(stream, sample) for stream, sample in tick.samples.items()}
        width, gripper = self._gripper(values)
        state = robot_state(values[messages.CURRENT_POSE], width)
        scene = self._scene(values.get(messages.SCENE_STATE, ()))
        row = _Row(tick.received, tick.stamp, tick.flagged, state, values[messages.TARGET_POSE], gripper, scene)
        cameras = {camera: values[messages.image_topic(camera.name)] for camera in self._spec.cameras}
        self._writer.add_images({camera.name: preprocess(image, camera) for camera, image in cameras.items()})
        self.ticks.append(row)

    def finish(self, number: int, is_last: bool) -> bool:
        """Complete the group without trailing flagged ticks; delete it and return False if under two ticks are left.

        It is the `number`-th segment of its attempt; `is_last`: no later one is kept. Where a command is what was
        measured one tick later, the last tick has none, and is left out.
        """
        flagged = np.array([row.flagged for row in self.ticks])
        length = len(flagged) - int(np.argmin(flagged[::-1]))  # a segment begins with a good tick
        derived = self._source.derived
        targets = [row.target for row in self.ticks[messages.TARGET_POSE in derived : length]]
        grippers = np.array([row.gripper for row in self.ticks[messages.GRIPPER_COMMAND in derived : length]])
        length -= bool(derived)
        if length < 2:
            del self.group.parent[self.group.name]
            return False
        ticks, targets, grippers, action = self.ticks[:length], targets[:length], grippers[:length], self._spec.action
        sequence = action_sequence(targets, grippers, action)
        hold = action.executed(action.hold(grippers[-1])[None])
        success = self.attempt.success
        if is_last and self.attempt.success_before_end is not None:
            success = ticks[-1].received - self.attempt.success_before_end
        rows = {
            "state": np.stack([row.state for row in ticks]),
            "action": np.concatenate([sequence.actions, hold]),
            "success": np.array([row.received >= success for row in ticks]),
            "stamp": np.array([row.stamp for row in ticks]),
            "received": np.array([row.received for row in ticks]),
        }
        rows |= {"scene_state": np.stack([row.scene for row in ticks])} if self._spec.scene_state else {}
        if messages.TARGET_POSE not in derived:
            rows["target"] = np.stack([robot_state(target, None) for target in targets])
        withdrawn = np.array([row.received >= self.attempt.withdrawn for row in ticks])
        attributes = self._attributes(flagged[:length]) | {"segment": number}
        attributes["withdrawn_tick"] = int(np.argmax(withdrawn)) if withdrawn.any() else -1
        self._writer.finish(rows, sequence.clipped, attributes)
        return True

    def _gripper(self, values: dict[str, Any]) -> tuple[float | None, float]:
        """The gripper's width, metres (None on a robot without one), and the last command to it."""
        if not self._spec.action.gripper:
            return None, self._spec.action.gripper_open
        if not math.isfinite(values[messages.GRIPPER_COMMAND]):
            raise DiwaError(f"{self._source.path}: {messages.GRIPPER_COMMAND} holds a value that is not finite")
        return values[messages.JOINT_STATES], values[messages.GRIPPER_COMMAND]

    def _attributes(self, flagged: np.ndarray) -> dict[str, Any]:
        source, labels = self._source, self._source.labels
        return {
            "bag": source.path.name,
            "source": str(labels.get("source", "")),
            "skill": str(labels.get("skill", "")),
            "outcome": self.attempt.outcome,
            "labels": json_text(labels),
            "recorded_by": source.recorded_by,
            "derived": ", ".join(stream.rpartition("/")[2] for stream in source.derived),
            "flagged": np.flatnonzero(flagged),
        }

    def _scene(self, values: Any) -> np.ndarray:
        names, scene = self._spec.scene_state, np.array(values)
        if scene.shape != (len(names),) or not np.isfinite(scene).all():
            where = f"{self._source.path}: {messages.SCENE_STATE}"
            raise DiwaError(f"{where}: {scene.tolist()} is not one finite number for each of {', '.join(names)}")
        return scene
