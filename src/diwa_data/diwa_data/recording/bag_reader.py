"""Opening rosbag2 folders that may be damaged or made to harm: what they may name, how much memory they may take."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePath
from typing import Any

import yaml
from rosbags.rosbag2 import Reader, ReaderError, storage_mcap, storage_sqlite3

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.recording import messages
from diwa_data.recording.bag_writer import tell_unfinished
from diwa_data.recording.messages import decode_value, gripper_width, header_stamp
from diwa_data.recording.sidecar import SIDECAR, Sidecar
from diwa_data.recording.source import Attempt
from diwa_data.spec import Spec
from diwa_data.ticks import Sample

METADATA = "metadata.yaml"
LARGEST_CHUNK = 64 << 20
"""Bytes of the largest chunk of an MCAP file, unpacked; recorders close theirs at a few."""
_LARGEST_OVERLAP = 512 << 20  # bytes of the chunks of one moment, which are unpacked together
_LARGEST_METADATA = 4 << 20  # bytes
_LARGEST_OTHER_MESSAGE = 1 << 20  # bytes of one that is not an image


def largest_message(spec: Spec, extra: bool = False) -> int:
    """Bytes that a message of an episode recorded under `spec` has at most; `extra`: it holds topics of others too."""
    if extra:
        return LARGEST_CHUNK
    return _LARGEST_OTHER_MESSAGE + max(4 * camera.record_size[0] * camera.record_size[1] for camera in spec.cameras)


def open_reader(path: Path, sealed: Collection[str] | None, largest: int) -> Reader:
    """A reader of the bag `path`, opened; its messages come from `read_messages`.

    `sealed` names the files that have checksums, if any have. Raises `DiwaError` if the bag names a file outside of its
    folder or without a checksum, and whatever rosbags and its libraries raise on damage.
    """
    _require_readable(path, sealed)
    reader = Reader(path)
    reader.open()
    try:
        bag: Any = reader.storage
        bag.packed = bag.metadata.compression_mode == "message"
        bag.metadata = bag.metadata._replace(compression_mode=None)  # rosbags would unpack any number of bytes
        for storage in bag.storages:
            if isinstance(storage, storage_mcap.McapReader):
                _require_small_chunks(storage)
            elif storage.dbconn:
                storage.dbconn.limit(storage_sqlite3.apsw.SQLITE_LIMIT_LENGTH, largest)
    except BaseException:
        reader.close()
        raise
    return reader


def read_messages(
    reader: Reader, connections: Collection[Any], largest: int, start: int | None = None, stop: int | None = None
) -> Iterator[tuple[Any, int, bytes]]:
    """(connection, nanoseconds received, bytes) of the messages on `connections`, in the order they were received.

    `start` and `stop`, nanoseconds, bound what is read.
    """
    bag: Any = reader.storage
    for connection, timestamp, data in bag.messages(connections, start, stop):
        yield connection, timestamp, unpack(data, largest) if bag.packed else data


def unpack(data: bytes, largest: int) -> bytes:
    """Unpack a zstd frame to at most `largest` bytes. Raises `ReaderError` if there are more."""
    content = storage_mcap.zstd.ZstdDecompressor().decompress(data, max_length=largest + 1)
    if len(content) > largest:
        raise ReaderError(f"it unpacks to more than {largest} bytes")
    return content


def _require_readable(path: Path, sealed: Collection[str] | None) -> None:
    """Raise `DiwaError` if metadata.yaml names a file elsewhere, or one that is packed as a whole.

    Its aliases are refused: unfolded they know no end.
    """
    metadata = path / METADATA
    if metadata.stat().st_size > _LARGEST_METADATA:
        raise DiwaError(f"{metadata} has {metadata.stat().st_size / 1e6:.0f} MB: it is damaged or foreign")
    text = metadata.read_text()
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _LOADER)):
        raise DiwaError(f"{metadata} refers to itself, as no recorder writes it: it is damaged or foreign")
    content = yaml.load(text, _LOADER)["rosbag2_bagfile_information"]
    if str(content.get("compression_mode")).lower() == "file":  # rosbags would unpack any number of bytes to the disk
        raise DiwaError(f"{path} is compressed as whole files: unpack it with 'ros2 bag convert'")
    for name in content["relative_file_paths"]:
        inside = PurePath(name)
        if inside.is_absolute() or ".." in inside.parts or not inside.name:
            raise DiwaError(f"{metadata} names {name!r}, which is outside of the bag: it is damaged or foreign")
        if sealed is not None and inside.name not in sealed:
            raise DiwaError(f"{metadata} names {name!r}, which has no checksum: it is damaged or foreign")


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _require_small_chunks(storage: storage_mcap.McapReader) -> None:
    """Raise `ReaderError` if the chunks of one moment would not fit into memory."""
    edges = [(chunk.message_start_time, 0, chunk.uncompressed_size) for chunk in storage.chunks]
    edges += [(chunk.message_end_time, 1, -chunk.uncompressed_size) for chunk in storage.chunks]
    together = 0
    for _, _, size in sorted(edges):
        together += size
        if together > _LARGEST_OVERLAP:
            raise ReaderError(f"chunks of one moment unpack to more than {_LARGEST_OVERLAP} bytes")


def _unpack_zstd(data: bytes, size: int) -> bytes:
    return unpack(data, min(size, LARGEST_CHUNK))


def _unpack_lz4(data: bytes, size: int) -> bytes:
    if 255 * len(data) > LARGEST_CHUNK:  # what a byte of it can stand for
        raise ReaderError(f"an lz4 chunk of {len(data)} bytes may unpack to more than {LARGEST_CHUNK}")
    return storage_mcap.lz4_decompress(data)


storage_mcap.DECOMPRESSORS |= {"zstd": _unpack_zstd, "lz4": _unpack_lz4}  # rosbags' own unpack any number of bytes


_WITH_HEADER = {messages.IMAGE_TYPE, messages.CAMERA_INFO_TYPE} | {
    kind for kind in messages.TYPES.values() if not kind.startswith("std_msgs/")
}


def find_bags(paths: Sequence[Path]) -> list[Path]:
    """The episodes among `paths`: bags, and folders of bags at any depth (in order of name).

    Raises `DiwaError` if a path does not exist or holds none.
    """
    bags: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise DiwaError(f"{path} does not exist: name a bag, or a folder of bags")
        found = [path] if is_bag(path) else sorted(p.parent for p in path.rglob(METADATA))
        found = [bag for bag in found if not any(part.startswith(".") for part in bag.relative_to(path).parts)]
        if not found:
            hint = tell_unfinished(path) if path.is_dir() else ""
            if not hint and path.is_dir() and any(file.suffix in (".mcap", ".db3") for file in path.rglob("*")):
                hint = f"there are storage files, for which 'ros2 bag reindex' writes {METADATA}"
            raise DiwaError(f"{path} holds no finished episode (a folder with {METADATA}){'; ' * bool(hint)}{hint}")
        bags += found
    return bags


def is_bag(path: Path) -> bool:
    """A folder that holds a rosbag2 recording, finished or not."""
    return (path / METADATA).is_file() or (path / SIDECAR).is_file()


def needed_topics(spec: Spec) -> list[str]:
    """Topics without which no dataset can be built; the images of the clock come first."""
    images = [messages.image_topic(camera.name) for camera in spec.cameras]
    gripper = [messages.JOINT_STATES, messages.GRIPPER_COMMAND] if spec.action.gripper else []
    scene = [messages.SCENE_STATE] if spec.scene_state else []
    return [*images, messages.CURRENT_POSE, messages.TARGET_POSE, *gripper, *scene]


class Bag:
    """An open episode; a context manager. Raises `DiwaError` if it is unfinished, truncated or damaged."""

    latched: Collection[str] = (messages.GRIPPER_COMMAND,)
    derived: Collection[str] = ()

    def __init__(self, path: Path, sidecar: Sidecar | None = None):
        """`sidecar` is believed instead of the one in the episode's folder."""
        self.path = Path(path)
        self.sidecar = Sidecar.read(self.path) if sidecar is None else sidecar
        if not self.sidecar.complete or not (self.path / METADATA).is_file():
            raise DiwaError(f"{self.path} was not finished: salvage it with 'diwa recover {self.path}'")
        self.sidecar.require_files(self.path)
        self._largest = largest_message(self.sidecar.spec, "extra_topics" in self.sidecar.labels)
        with self._damage_as_error():
            self._reader = open_reader(self.path, self.sidecar.files, self._largest)
            self.topics = {connection.topic: connection.msgcount for connection in self._reader.connections}
            """Topic -> number of messages."""

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def spec(self) -> Spec:
        """The contract it was recorded under."""
        return self.sidecar.spec

    @property
    def streams(self) -> list[str]:
        """Topics without which no dataset can be built; the images of the clock come first."""
        return needed_topics(self.spec)

    @property
    def attempts(self) -> list[Attempt]:
        """One, between the first start and stop events."""
        start, stop, success = (self.sidecar.mark(event) for event in ("start", "stop", "success"))
        withdrawn = self.sidecar.withdrawn
        return [
            Attempt(
                first=-math.inf if start is None else start,
                last=math.inf if stop is None else stop,
                success=math.inf if success is None else success,
                withdrawn=math.inf if withdrawn is None else withdrawn,
                outcome=self.sidecar.outcome,
            )
        ]

    @property
    def labels(self) -> dict[str, Any]:
        """Those it was recorded with."""
        return self.sidecar.labels

    @property
    def recorded_by(self) -> str:
        """Version of the software that recorded it."""
        return self.sidecar.version

    def require_topics(self, topics: Sequence[str]) -> None:
        """Raise `DiwaError` naming the topics without a message, and those there are."""
        missing = [topic for topic in topics if not self.topics.get(topic)]
        if missing:
            present = ", ".join(sorted(topic for topic, count in self.topics.items() if count)) or "none"
            raise DiwaError(f"{self.path} has no message on {', '.join(missing)}; topics present: {present}")

    def messages(self, topics: Sequence[str]) -> Iterator[tuple[str, Sample]]:
        """Messages of `topics` in the order they were received; values are CDR bytes.

        A message without a header has `received` for its stamp.
        """
        connections = [connection for connection in self._reader.connections if connection.topic in topics]
        if not connections:
            return
        with self._damage_as_error():
            for connection, timestamp, data in read_messages(self._reader, connections, self._largest):
                received = timestamp * 1e-9
                stamp = header_stamp(data) if connection.msgtype in _WITH_HEADER else received
                yield connection.topic, Sample(data, stamp, received)

    def value(self, stream: str, sample: Sample) -> Any:
        """As `Source.value`."""
        where = f"{self.path}: {stream} at {sample.received:.3f} s"
        value = decode_value(stream, sample.value, where)
        return gripper_width(value, where) if stream == messages.JOINT_STATES else value

    def read_through(self) -> None:
        """Read every message; raises `DiwaError` on damage."""
        for _ in self.messages(list(self.topics)):
            pass

    def _damage_as_error(self) -> AbstractContextManager[None]:
        cure = f"salvage what is left with 'diwa recover {self.path}'"
        return damage_as_error(f"{self.path} is truncated or damaged", cure)


def read_episode(path: Path, topics: Sequence[str] | None = None) -> dict[str, list[Sample]]:
    """All messages of an episode, decoded, by topic (default: every topic known here; images too).

    Values: `Pose`, rgb image (H, W, 3), joints as the ROS message, gripper float, event str, scene state (N,).
    """
    with Bag(path) as bag:
        known = [*messages.TYPES, *(messages.image_topic(camera.name) for camera in bag.spec.cameras)]
        wanted = [topic for topic in bag.topics if topic in (known if topics is None else topics)]
        streams: dict[str, list[Sample]] = {topic: [] for topic in wanted}
        for topic, sample in bag.messages(wanted):
            streams[topic].append(sample._replace(value=decode_value(topic, sample.value, f"{path}: {topic}")))
        return streams
