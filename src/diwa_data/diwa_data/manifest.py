"""`manifest.json` of checkpoints and skill bundles: the SHA-256 of the folder's files, and of the manifest itself."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from diwa_data.errors import DiwaError
from diwa_data.files import as_json, json_text, read_object, write_json

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
    return hashlib.sha256(json_text(as_json(content)).encode()).hexdigest()


def require_format(number: Any, known: int, where: str) -> None:
    """Raise `DiwaError` unless `number` is a format that this version reads, 1 to `known`."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise DiwaError(f"{where} has format {number!r}, which is not a number from 1 up: it is damaged")
    if number > known:
        raise DiwaError(f"{where} has format {number}, this version reads up to {known}: install a newer diwa-ros2")


def changed(what: str, path: Path, cure: str) -> DiwaError:
    """The error of a file or folder whose checksum differs; `cure` is what helps if it was damaged."""
    return DiwaError(
        f"{what} is truncated or damaged (its checksum differs): {cure}; or, if you changed it on purpose, write "
        f"new checksums with 'diwa seal {path}'"
    )


@cache
def warn_unsealed(what: str) -> None:
    """Say once, '{what} without checksums', so that damage would not be seen."""
    print(f"warning: {what} without checksums (made before 0.2, or by others): 'diwa seal' adds them", file=sys.stderr)


MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the manifests' format."""
CHECKPOINT_FILES = ("weights.safetensors", "config.json", "spec.json", "metrics.json")
"""The files of a checkpoint that its manifest covers."""

_told: set[Path] = set()


def write_manifest(folder: Path, names: Iterable[str], known: Mapping[str, str] | None = None) -> None:
    """Write the manifest of the files `names` of a folder; of those in `known` the SHA-256 is given."""
    files = {name: (known or {}).get(name) or file_digest(folder / name) for name in sorted(names)}
    content = {"format": FORMAT, "files": files}
    write_json(folder / MANIFEST, content | {"sha256": content_digest(content)})


def require_sealed(folder: Path, names: Iterable[str], cure: str) -> None:
    """Raise `DiwaError`, with `cure`, if a file of a folder is not what its manifest says, or the manifest is damaged.

    A folder without a manifest was made before 0.2, or by others: that is said once, unless it was of one around it.
    """
    path, place = folder / MANIFEST, folder.resolve()
    if not path.exists():
        if not _told & {place, *place.parents}:
            _told.add(place)
            warn_unsealed(f"{folder} is")
        return
    content = read_object(path, f"{cure}, or write it again with 'diwa seal {folder}'")
    require_format(content.get("format"), FORMAT, str(path))
    if content.pop("sha256", None) != content_digest(content):
        raise changed(str(path), folder, cure)
    files = content.get("files")
    if not isinstance(files, dict) or sorted(files) != sorted(names):
        there = ", ".join(files) if isinstance(files, dict) else f"{files!r:.100}"
        raise DiwaError(
            f"{path} lists {there}, not {', '.join(sorted(names))}: {cure}, or write it again with 'diwa seal {folder}'"
        )
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise DiwaError(f"{folder / name} is missing: {cure}")
        if file_digest(folder / name) != digest:
            raise changed(str(folder / name), folder, cure)
