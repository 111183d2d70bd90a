"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diwa_data.errors import DiwaError


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
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            free = shutil.disk_usage(path.parent).free / 1e6
            raise DiwaError(f"no space left to write {path} ({free:.0f} MB free): free some and run again") from error
        raise


def remove(path: Path) -> None:
    """Delete a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
