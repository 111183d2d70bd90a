"""Checksums of files and of JSON contents: how what was damaged or changed since it was written is told."""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

from diwa_data.errors import DiwaError

_BLOCK = 1 << 20


def file_digest(path: Path, start: int = 0) -> str:
    """SHA-256 of a file from byte `start` on, in hexadecimal."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while read := file.readinto(buffer):
            digest.update(buffer[:read])
    return digest.hexdigest()


def content_digest(content: Any) -> str:
    """SHA-256 of a JSON value, however it is laid out in a file, in hexadecimal."""
    plain = json.loads(json.dumps(content, default=str))  # as it will be read again
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def require_format(number: Any, known: int, where: str) -> None:
    """Raise `DiwaError` unless `number` is a format that this version reads, 1 to `known`."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise DiwaError(f"{where} has format {number!r}, which is no number from 1 up: it is damaged")
    if number > known:
        raise DiwaError(f"{where} has format {number}, this version reads up to {known}: install a newer diwa-ros2")


def changed(what: str, path: Path, cure: str) -> DiwaError:
    """The error of a file or folder whose checksum is another; `cure` is what helps if it was damaged."""
    return DiwaError(
        f"{what} is truncated or damaged (its checksum is another): {cure}; or, if you changed it on purpose, make its "
        f"checksums anew with 'diwa seal {path}'"
    )


@cache
def warn_unsealed(what: str) -> None:
    """Say once, '{what} without checksums', so that damage would not be seen."""
    print(f"warning: {what} without checksums (made before 0.2, or by others): 'diwa seal' adds them", file=sys.stderr)
