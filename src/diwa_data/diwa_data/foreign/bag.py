"""A bag of another lab as a source of datasets: its topics under our names, by a mapping file."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.foreign import attempts as cuts
from diwa_data.foreign.feeds import CLOSE, OPEN, Chain, Commands, CommandsOfWidth, Feed, Images, Message, Numbers, Poses
from diwa_data.foreign.mapping import BagMapping, PoseMapping
from diwa_data.foreign.transforms import Transforms
from diwa_data.foreign.values import IMAGES, JOINTS, STRING, TRANSFORMS, MessageType, message_type, word_in
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import METADATA, open_reader, read_messages
from diwa_data.recording.marks import read_marks
from diwa_data.recording.sidecar import SIDECAR
from diwa_data.recording.source import Attempt
from diwa_data.spec import MAX_RECORD_SIZE
from diwa_data.ticks import Sample

LARGEST_MESSAGE = 4 * MAX_RECORD_SIZE**2 + (1 << 20)
"""Bytes of a message at most: of an image of the largest size."""
_FRAMES = 31  # from which the rate of the first camera is measured
_SAMPLES = 5  # from which that of another stream is
_SLOWER = 0.9  # share of the record rate below which a camera is too slow
_APART = 1.0  # seconds by which the clocks of two streams may differ
_LISTED = 40  # topics in an error


class ForeignBag:
    """An open bag of others; a context manager.

    Raises `DiwaError` if it is damaged, or lacks what the mapping names.
    """

    def __init__(self, path: Path, mapping: BagMapping, max_age: float = math.inf):
        """`max_age`: seconds by which a stream may be older than a frame; `require_topics` refuses slower ones."""
        self.path, self.mapping, self.spec, self._max_age = Path(path), mapping, mapping.spec, max_age
        with self._damage_as_error():
            self._reader = open_reader(self.path, None, LARGEST_MESSAGE)
        try:
            self._types = self._require_mapped()
        except BaseException:
            self._reader.close()
            raise
        self._feeds = self._make_feeds()

    def __enter__(self) -> ForeignBag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of its files."""
        self._reader.close()

    @property
    def streams(self) -> list[str]:
        """Our topics' names; the images of the clock come first."""
        return list(self._feeds)

    @property
    def latched(self) -> Collection[str]:
        """As `Source.latched`."""
        return [stream for stream, feed in self._feeds.items() if feed.latched]

    @property
    def derived(self) -> Collection[str]:
        """As `Source.derived`."""
        command = self.mapping.gripper_command
        target = [] if self.mapping.target else [messages.TARGET_POSE]
        return target + [messages.GRIPPER_COMMAND] * (command is not None and not command.topic)

    @property
    def labels(self) -> dict[str, Any]:
        """As the mapping says."""
        return {"source": self.mapping.source, "skill": self.mapping.skill, **self.mapping.labels}

    @property
    def recorded_by(self) -> str:
        """rosbag2, and the ROS distribution where the bag names it."""
        return f"rosbag2 {self._reader.ros_distro or ''}".strip()

    @property
    def attempts(self) -> list[Attempt]:
        """As `Source.attempts`. Raises `DiwaError` if nothing in the bag begins or ends one."""
        return cuts.judged(self.recorded, read_marks(self.path), self.mapping.success)

    @cached_property
    def recorded(self) -> list[Attempt]:
        """The attempts without what was marked beside the bag."""
        mapping = self.mapping
        if mapping.episodes.by == "events":
            events, start = list(self._events()), mapping.episodes.start
            if all(event.word != start for event in events):
                words = ", ".join(sorted({event.word for event in events}))
                raise DiwaError(
                    f"{self.path}: {mapping.episodes.topic} says {words[:200]}, never {start!r}, with which an episode "
                    "begins: set episodes.start in the mapping, or leave the bag out"
                )
            found = cuts.by_events(events, mapping.episodes, mapping.success)
        elif mapping.episodes.by == "gripper":
            command = self._feeds[messages.GRIPPER_COMMAND]
            samples = (sample for _, sample in self.messages([messages.GRIPPER_COMMAND]))
            found = cuts.by_gripper(((each.received, command.value(each)) for each in samples), mapping.episodes.margin)
            if not found:
                raise DiwaError(
                    f"{self.path}: the gripper never opens after it was closed, which ends an episode: choose another "
                    "episodes.by in the mapping, correct gripper_command, or leave the bag out"
                )
        elif mapping.episodes.by == "gaps":
            frames = (sample.received for _, sample in self.messages(self.streams[:1]))
            found = cuts.by_gaps(frames, mapping.episodes.gap)
        else:
            found = [Attempt()]
        return found

    def messages(self, topics: Sequence[str]) -> Iterator[tuple[str, Sample]]:
        """As `Source.messages`."""
        yield from self._samples({stream: feed for stream, feed in self._make_feeds().items() if stream in topics})

    def value(self, stream: str, sample: Sample) -> Any:
        """As `Source.value`."""
        return self._feeds[stream].value(sample)

    def require_topics(self, topics: Sequence[str]) -> None:
        """Raise `DiwaError` if a stream has no sample or too few, or clocks or frames differ."""
        images = [stream for stream in topics if isinstance(self._feeds[stream], Images)]
        found = self._first(images) | self._first([stream for stream in topics if stream not in images])
        clock = found[self.streams[0]]
        self._require_rate([sample.stamp for sample in clock])
        for stream, samples in found.items():
            if not self._feeds[stream].latched:
                self._require_fresh(stream, samples, clock[-1].received - clock[-1].stamp)
        pose, target = (self._frame(stream, found) for stream in (messages.CURRENT_POSE, messages.TARGET_POSE))
        if pose and target and pose != target:
            raise DiwaError(
                f"{self.path}: {self._origin(messages.TARGET_POSE)} is in the frame {target!r}, but "
                f"{self._origin(messages.CURRENT_POSE)} in {pose!r}: choose topics or frames that agree, in the mapping"
            )

    def _frame(self, stream: str, found: dict[str, list[Sample]]) -> str:
        feed = self._feeds[stream]
        return feed.frame(found[stream][0]).lstrip("/") if stream in found and isinstance(feed, Poses | Chain) else ""

    def _require_fresh(self, stream: str, samples: Sequence[Sample], delay: float) -> None:
        """Raise `DiwaError` if a stream is too slow, or stamped far behind frames, which take `delay` seconds."""
        behind = samples[-1].received - samples[-1].stamp - delay
        if behind > _APART:
            raise DiwaError(
                f"{self.path}: header stamps of {self._origin(stream)} are {behind:.1f} s behind those of "
                f"{self.mapping.cameras[0].topic}: their clocks differ; set stamps: received in the mapping"
            )
        times = [sample.received for sample in samples]
        period = float(np.median(np.diff(times))) if len(times) > 1 else math.inf
        if period > self._max_age:
            often = f"a message every {period:.2f} s" if len(times) > 1 else "one message"
            raise DiwaError(
                f"{self.path}: {self._origin(stream)} has {often}, and each is too old after {self._max_age:g} s: "
                "raise --max-age, or set latched: true in the mapping if a value holds until the next one"
            )

    def _first(self, streams: Sequence[str]) -> dict[str, list[Sample]]:
        """The first samples of each stream, so many as tell its rate, or fewer where the bag ends; one is decoded."""
        feeds = {stream: feed for stream, feed in self._make_feeds().items() if stream in streams}
        found: dict[str, list[Sample]] = {stream: [] for stream in streams}
        enough = {stream: 1 if feed.latched else _SAMPLES for stream, feed in feeds.items()}
        enough |= {stream: _FRAMES for stream in streams if stream == self.streams[0]}
        waiting = {*streams}
        for stream, sample in self._samples(feeds):
            if not found[stream]:
                feeds[stream].value(sample)
            if stream in waiting:
                found[stream].append(sample)
                waiting -= {stream} if len(found[stream]) == enough[stream] else set()
            if not waiting:
                break
        for stream, samples in found.items():
            if not samples:
                raise DiwaError(f"{self.path}: {self._origin(stream)}: {feeds[stream].missing()}")
        return found

    def _require_rate(self, stamps: Sequence[float]) -> None:
        camera, wanted = self.mapping.cameras[0], self.spec.record_rate
        period = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
        if period <= 0:
            raise DiwaError(
                f"{self.path}: {camera.topic} has {len(stamps)} frames, whose header stamps do not ascend: if there "
                "are more, set stamps: received in the mapping"
            )
        if 1 / period < _SLOWER * wanted:
            raise DiwaError(
                f"{self.path}: {camera.topic} has {1 / period:.1f} frames per second, fewer than record_rate "
                f"{wanted:g}: set that in the mapping to {self.spec.rate:g}, or a multiple that the camera reaches"
            )

    def _origin(self, stream: str) -> str:
        """The topic that a stream is made of, for errors."""
        mapping = self.mapping
        named = {messages.image_topic(camera.name): camera.topic for camera in mapping.cameras}
        width, command = mapping.gripper_width, mapping.gripper_command
        named[messages.JOINT_STATES] = width.topic if width else ""
        named[messages.GRIPPER_COMMAND] = (command.topic if command else "") or named[messages.JOINT_STATES]
        named[messages.CURRENT_POSE] = mapping.pose.topic or "/tf"
        named[messages.TARGET_POSE] = (mapping.target or mapping.pose).topic or "/tf"
        return named[stream]

    def _make_feeds(self) -> dict[str, Feed]:
        """Stream -> its feed, as new: some remember what they took."""
        mapping, spec = self.mapping, self.spec
        feeds: dict[str, Feed] = {messages.image_topic(camera.name): Images(camera) for camera in spec.cameras}
        feeds[messages.CURRENT_POSE] = self._poses(mapping.pose)
        feeds[messages.TARGET_POSE] = self._poses(mapping.target or mapping.pose)
        if (width := mapping.gripper_width) and (command := mapping.gripper_command):
            feeds[messages.JOINT_STATES] = Numbers(width)
            feeds[messages.GRIPPER_COMMAND] = Commands(command) if command.topic else CommandsOfWidth(width, command)
        return feeds

    def _poses(self, mapping: PoseMapping) -> Feed:
        if mapping.topic:
            return Poses(mapping, self.mapping.base_frame)
        return Chain(Transforms(mapping.parent, mapping.child), mapping.latched, self.path)

    def _samples(self, feeds: dict[str, Feed]) -> Iterator[tuple[str, Sample]]:
        by_topic: dict[str, list[tuple[str, Feed]]] = {}
        for stream, feed in feeds.items():
            topics = self._transform_topics if isinstance(feed, Chain) else [self._origin(stream)]
            for topic in topics:
                by_topic.setdefault(topic, []).append((stream, feed))
        command = self.mapping.gripper_command
        if messages.GRIPPER_COMMAND in feeds and command and command.initial:
            yield messages.GRIPPER_COMMAND, Sample(OPEN if command.initial == "open" else CLOSE, 0.0, -math.inf)
        for message in self._read(by_topic):
            for stream, feed in by_topic[message.topic]:
                for sample in feed.take(message):
                    yield stream, sample if self._by_header else sample._replace(stamp=sample.received)

    def _read(self, topics: Collection[str]) -> Iterator[Message]:
        """All messages on these topics, in the order received."""
        connections = [connection for connection in self._reader.connections if connection.topic in topics]
        if not connections:
            return
        with self._damage_as_error():
            for connection, timestamp, data in read_messages(self._reader, connections, LARGEST_MESSAGE):
                kind = self._types[connection.topic, connection.msgtype]
                yield Message(self.path, connection.topic, kind, data, timestamp * 1e-9)

    def _events(self) -> Iterator[cuts.Event]:
        """Words on the event topic; of numbers and Bool, which may be published all the time, the changes."""
        before = None
        for message in self._read([self.mapping.episodes.topic]):
            word = word_in(message.decoded, self.mapping.episodes.field, message.where)
            if message.kind.name == STRING or word != before:
                yield cuts.Event(word, message.received)
            before = word

    @property
    def _by_header(self) -> bool:
        return self.mapping.stamps == "header"

    @property
    def _transform_topics(self) -> list[str]:
        return [topic for topic, kind in self._types if kind == TRANSFORMS]

    def _require_mapped(self) -> dict[tuple[str, str], MessageType]:
        """(Topic, name of its type) -> that type, of all that are used. Raises `DiwaError` on one that is missing."""
        connections = [connection for connection in self._reader.connections if connection.msgcount]
        topics = {connection.topic: connection.msgtype for connection in connections}
        silent, command = {connection.topic for connection in self._reader.connections}, self.mapping.gripper_command
        for key, topic in self.mapping.topics.items():
            where = f"{self.path}: {topic} ({key} of the mapping)"
            if topic not in topics and not (command and command.initial and topic == command.topic and topic in silent):
                raise DiwaError(f"{where} has no message{_similar(topic, topics)}")
            if key.startswith("cameras") and topics.get(topic) not in IMAGES:
                raise DiwaError(f"{where} is a {topics.get(topic)}; a camera needs {' or '.join(IMAGES)}")
            if getattr(getattr(self.mapping, key, None), "joints", ()) and topics.get(topic, JOINTS) != JOINTS:
                raise DiwaError(f"{where} is a {topics[topic]}; joints are those of a {JOINTS}")
        used = {*self.mapping.topics.values()}
        if not self.mapping.pose.topic or (self.mapping.target and not self.mapping.target.topic):
            used |= (transforms := {topic for topic, kind in topics.items() if kind == TRANSFORMS})
            if not transforms:
                raise DiwaError(f"{self.path} has no /tf, which the mapping names frames of{_similar('/tf', topics)}")
        return {
            (each.topic, each.msgtype): message_type(each.msgtype, each.msgdef, f"{self.path}: {each.topic}")
            for each in self._reader.connections
            if each.topic in used
        }

    def _damage_as_error(self) -> AbstractContextManager[None]:
        return damage_as_error(
            f"{self.path} is truncated or damaged", "leave it out, or try 'ros2 bag reindex' if its recorder was killed"
        )


def _similar(topic: str, topics: dict[str, str]) -> str:
    """Topics that there are instead of one, the most similar first."""
    near = get_close_matches(topic, topics, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    listed = [f"{name} ({kind})" for name, kind in sorted(topics.items())][:_LISTED]
    return f"{hint}; topics there: {', '.join(listed) or 'none'}"


def is_foreign(path: Path) -> bool:
    """A finished bag that our own recorder did not make."""
    return (path / METADATA).is_file() and not (path / SIDECAR).is_file()
