"""JSON, read with clear errors and written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path

_LARGEST = 200_000_000  # bytes of a file
_DEEPEST = 100  # lists and objects inside each other
_LARGEST_INTEGER = 1 << 256  # a generator's state has 128 bits; floats end at 1024


def read_json(path: Path, cure: str) -> Any:
    """The JSON value in the file `path`. Raises `DiwaError`, which ends in `cure`, if it is missing or damaged."""
    return parse_json(read_bytes(path, cure), str(path), cure)


def read_object(path: Path, cure: str) -> dict[str, Any]:
    """As `read_json`, of a file that must hold an object."""
    value = read_json(path, cure)
    if not isinstance(value, dict):
        raise DiwaError(f"{path} is damaged (it holds no JSON object): {cure}")
    return value


def read_bytes(path: Path, cure: str) -> bytes:
    """The bytes of a file. Raises `DiwaError`, which ends in `cure`, if it is missing or too large to be ours."""
    if not path.is_file():
        raise DiwaError(f"{path} is missing: {cure}")
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


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all; what JSON does not know is written as its text."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str) + "\n")


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
