"""Opening rosbag2 folders that may be damaged or made to harm: what they may name, how much memory they may take."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any

import yaml
from rosbags.rosbag2 import Reader, ReaderError, storage_mcap, storage_sqlite3

from diwa_data.errors import DiwaError
from diwa_data.spec import Spec

METADATA = "metadata.yaml"
LARGEST_CHUNK = 64 << 20
"""Bytes of the largest chunk of an MCAP file, unpacked; recorders close theirs at a few."""
_LARGEST_OVERLAP = 512 << 20  # bytes of the chunks of one moment, which are unpacked together
_LARGEST_METADATA = 4 << 20  # bytes
_LARGEST_OTHER_MESSAGE = 1 << 20  # bytes of one that is no image
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def largest_message(spec: Spec) -> int:
    """Bytes that a message of an episode recorded under `spec` has at most."""
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
        for storage in reader.storage.storages:  # type: ignore[attr-defined]
            if isinstance(storage, storage_mcap.McapReader):
                _require_small_chunks(storage)
            elif storage.dbconn:
                storage.dbconn.limit(storage_sqlite3.apsw.SQLITE_LIMIT_LENGTH, largest)
    except BaseException:
        reader.close()
        raise
    return reader


def read_messages(reader: Reader, connections: Collection[Any], largest: int) -> Iterator[tuple[Any, int, bytes]]:
    """(connection, nanoseconds received, bytes) of the messages on `connections`, in the order they were received."""
    bag: Any = reader.storage
    packed = bag.metadata.compression_mode == "message"
    bag.metadata = bag.metadata._replace(compression_mode=None)  # rosbags would unpack any number of bytes
    for connection, timestamp, data in bag.messages(connections):
        yield connection, timestamp, unpack(data, largest) if packed else data


def unpack(data: bytes, largest: int) -> bytes:
    """Unpack a zstd frame to at most `largest` bytes. Raises `ReaderError` if there are more."""
    content = storage_mcap.zstd.ZstdDecompressor().decompress(data, max_length=largest + 1)
    if len(content) > largest:
        raise ReaderError(f"it unpacks to more than {largest} bytes")
    return content


def is_packed(data: bytes) -> bool:
    """Whether these bytes are a zstd frame; serialised messages never begin like one."""
    return data[:4] == _ZSTD_MAGIC


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
