"""Files and folders that are there whole or not at all, and one process at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from diwa_data.errors import DiwaError

_FULL = ("No space left", "disk is full")  # HDF5's and SQLite's words
_MARGIN = 1_000_000  # bytes that HDF5 may need for its own structures
_LARGEST = 200_000_000  # bytes of a file
_DEEPEST = 100  # lists and objects inside each other
_LARGEST_INTEGER = 1 << 256  # a generator's state has 128 bits; floats end at 1024
_LEFT = re.compile(r"\..*\.\d+\.part")  # by a process that was killed while it wrote
LOCK = ".lock"
"""Name of the file in a folder that its user holds."""


def home() -> Path:
    """The folder of skills, calibrations and certificates: `$DIWA_HOME`, by default `~/.diwa`."""
    return Path(os.environ.get("DIWA_HOME", Path.home() / ".diwa"))


def expanded(path: str) -> Path:
    """`path` with the home folder for a leading `~`, or for `~NAME` if there is a user of that name."""
    return Path(os.path.expanduser(path))


@contextmanager
def atomic_path(path: Path, replaces: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A temporary sibling to write (file or folder); renamed to `path` on success, deleted on any error.

    Raises `DiwaError` when the disk is full, and before anything is written where `require_output` does.
    """
    path = Path(path)
    require_output(path, replaces)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, aside = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        with full_disk_as_error(path):
            yield temporary
            require_output(path, replaces)  # it may have come meanwhile
            if temporary.is_dir() and path.is_file():
                raise DiwaError(f"{path} is a file and is not replaced by a folder: delete it, or choose another name")
            if path.is_dir():
                os.replace(path, aside)  # of a link to a folder, the link
            move_into_place(temporary, path)
    finally:
        if aside.exists() and not path.exists():
            os.replace(aside, path)
        remove(aside)
        remove(temporary)


def require_output(path: Path, replaces: Callable[[Path], bool] | None = None) -> None:
    """Raise `DiwaError` unless a file or folder may be written to `path`.

    It may where nothing is, and in place of a file. A folder is replaced only if `replaces` recognises it by its
    contents as one that this program made for the same purpose; devices, pipes and sockets never are. Commands that
    work for long before they write ask first.
    """
    path = Path(path)
    if path.is_dir():
        if replaces is None or not replaces(path):
            raise DiwaError(f"{path} is a folder, which is never replaced: delete it yourself, or choose another name")
    elif (path.exists() or path.is_symlink()) and not path.is_file():
        raise DiwaError(f"{path} is not an ordinary file and is not replaced: choose another name")
    parent = next((folder for folder in path.absolute().parents if folder.exists()), path)
    if not parent.is_dir():
        raise DiwaError(f"{path} cannot be written: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DiwaError(f"{path} cannot be written: no permission to write into {parent}")


def require_output_folder(path: Path) -> None:
    """Raise `DiwaError` unless `path` is a folder that can be written into, or can become one."""
    if path.is_file():
        raise DiwaError(f"{path} is a file: name a folder")
    require_output(path, replaces=lambda folder: True)


def require_new(path: Path) -> None:
    """Raise `DiwaError` if anything is at `path`, or nothing can be written there."""
    if path.exists() or path.is_symlink():
        raise DiwaError(f"{path} exists already: delete it, or choose another --out")
    require_output(path)


def move_into_place(source: Path, target: Path) -> None:
    """Rename what is finished to its final name, so that it is whole there even after a power cut.

    The bytes of a file, or of all files below a folder, are on the disk before the name is, and the name is when this
    returns.
    """
    for path in (*source.rglob("*"), source):
        _sync(path)
    os.replace(source, target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # network file systems that cannot sync a folder
            raise
    finally:
        os.close(descriptor)


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
        raise DiwaError(
            f"only {free:.0f} MB are free at {folder}, but {megabytes:.0f} MB must stay free: free some, then continue"
        )


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


class FolderLock(AbstractContextManager["FolderLock"]):
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

    def __exit__(self, *_: object) -> None:
        self.release()


def _hold(path: Path) -> IO[str]:
    """The file at `path`, open and locked."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with file:
                who = _holder(file)
            raise DiwaError(
                f"{path.parent} is in use by {who}: wait for it, stop it, or choose another folder"
            ) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()  # its holder has removed it meanwhile


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        found = json.load(file)
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):  # it is about to write this
        return "another process"


def require_ours(folder: Path, what: str, marker: str, *before: str) -> None:
    """Raise `DiwaError` if `folder` holds anything without holding a `what`, known by its file `marker`.

    `before` are the files that one writes before its marker.
    """
    if folder.is_dir() and not (folder / marker).is_file():
        for path in folder.iterdir():
            if path.name not in (LOCK, *before) and not _LEFT.fullmatch(path.name):
                raise DiwaError(f"{folder} holds {path.name}, but no {what}: choose another folder")


def read_json(path: Path, cure: str) -> Any:
    """The JSON value in the file `path`. Raises `DiwaError`, which ends in `cure`, if it is missing or damaged."""
    return parse_json(read_bytes(path, cure), str(path), cure)


def read_object(path: Path, cure: str) -> dict[str, Any]:
    """As `read_json`, of a file that must hold an object."""
    return parse_object(read_bytes(path, cure), str(path), cure)


def read_bytes(path: Path, cure: str) -> bytes:
    """The bytes of a file. Raises `DiwaError`, which ends in `cure`, if it is missing or too large to be ours."""
    if not path.is_file():
        raise DiwaError(f"{path} is {'a folder, not a file' if path.is_dir() else 'missing'}: {cure}")
    if path.stat().st_size > _LARGEST:
        raise DiwaError(f"{path} has {path.stat().st_size / 1e6:.0f} MB, at most {_LARGEST / 1e6:.0f} are read: {cure}")
    return path.read_bytes()


def parse_json(text: str | bytes, where: str, cure: str) -> Any:
    """The value of a JSON text (UTF-8). Raises `DiwaError` naming `where` and ending in `cure` if there is none.

    Refused too are what no file of ours holds and others would stumble over later: deep nesting, integers beyond 256
    bits, and text that cannot be encoded.
    """
    try:
        value = json.loads(text.decode() if isinstance(text, bytes) else text)
        _require_plain(value)
    except (ValueError, RecursionError) as error:
        raise DiwaError(f"{where} is damaged ({error}): {cure}") from error
    return value


def parse_object(text: str | bytes, where: str, cure: str) -> dict[str, Any]:
    """As `parse_json`, of a text that must hold an object."""
    value = parse_json(text, where, cure)
    if not isinstance(value, dict):
        raise DiwaError(f"{where} is damaged (it holds no JSON object): {cure}")
    return value


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; what JSON does not know is written as its text."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str) + "\n")


def json_text(value: Any) -> str:
    """`value` as one line of JSON, the same for equal values; what JSON does not know is written as its text."""
    return json.dumps(value, sort_keys=True, default=str)


def as_json(value: Any) -> Any:
    """`value` as it will be when `read_json` reads what `write_json` wrote."""
    return json.loads(json.dumps(value, default=str))


def require_same_settings(
    where: object,
    earlier: Any,
    now: Any,
    free: Collection[str] = (),
    otherwise: str = "choose another folder",
    usual: Any = None,
) -> None:
    """Raise `DiwaError` if what goes on at `where` was begun with other settings than it goes on with `now`.

    It names every value that differs, by its dotted path, and ends in `otherwise`. They are compared as JSON has them;
    values whose paths are in `free` may change. What `earlier` does not name, being older than the setting, was as in
    `usual`; a list that nobody names is as good as an empty one, a switch as one that is off.
    """
    found = _differences("", earlier, as_json(now), as_json(usual))
    changes = [f"{path} was {a!r}, is {b!r}" for path, a, b in found if path not in free]
    if changes:
        raise DiwaError(f"{where} was begun with other settings: {'; '.join(changes)}. Restore them, or {otherwise}")


def _differences(path: str, old: Any, new: Any, usual: Any) -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, old, new) of every leaf in which two JSON values differ; `usual` has what `old` lacks."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            inner = usual.get(key) if isinstance(usual, dict) else None
            yield from _differences(f"{path}.{key}".lstrip("."), old.get(key, inner), new.get(key), inner)
    elif old != new and (old, new) not in ((None, []), (None, False)):
        yield path, old, new


def _require_plain(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                inner += [*node, *node.values()]
            elif isinstance(node, list):
                inner += node
            elif isinstance(node, str):
                node.encode()
            elif isinstance(node, int) and abs(node) > _LARGEST_INTEGER:
                raise ValueError(f"an integer of {node.bit_length()} bits")
        if not inner:
            return
        level = inner
    raise ValueError(f"nested more than {_DEEPEST} deep")


def folder_size(path: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
