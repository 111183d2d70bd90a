"""What a dataset's file may hold: its layout before anything is read of it, its values once they are.

A file of others may name other files, declare rows that were never written, or hold what no recording gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.files import parse_object

CURE = "build it again, or find the bag with 'diwa inspect'"
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_LARGEST_CHUNK = 64 << 20  # bytes, unpacked
_KINDS = {"f": "real numbers", "b": "true or false", "u": "uint8"}
_ATTRIBUTES: dict[str, tuple[type, Any]] = {
    "bag": (str, ""),
    "source": (str, ""),
    "skill": (str, ""),
    "labels": (str, "{}"),
    "flagged": (list, []),
    "clipped": (int, 0),
    "clipped_share": (float, 0.0),
    "success_tick": (int, -1),
}
"""Attribute -> its type and what stands for it in files without it."""


def member(group: h5py.Group, name: str, kind: type, where: str) -> Any:
    """The group or array `name` that lies in `group` itself. Raises `DiwaError` if it is missing, or lies elsewhere."""
    if not group.id.links.exists(name.encode()):
        raise DiwaError(f"{where} has no {name}: {CURE}")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise DiwaError(f"{where}: {name} is a link to elsewhere, which is not followed: {CURE}")
    found = group[name]
    if not isinstance(found, kind):
        raise DiwaError(f"{where}: {name} is no {'array' if kind is h5py.Dataset else 'group'}: {CURE}")
    if isinstance(found, h5py.Dataset):
        _require_here(found, f"{where}: {name}")
    return found


def _require_here(stored: h5py.Dataset, where: str) -> None:
    """Raise `DiwaError` unless every row of an array is written in this file, and by filters that unpack in bounds."""
    plist = stored.id.get_create_plist()
    layout = plist.get_layout()
    if layout == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise DiwaError(f"{where} lies in another file, which is not followed: {CURE}")
    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    if unknown := [each for each in filters if each not in _FILTERS]:
        raise DiwaError(f"{where} is packed by filter {unknown[0]}, known are {', '.join(_FILTERS.values())}: {CURE}")
    if stored.shape is None or stored.dtype.hasobject:
        raise DiwaError(f"{where} holds no plain numbers: {CURE}")
    if layout == h5py.h5d.CHUNKED:
        if math.prod(stored.chunks) * stored.dtype.itemsize > _LARGEST_CHUNK:
            raise DiwaError(f"{where} has chunks of {stored.chunks}, more than {_LARGEST_CHUNK >> 20} MiB: {CURE}")
        wanted = math.prod(-(-size // chunk) for size, chunk in zip(stored.shape, stored.chunks, strict=True))
        written = stored.id.get_num_chunks() == wanted
    else:
        written = stored.id.get_storage_size() >= stored.size * stored.dtype.itemsize
    if not written:
        raise DiwaError(f"{where} has shape {stored.shape}, but not all of it was written: {CURE}")


def require_rows(stored: h5py.Dataset, kind: str, shape: tuple[int, ...], where: str) -> None:
    """Raise `DiwaError` unless an array is of this kind (f, b or u for uint8) and shape."""
    if stored.dtype.kind != kind or (kind == "u" and stored.dtype != np.uint8):
        raise DiwaError(f"{where} is {stored.dtype}, but should be {_KINDS[kind]}: {CURE}")
    if stored.shape != shape:
        raise DiwaError(f"{where} has shape {stored.shape}, its spec says {shape}: {CURE}")


def require_room(path: Path, episodes: Sequence[dict[str, h5py.Dataset]]) -> None:
    """Raise `DiwaError` if all arrays together take more bytes than the file has: some lie in the same place."""
    stored = sum(array.id.get_storage_size() for arrays in episodes for array in arrays.values())
    if stored > path.stat().st_size:
        raise DiwaError(f"{path} declares {stored} bytes of arrays, and has {path.stat().st_size}: {CURE}")


def require_values(rows: dict[str, np.ndarray], where: str) -> None:
    """Raise `DiwaError` on what no recording gives: a number that is not finite, stamps that go back, wild actions."""
    for key, values in rows.items():
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DiwaError(f"{where}: {key} is not finite at tick {row}: {CURE}")
    outside = np.abs(rows["action"]).max(axis=1) > 1
    if outside.any():
        row = int(np.argmax(outside))
        raise DiwaError(f"{where}: action is {rows['action'][row].tolist()} at tick {row}, outside of [-1, 1]: {CURE}")
    for key, least in (("stamp", np.nextafter(0, 1)), ("received", 0.0)):
        back = np.diff(rows[key]) < least
        if back.any():
            row = int(np.argmax(back))
            now, then = rows[key][row : row + 2].tolist()
            raise DiwaError(f"{where}: {key} goes from {now} to {then} at tick {row + 1}: {CURE}")


def read_attributes(group: h5py.Group, length: int, where: str) -> dict[str, Any]:
    """An episode's attributes as plain values, labels as a dict, each of its type; those of old files completed."""
    found = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in group.attrs.items()}
    attributes = {key: default for key, (_, default) in _ATTRIBUTES.items()} | found
    for key, (kind, _) in _ATTRIBUTES.items():
        value = attributes[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise DiwaError(f"{where}: {key} is {str(value)[:60]!r}, which is no {kind.__name__}: {CURE}")
    flagged, mark = attributes["flagged"], attributes["success_tick"]
    if not all(isinstance(tick, int) and 0 <= tick < length for tick in flagged) or not -1 <= mark < length:
        raise DiwaError(f"{where}: a flagged tick or the success tick {mark} is outside of its {length} ticks: {CURE}")
    if attributes["clipped"] < 0 or not 0 <= attributes["clipped_share"] <= 1:
        raise DiwaError(f"{where}: clipped is {attributes['clipped']}, {attributes['clipped_share']}: {CURE}")
    return attributes | {"labels": parse_object(attributes["labels"], f"{where}: labels", CURE)}


def read_text(attributes: h5py.AttributeManager, key: str, where: str) -> str:
    """A text among a file's attributes. Raises `DiwaError` if it is missing or something else."""
    value = attributes.get(key)
    if not isinstance(value, str):
        raise DiwaError(f"{where}: its {key} is missing or no text: {CURE}")
    return value
