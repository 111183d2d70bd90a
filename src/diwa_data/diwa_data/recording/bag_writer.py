"""A rosbag2 folder that appears only when it is complete."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, Protocol

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, ReaderError, StoragePlugin, Writer, storage_mcap

from diwa_data import __version__
from diwa_data.errors import DiwaError
from diwa_data.files import full_disk_as_error, move_into_place, remove
from diwa_data.recording import messages
from diwa_data.recording.sidecar import Sidecar, TopicStatistics

Storage = Literal["mcap", "sqlite3"]

HIDDEN = ".recording-"
"""Folders of unfinished episodes begin with it: `.recording-<name>-<pid>/<name>`."""

_LOCK = "lock"  # held by the recorder as long as it lives
_ZSTD_LEVEL = 1
_CRC_OFFSET = 1 + 8 + 3 * 8  # of a chunk record: opcode, length; start, end, size
_BAG_VERSION: Literal[8] = 8  # Humble and Jazzy read it; 9 is Jazzy only
_NO_HASH = f"RIHS01_{'0' * 64}"  # of a type that is known by its text alone
_ANY = QosTime(0, 0)  # no deadline, lifespan or lease
_QUEUE, _DELIVERY = (QosHistory.KEEP_LAST, 10), (QosReliability.RELIABLE, QosDurability.VOLATILE)
_QOS = Qos(*_QUEUE, *_DELIVERY, _ANY, _ANY, QosLiveliness.AUTOMATIC, _ANY, False)


class Backend(Protocol):
    """Whatever writes a rosbag2 folder: `rosbags` here, rosbag2 itself inside ROS 2."""

    def write(self, topic: str, message_type: str, nanoseconds: int, data: bytes | memoryview) -> None:
        """Append one serialised message; the first of a topic makes it known."""

    def close(self) -> None:
        """Complete the folder."""

    def abort(self) -> None:
        """Let go of the files, which will be deleted; may raise `OSError`."""


class RosbagsBackend:
    """rosbag2 folders without ROS."""

    def __init__(self, bag: Path, storage: Storage, definitions: Mapping[str, str] | None = None):
        """`definitions`: the texts of types that are not ROS's own."""
        self._writer = _open_writer(bag, storage)
        self._definitions = {} if definitions is None else definitions  # may be filled later
        self._connections: dict[str, Connection] = {}

    def write(self, topic: str, message_type: str, nanoseconds: int, data: bytes | memoryview) -> None:
        if topic not in self._connections:
            text = self._definitions.get(message_type)
            self._connections[topic] = self._writer.add_connection(
                topic, message_type, typestore=messages.typestore(), msgdef=text, rihs01=_NO_HASH,
                offered_qos_profiles=[_QOS],
            )  # fmt: skip
        self._writer.write(self._connections[topic], nanoseconds, data)

    def close(self) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.abort()


class BagWriter:
    """Writes serialised messages into a hidden folder, which `finish` renames to `folder/name`.

    On any write error the bag is discarded; a full disk raises `DiwaError`.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        sidecar: Sidecar,
        storage: Storage,
        backend: Callable[[Path, Storage], Backend] = RosbagsBackend,
    ):
        """`sidecar` is written at once (incomplete) and again by `finish`; its topic statistics are kept here.

        Raises `DiwaError` if `folder/name` exists. An unfinished recording of that name is replaced.
        """
        self.path = folder / name
        """Where the bag will be."""
        self.sidecar = sidecar
        if self.path.exists():
            raise DiwaError(f"{self.path} exists already: record under another name or into another folder")
        for unfinished in folder.glob(f"{HIDDEN}{name}-*"):
            if is_running(unfinished):
                raise DiwaError(f"{self.path} is being recorded by another process: choose another name")
            remove(unfinished)
        self._bag = folder / f"{HIDDEN}{name}-{os.getpid()}" / name
        with full_disk_as_error(self.path):
            self._bag.parent.mkdir(parents=True)
            self._lock = (self._bag.parent / _LOCK).open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._backend = backend(self._bag, storage)
        with self._all_or_nothing():
            self.sidecar.write(self._bag)

    def write(self, topic: str, message_type: str, received: float, data: bytes | memoryview) -> None:
        """Write one message, received at `received` seconds."""
        try:
            self._backend.write(topic, message_type, messages.nanoseconds(received), data)
        except BaseException:  # not by a context manager: this is called a thousand times a second
            with self._all_or_nothing():
                raise
        self.sidecar.topics.setdefault(topic, TopicStatistics()).add(received)

    def finish(self) -> Path:
        """Complete the bag and return its folder; only now does it appear.

        Raises `DiwaError` if not every message is in its file; what there is can be salvaged with `diwa recover`.
        """
        with self._all_or_nothing():
            self._backend.close()
        self._require_whole()
        with self._all_or_nothing():
            self.sidecar.complete = True
            self.sidecar.seal(self._bag)
            self.sidecar.write(self._bag)
            move_into_place(self._bag, self.path)
        self._lock.close()
        remove(self._bag.parent)
        return self.path

    def discard(self) -> None:
        """Delete what was written."""
        with contextlib.suppress(OSError):  # a full disk fails again while its buffers are flushed
            self._backend.abort()
        self._lock.close()
        remove(self._bag.parent)

    def _require_whole(self) -> None:
        """Count the messages in the file itself: storages have been seen to drop them silently on a full disk."""
        written, found = sum(topic.count for topic in self.sidecar.topics.values()), count_messages(self._bag)
        if found != written:
            self._lock.close()
            raise DiwaError(
                f"{self._bag} holds {found} of {written} messages (disk full or failing?): free space, then salvage it "
                f"with 'diwa recover {self._bag}'"
            )

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        with full_disk_as_error(self.path):
            try:
                yield
            except BaseException:
                self.discard()
                raise


def next_name(folder: Path) -> str:
    """The first number that no episode has, finished or not."""
    unfinished = {path.name[len(HIDDEN) :].split("-")[0] for path in folder.glob(f"{HIDDEN}*")}
    names = (f"{number:06d}" for number in itertools.count())
    return next(name for name in names if name not in unfinished and not (folder / name).exists())


def count_messages(bag: Path) -> int:
    """Messages in the storage file of a closed bag; 0 if it cannot be read."""
    try:
        if database := next(bag.glob("*.db3"), None):
            with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
                return int(connection.execute("SELECT count(*) FROM messages").fetchone()[0])
        reader = storage_mcap.McapReader(next(bag.glob("*.mcap")))
        reader.open()
        with contextlib.closing(reader):
            return int(reader.metadata.message_count)
    except (StopIteration, OSError, ReaderError, AssertionError, ValueError, struct.error, sqlite3.Error):
        return 0


def is_running(unfinished: Path) -> bool:
    """The recorder that writes this hidden folder is alive."""
    try:
        with (unfinished / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def unfinished_episodes(folder: Path) -> list[Path]:
    """Folders that killed recorders left at any depth of `folder`."""
    left = [path for path in folder.rglob(f"{HIDDEN}*") if path.is_dir() and any(path.iterdir())]
    return sorted(path for path in left if not is_running(path))


def tell_unfinished(folder: Path) -> str:
    """One line for the operator about `unfinished_episodes`; empty if there are none."""
    left = unfinished_episodes(folder)
    names = ", ".join(path.name[len(HIDDEN) :].rsplit("-", 1)[0] for path in left)
    return f"{folder} holds {len(left)} unfinished: {names}; save with 'diwa recover {folder}'" if left else ""


def _open_writer(bag: Path, storage: Storage) -> Writer:
    mcap = storage == "mcap"
    writer = Writer(bag, version=_BAG_VERSION, storage_plugin=StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode.STORAGE if mcap else CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    writer.set_custom_data("diwa_version", __version__)
    writer.open()
    if isinstance(writer.storage, storage_mcap.McapWriter):
        writer.storage.compressor = functools.partial(storage_mcap.zstd.compress, level=_ZSTD_LEVEL)
        _write_chunk_checksums(writer.storage)
    return writer


def _write_chunk_checksums(storage: storage_mcap.McapWriter) -> None:
    """Fill in the CRC of each chunk's content, which rosbags checks on reading and leaves out on writing."""
    close_chunk = storage.close_chunk

    def close_chunk_with_crc() -> None:
        start, crc = storage.bio.tell(), zlib.crc32(storage.chunk.bio.getbuffer())
        close_chunk()
        end = storage.bio.tell()
        storage.bio.seek(start + _CRC_OFFSET)
        storage.bio.write(crc.to_bytes(4, "little"))
        storage.bio.seek(end)

    storage.close_chunk = close_chunk_with_crc  # type: ignore[method-assign]
