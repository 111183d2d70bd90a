"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diwa_data.errors import DiwaError

_FULL = ("No space left", "disk is full")  # HDF5's and SQLite's words
_MARGIN = 1_000_000  # bytes that HDF5 may need for its own structures


def home() -> Path:
    """Where skills, calibrations and certificates are kept: `$DIWA_HOME`, by default `~/.diwa`."""
    return Path(os.environ.get("DIWA_HOME", Path.home() / ".diwa"))


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary sibling to write (file or folder); renamed to `path` on success, deleted on any error.

    Raises `DiwaError` when the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with full_disk_as_error(path):
            yield temporary
            remove(path) if path.is_dir() else None
            os.replace(temporary, path)
    finally:
        remove(temporary)


@contextmanager
def full_disk_as_error(path: Path) -> Iterator[None]:
    """Turn 'no space left' into a `DiwaError` that names the path and the cure."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 raises RuntimeError while it closes a file
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or any(words in str(error) for words in _FULL):
            raise _no_space(path) from error
        raise


def require_space(path: Path, size: int) -> None:
    """Raise `DiwaError` if `size` bytes and a little more do not fit on the disk of `path`, which need not exist.

    HDF5 reports a full disk late and in many words, so its writers ask first.
    """
    if shutil.disk_usage(path.parent).free < size + _MARGIN:
        raise _no_space(path)


def require_free(folder: Path, megabytes: float) -> None:
    """Raise `DiwaError` if less than `megabytes` are free on the disk of `folder`: recorders stop before it is full."""
    free = free_mb(folder)
    if free < megabytes:
        raise DiwaError(f"only {free:.0f} MB free at {folder}, {megabytes:.0f} MB are kept: free some and go on")


def free_mb(folder: Path) -> float:
    """Free megabytes on the disk of an existing folder."""
    return shutil.disk_usage(folder).free / 1e6


def _no_space(path: Path) -> DiwaError:
    return DiwaError(f"no space left to write {path} ({free_mb(path.parent):.1f} MB free): free some and run again")


def remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
