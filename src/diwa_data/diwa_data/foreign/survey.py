"""A look into a bag of others: topics and rates, and which cameras, joints, frames and words there are."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import Reader

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.foreign.bag import LARGEST_MESSAGE
from diwa_data.foreign.feeds import Message
from diwa_data.foreign.transforms import Transforms
from diwa_data.foreign.values import IMAGES, JOINTS, STRING, TRANSFORMS, message_type, number_in, pose_in, word_in
from diwa_data.images import image_of
from diwa_data.recording.bag_reader import open_reader, read_messages

_NAME = re.compile(r"[\w/]{1,250}", re.ASCII)
_SECONDS = 20.0  # of the bag, in which messages are decoded
_FRAMES = 61  # of the camera that has the most, from which their rates are measured
_LOOKS = 6  # pictures of a camera, spread over the bag
_SMALL = (32, 24)  # pixels at which they are compared
_MOST = 2000  # messages of a topic that are decoded
_ALL = 200  # of which the first are decoded each, and the others this many nanoseconds apart
_APART = 20_000_000
_SKIPPED = ("rcl_interfaces/msg/Log", "rosgraph_msgs/msg/Clock", "diagnostic_msgs/msg/DiagnosticArray")


@dataclass
class Topic:
    """Findings on a topic."""

    name: str
    kind: str
    count: int
    first: float = 0.0
    """When its first message was received, seconds."""
    rate: float = 0.0
    """Messages per second in the first seconds."""
    problem: str = ""
    """Why it cannot be used: a camera whose images are no colour, for instance."""
    size: tuple[int, int] = (0, 0)
    """Height and width of a camera's images."""
    motion: float = 0.0
    """Mean change between pictures of a camera, spread over the bag, of 255 levels."""
    is_pose: bool = False
    """Its messages hold a pose."""
    joints: dict[str, list[float]] = field(default_factory=dict)
    """Joint -> its positions."""
    numbers: list[float] = field(default_factory=list)
    """The numbers in its messages."""
    words: set[str] = field(default_factory=set)
    """The words in its messages."""


@dataclass
class Survey:
    """Findings on a bag."""

    path: Path
    seconds: float
    topics: list[Topic]
    """By name."""
    transforms: Transforms

    def of(self, *kinds: str) -> list[Topic]:
        """The topics of these types."""
        return [topic for topic in self.topics if topic.kind in kinds]


def survey(path: Path) -> Survey:
    """Look into the bag at `path`. Raises `DiwaError` if it is damaged."""
    with damage_as_error(f"{path} is truncated or damaged", "leave it out, or try 'ros2 bag reindex'"):
        reader = open_reader(path, None, LARGEST_MESSAGE)
        try:
            seconds = reader.duration * 1e-9
            counts: dict[tuple[str, str], int] = {}
            for each in reader.connections:
                counts[each.topic, each.msgtype] = counts.get((each.topic, each.msgtype), 0) + each.msgcount
            topics = {
                name: Topic(name, kind, count)
                for (name, kind), count in sorted(counts.items())
                if count and _NAME.fullmatch(name)
            }
            found = Survey(path, seconds, list(topics.values()), Transforms("", ""))
            _look_at_values(reader, found, topics)
            _look_at_cameras(reader, found, topics)
            return found
        finally:
            reader.close()


def _look_at_values(reader: Reader, found: Survey, topics: dict[str, Topic]) -> None:
    """Decode messages of the first seconds, of everything but images; of topics that begin later, the first ones."""
    wanted = [each for each in reader.connections if each.topic in topics and each.msgtype not in IMAGES]
    times: dict[str, list[float]] = {each.topic: [] for each in wanted}
    stop = reader.start_time + int(_SECONDS * 1e9)
    _look(reader, wanted, stop, found, topics, times)
    late = [each for each in wanted if not times[each.topic] and each.msgcount]
    _look(reader, late, None, found, topics, times)
    _note_times(topics, times)


def _look(
    reader: Reader,
    connections: Sequence[Any],
    stop: int | None,
    found: Survey,
    topics: dict[str, Topic],
    times: dict[str, list[float]],
) -> None:
    """Decode messages received before `stop`, nanoseconds, and take in what they say and when they came."""
    last, taken = dict.fromkeys(times, 0), dict.fromkeys(times, 0)
    for connection, at, data in read_messages(reader, connections, LARGEST_MESSAGE, None, stop) if connections else ():
        topic, received = topics[connection.topic], times[connection.topic]
        received.append(at * 1e-9)
        often = len(received) > _ALL and topic.kind not in (TRANSFORMS, STRING) and at - last[topic.name] < _APART
        if often or taken[topic.name] == _MOST or topic.problem or topic.kind in _SKIPPED:
            continue
        last[topic.name], taken[topic.name] = at, taken[topic.name] + 1
        try:
            kind = message_type(connection.msgtype, connection.msgdef, topic.name)
            _note(topic, found, Message(found.path, topic.name, kind, data, at * 1e-9))
        except DiwaError as error:
            topic.problem = " ".join(str(error).split())


def _note_times(topics: dict[str, Topic], times: dict[str, list[float]]) -> None:
    """Take in when the messages of topics were received; rates do not count the gaps between."""
    for name, received in times.items():
        period = float(np.median(np.diff(received))) if len(received) > 1 else 0.0
        topics[name].rate = 1 / period if period > 0 else 0.0
        topics[name].first = received[0] if received else math.inf


def _note(topic: Topic, found: Survey, message: Message) -> None:
    """Take in what a message says."""
    value: Any = message.decoded
    if topic.kind == TRANSFORMS:
        found.transforms.feed(value, topic.name.endswith("tf_static"))
    elif topic.kind == JOINTS:
        for name, position in zip(value.name, value.position, strict=False):
            topic.joints.setdefault(name, []).append(float(position))
    elif topic.kind == STRING:
        topic.words.add(" ".join(word_in(value, "", topic.name).split())[:40])
    else:
        for look in (_note_number, _note_pose):
            try:
                look(topic, value)
                break
            except DiwaError:
                continue


def _note_number(topic: Topic, value: Any) -> None:
    topic.numbers.append(number_in(value, "", topic.name))


def _note_pose(topic: Topic, value: Any) -> None:
    pose_in(value, "", topic.name)
    topic.is_pose = True


def _look_at_cameras(reader: Reader, found: Survey, topics: dict[str, Topic]) -> None:
    """Decode pictures of each camera, spread over the bag."""
    cameras = [each for each in reader.connections if each.msgtype in IMAGES and each.topic in topics]
    pictures: dict[str, list[np.ndarray]] = {connection.topic: [] for connection in cameras}
    times: dict[str, list[float]] = {connection.topic: [] for connection in cameras}
    for connection, at, _ in read_messages(reader, cameras, LARGEST_MESSAGE) if cameras else ():
        times[connection.topic].append(at * 1e-9)
        if len(times[connection.topic]) == _FRAMES:
            break
    _note_times(topics, times)
    for at in np.linspace(reader.start_time, reader.end_time, _LOOKS + 1)[:-1].astype(int).tolist():
        due = {connection.topic for connection in cameras}
        for connection, _, data in read_messages(reader, cameras, LARGEST_MESSAGE, at) if due else ():
            topic = topics[connection.topic]
            if topic.name in due and not topic.problem:
                _note_picture(topic, pictures[topic.name], connection, data)
            due.discard(topic.name)
            if not due:
                break
    for name, small in pictures.items():
        changes = [np.abs(one - two).mean() for one, two in pairwise(small)]
        topics[name].motion = float(np.mean(changes)) if changes else 0.0


def _note_picture(topic: Topic, small: list[np.ndarray], connection: Any, data: bytes) -> None:
    try:
        kind = message_type(connection.msgtype, connection.msgdef, topic.name)
        image = image_of(kind.decode(data, topic.name))
    except DiwaError as error:
        topic.problem = " ".join(str(error).split())
        return
    topic.size = image.shape[:2]
    small.append(cv2.resize(image, _SMALL, interpolation=cv2.INTER_AREA).astype(float))
