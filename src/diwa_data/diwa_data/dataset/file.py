"""The HDF5 file of a dataset: begun, opened and sealed, and what it may hold.

HDF5 leaves the first bytes of a file to its user. Here they are JSON with the SHA-256 of all that follows, so that a
bit that flips anywhere, in HDF5's own structures too, is seen before HDF5 reads them; other programs do not notice.
A file of others may name other files, declare rows that were never written, or hold what no recording gives: its
layout is checked before anything is read of it, its values once they are.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import atomic_path, full_disk_as_error, json_text, parse_object, require_space
from diwa_data.manifest import changed, file_digest, require_format, warn_unsealed
from diwa_data.recording.marks import OUTCOMES
from diwa_data.spec import Spec, require_same

FORMAT = 1
"""Format number of datasets; those without one were written before 0.2."""
CURE = "build it again, or find the bag with 'diwa inspect'"
_HEADER = 512  # bytes before HDF5's own
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_CHUNK = 8  # images that are packed together
_BUFFER = 64  # images held before they are written
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
_ROUNDING = 1e-3  # that the length of a rotation's column may differ from 1
_LARGEST_CHUNK = 64 << 20  # bytes, unpacked
_KINDS = {"f": "real numbers", "b": "true or false", "u": "uint8"}
_ATTRIBUTES: dict[str, tuple[type, Any]] = {
    "bag": (str, ""),
    "source": (str, ""),
    "skill": (str, ""),
    "outcome": (str, ""),
    "labels": (str, "{}"),
    "segment": (int, 0),
    "derived": (str, ""),
    "flagged": (list, []),
    "clipped": (int, 0),
    "clipped_share": (float, 0.0),
    "success_tick": (int, -1),
    "withdrawn_tick": (int, -1),
}
"""Attribute -> its type and what stands for it in files without it."""


def new_file(path: Path) -> h5py.File:
    """A new file, with room for its checksum, which `write_digest` fills in once it is closed."""
    return h5py.File(path, "w", userblock_size=_HEADER)


def write_digest(path: Path) -> None:
    """Write the checksum into a file that has room for it."""
    header = json_text({"diwa-ros2": "dataset", "sha256": file_digest(path, _HEADER)}).encode()
    with path.open("r+b") as file:
        file.write(header.ljust(_HEADER - 1) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def require_digest(path: Path, cure: str) -> None:
    """Raise `DiwaError` if a file is not as it was written, and `ValueError` if it is not HDF5 at all.

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
    if not header.startswith(b'{"diwa-ros2"'):
        raise ValueError("it begins neither with a checksum nor as HDF5 does")
    if parse_object(header, f"{path}: its first line", cure).get("sha256") != file_digest(path, _HEADER):
        raise changed(str(path), path, cure)


@contextmanager
def open_file(path: Path, changed_by_hand: bool = False) -> Iterator[h5py.File]:
    """A dataset's file for reading.

    Raises `DiwaError` if it is missing, damaged, of a newer format or something else, and unless a change by hand is
    believed, if it was changed since it was written.
    """
    if not path.is_file():
        raise DiwaError(f"no dataset {path}: build it with 'diwa build-dataset'")
    with damage_as_error(f"{path} cannot be read as a dataset", CURE):
        if not changed_by_hand:
            require_digest(path, CURE)
        file = h5py.File(path, "r")
    with file:
        with damage_as_error(f"{path} cannot be read as a dataset", CURE):
            if "spec" not in file.attrs or "episodes" not in file:
                raise DiwaError(f"{path} is HDF5, but no dataset of 'diwa build-dataset'")
            if (number := file.attrs.get("format")) is not None:
                require_format(int(number), FORMAT, str(path))
        try:
            yield file
        except (OSError, KeyError) as error:
            raise DiwaError(f"{path} cannot be read as a dataset ({error}): {CURE}") from error


def is_dataset(path: Path) -> bool:
    """Whether a file is one, as far as its names tell, sealed or not."""
    try:
        with h5py.File(path, "r") as file:
            return "spec" in file.attrs and "episodes" in file
    except (OSError, RuntimeError, ValueError):
        return False


def is_sealed(path: Path) -> bool:
    """Whether a dataset carries a checksum."""
    with path.open("rb") as file:
        return file.read(len(_SIGNATURE)) != _SIGNATURE


def write_checksum(path: Path) -> None:
    """Make the checksum of a dataset again, whatever it holds."""
    if is_sealed(path):
        write_digest(path)
        return
    require_space(path, path.stat().st_size)
    with full_disk_as_error(path), atomic_path(path) as temporary:
        with path.open("rb") as file, temporary.open("wb") as copy:
            copy.write(bytes(_HEADER))
            shutil.copyfileobj(file, copy, 1 << 20)
        write_digest(temporary)


def copy_episodes(source: Path, names: Sequence[str], out: Path) -> None:
    """Make the dataset `out` of some episodes of another, in this order; it appears whole or not at all."""
    with open_file(source) as file:
        missing = [name for name in names if name not in file["episodes"]]
        if missing or not names:
            raise DiwaError(
                f"{source} has no episodes {', '.join(missing) or 'that were named'}: it has {len(file['episodes'])}"
            )
    join_episodes([(source, name) for name in names], out)


def join_episodes(episodes: Sequence[tuple[Path, str]], out: Path) -> None:
    """Make the dataset `out` of episodes of others, a file and a name each, in this order; whole or not at all.

    `out` may be one of the files. Raises `DiwaError` if they are of several contracts.
    """
    with full_disk_as_error(out), atomic_path(out) as temporary:
        with new_file(temporary) as copy:
            group = copy.create_group("episodes")
            for number, (source, name) in enumerate(episodes):
                with open_file(source) as file:
                    if number == 0:
                        copy.attrs.update({**file.attrs, "format": FORMAT})
                    require_same(read_spec(copy, out), read_spec(file, source), str(source))
                    member(file["episodes"], name, h5py.Group, str(source))
                    file.copy(f"episodes/{name}", group, f"{number:06d}")
        write_digest(temporary)


class EpisodeWriter:
    """Writes one episode's rows into a group; images leave in batches, so that an hour of them needs little memory."""

    def __init__(self, group: h5py.Group, spec: Spec):
        self.group = group
        self._images: dict[str, list[np.ndarray]] = {camera.name: [] for camera in spec.cameras}
        for camera in spec.cameras:
            shape, most, chunks = (0, *camera.size, 3), (None, *camera.size, 3), (_CHUNK, *camera.size, 3)
            packing: dict[str, Any] = {"chunks": chunks, "compression": "lzf", "fletcher32": True}
            group.create_dataset(camera.name, shape, np.uint8, maxshape=most, **packing)

    def add_images(self, images: Mapping[str, np.ndarray]) -> None:
        """The preprocessed images of the next row, by camera."""
        for camera, image in images.items():
            self._images[camera].append(image)
        if any(len(held) == _BUFFER for held in self._images.values()):
            self._write_images()

    def finish(self, rows: Mapping[str, np.ndarray], clipped: np.ndarray, attributes: Mapping[str, Any]) -> None:
        """Write everything but images, of which those of further rows are dropped.

        `clipped` says which of the actions, all but the last row's, were clipped.
        """
        self._write_images()
        for camera in self._images:
            self.group[camera].resize(len(rows["action"]), axis=0)
        for name, values in rows.items():
            self.group.create_dataset(name, data=values, fletcher32=True)
        success = rows["success"]
        self.group.attrs.update(attributes)
        self.group.attrs["success_tick"] = int(np.argmax(success)) if success.any() else -1
        self.group.attrs["outcome"] = attributes.get("outcome", "success" if success.any() else "none")
        self.group.attrs["clipped"], self.group.attrs["clipped_share"] = int(clipped.sum()), float(clipped.mean())

    def _write_images(self) -> None:
        size = sum(image.nbytes for images in self._images.values() for image in images)
        require_space(Path(self.group.file.filename), size)
        for camera, images in self._images.items():
            if images:
                stored = self.group[camera]
                stored.resize(len(stored) + len(images), axis=0)
                stored[-len(images) :] = np.stack(images)
                images.clear()


def member(group: h5py.Group, name: str, kind: type, where: str) -> Any:
    """The group or array `name` that lies in `group` itself. Raises `DiwaError` if it is missing, or lies elsewhere."""
    if not group.id.links.exists(name.encode()):
        raise DiwaError(f"{where} has no {name}: {CURE}")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise DiwaError(f"{where}: {name} is a link to elsewhere, which is not followed: {CURE}")
    found = group[name]
    if not isinstance(found, kind):
        raise DiwaError(f"{where}: {name} is not {'an array' if kind is h5py.Dataset else 'a group'}: {CURE}")
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
    if "target" in rows:
        off = np.abs(np.linalg.norm(rows["target"][:, 3:].reshape(-1, 2, 3), axis=2) - 1).max(1) > _ROUNDING
        if off.any():
            row = int(np.argmax(off))
            raise DiwaError(f"{where}: target {rows['target'][row].tolist()} at tick {row} has no rotation: {CURE}")
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
            raise DiwaError(f"{where}: {key} is {str(value)[:60]!r}, which is not a {kind.__name__}: {CURE}")
    flagged, mark = attributes["flagged"], attributes["success_tick"]
    if not all(isinstance(tick, int) and 0 <= tick < length for tick in flagged) or not -1 <= mark < length:
        raise DiwaError(f"{where}: a flagged tick or the success tick {mark} is outside of its {length} ticks: {CURE}")
    if not -1 <= (withdrawn := attributes["withdrawn_tick"]) < length:
        raise DiwaError(f"{where}: the withdrawn tick {withdrawn} is outside of its {length} ticks: {CURE}")
    if attributes["clipped"] < 0 or not 0 <= attributes["clipped_share"] <= 1:
        raise DiwaError(f"{where}: clipped is {attributes['clipped']}, {attributes['clipped_share']}: {CURE}")
    if attributes["outcome"] not in ("", *OUTCOMES) or (mark >= 0 and attributes["outcome"] == "none"):
        said = f"outcome {attributes['outcome']!r}, success tick {mark}"
        rule = f"an outcome is one of {', '.join(OUTCOMES)}, with a tick success, or fail if that was too late"
        raise DiwaError(f"{where}: {said}: {rule}: {CURE}")
    return attributes | {"labels": parse_object(attributes["labels"], f"{where}: labels", CURE)}


def read_text(attributes: h5py.AttributeManager, key: str, where: str) -> str:
    """A text among a file's attributes. Raises `DiwaError` if it is missing or something else."""
    value = attributes.get(key)
    if not isinstance(value, str):
        raise DiwaError(f"{where}: its {key} is missing or no text: {CURE}")
    return value


def read_spec(file: h5py.File, path: Path) -> Spec:
    """The contract that the dataset of an open file was built under."""
    return Spec.from_json(read_text(file.attrs, "spec", str(path)), f"{path}: spec")
