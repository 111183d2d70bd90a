"""HDF5 files that begin with a checksum of themselves, and arrays of which each chunk has one.

HDF5 leaves the first bytes of a file to its user. Here they are JSON with the SHA-256 of all that follows, so that a
bit that flips anywhere, in HDF5's own structures too, is seen before HDF5 reads them; other programs do not notice.
"""

from __future__ import annotations

import json
import os
import shutil
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from diwa_data.manifest import changed, file_digest, warn_unsealed

_HEADER = 512  # bytes


_SIGNATURE = b"\x89HDF\r\n\x1a\n"


_CHUNK = 8  # images


def new_file(path: Path) -> h5py.File:
    """A new file, with room for its checksum, which `write_digest` fills in once it is closed."""
    return h5py.File(path, "w", userblock_size=_HEADER)


def write_digest(path: Path) -> None:
    """Write the checksum into a file that has room for it."""
    header = json.dumps({"diwa-ros2": "dataset", "sha256": file_digest(path, _HEADER)}).encode()
    with path.open("r+b") as file:
        file.write(header.ljust(_HEADER - 1) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def has_room(path: Path) -> bool:
    """Whether an HDF5 file has room for a checksum."""
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) != _SIGNATURE


def copy_with_room(source: Path, target: Path) -> None:
    """Copy an HDF5 file that has no room for a checksum into one that has."""
    with source.open("rb") as file, target.open("wb") as copy:
        copy.write(bytes(_HEADER))
        shutil.copyfileobj(file, copy, 1 << 20)


def require_digest(path: Path, cure: str) -> None:
    """Raise `DiwaError` if a file is not as it was written, and `ValueError` if it is no HDF5 at all.

    One without a checksum is told of. One that was found whole is not read again until it changes.
    """
    state = path.stat()
    _require_digest(path, cure, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _require_digest(path: Path, cure: str, inode: int, size: int, modified: int) -> None:
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if header.startswith(_SIGNATURE):
        warn_unsealed(f"{path} is")
        return
    content = json.loads(header) if header.startswith(b"{") else None
    if not isinstance(content, dict):
        raise ValueError("it begins neither with a checksum nor as HDF5 does")
    if content.get("sha256") != file_digest(path, _HEADER):
        raise changed(str(path), path, cure)


def write_rows(group: h5py.Group, name: str, rows: np.ndarray) -> None:
    """Write an array of an episode, each chunk with a checksum."""
    group.create_dataset(name, data=rows, fletcher32=True)


def create_images(group: h5py.Group, name: str, length: int, size: tuple[int, int]) -> h5py.Dataset:
    """An array of `length` rgb images of `size` (height, width), to be filled and resized; packed, with checksums."""
    shape, chunks, most = (length, *size, 3), (_CHUNK, *size, 3), (None, *size, 3)
    return group.create_dataset(name, shape, np.uint8, maxshape=most, chunks=chunks, compression="lzf", fletcher32=True)
