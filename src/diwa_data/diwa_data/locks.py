"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from diwa_data.errors import DiwaError

_LEFT = re.compile(r"\..*\.\d+\.part")  # by a process that was killed while it wrote
LOCK = ".lock"
"""Name of the file in a folder that its user holds."""


class FolderLock:
    """Keeps other processes out of a folder until `release`; a context manager.

    It ends with the process, however that ends: what a killed one left does not block.
    """

    def __init__(self, folder: Path):
        """Make the folder if need be, and lock it. Raises `DiwaError` saying who holds it if another process does."""
        self._made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOCK
        self._file: IO[str] | None = _hold(self._path)
        self._file.truncate(0)
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, self._file)
        self._file.flush()

    def release(self) -> None:
        """Let others in; nothing of the lock is left, nor the folder if it was made for it and is empty."""
        if self._file:
            self._path.unlink(missing_ok=True)  # while it is held, so that nobody waits for a name that is gone
            self._file.close()
            self._file = None
            if self._made:
                with suppress(OSError):
                    self._path.parent.rmdir()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def require_ours(folder: Path, what: str, marker: str, *before: str) -> None:
    """Raise `DiwaError` if `folder` holds anything without holding a `what`, known by its file `marker`.

    `before` are the files that one writes before its marker.
    """
    if folder.is_dir() and not (folder / marker).is_file():
        for path in folder.iterdir():
            if path.name not in (LOCK, *before) and not _LEFT.fullmatch(path.name):
                raise DiwaError(f"{folder} holds {path.name} and no {what}: choose another folder")


def _hold(path: Path) -> IO[str]:
    """The file at `path`, open and locked."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except FileNotFoundError:
            pass  # removed since `exists`
        except BlockingIOError as error:
            with file:
                raise DiwaError(
                    f"{path.parent} is in use by {_holder(file)}: wait for it, stop it, or choose another folder"
                ) from error
        file.close()  # its holder has removed it meanwhile


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        found = json.load(file)
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):  # it is about to write this
        return "another process"
