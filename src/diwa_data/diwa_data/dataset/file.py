"""The HDF5 file of a dataset: opened with clear errors, and built from recordings, resumable.

Each recording becomes a file of its own in `.<out>.parts`, with groups `0`, `1`, ... for its episodes; a finished part
survives an interruption. When all are there they are copied into one file, which appears whole or not at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from diwa_data import __version__
from diwa_data.dataset.checks import CURE, member, read_text
from diwa_data.dataset.hdf5 import copy_with_room, has_room, new_file, require_digest, write_digest
from diwa_data.dataset.parts import BuildParts, PartJob, Recording, build_parts
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import (
    FolderLock,
    atomic_path,
    full_disk_as_error,
    parse_object,
    read_object,
    remove,
    require_ours,
    require_output,
    require_same_settings,
    require_space,
    write_json,
)
from diwa_data.manifest import require_format
from diwa_data.progress import progress
from diwa_data.spec import Spec

FORMAT = 1
"""Of datasets; those without a number were written before 0.2."""


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


def read_spec(file: h5py.File, path: Path) -> Spec:
    """The contract that the dataset of an open file was built under."""
    return Spec.from_json(read_text(file.attrs, "spec", str(path)), f"{path}: spec")


def is_dataset(path: Path) -> bool:
    """Whether a file is one, as far as its names tell, sealed or not."""
    if not path.is_file():
        return False
    try:
        with h5py.File(path, "r") as file:
            return "spec" in file.attrs and "episodes" in file
    except (OSError, RuntimeError, ValueError):
        return False


def write_checksum(path: Path) -> None:
    """Make the checksum of a dataset anew, whatever it holds."""
    if has_room(path):
        write_digest(path)
        return
    require_space(path, path.stat().st_size)
    with full_disk_as_error(path), atomic_path(path) as temporary:
        copy_with_room(path, temporary)
        write_digest(temporary)


def copy_episodes(source: Path, names: Sequence[str], out: Path) -> None:
    """Make the dataset `out` of some episodes of another, in this order; it appears whole or not at all."""
    with open_file(source) as file, full_disk_as_error(out), atomic_path(out) as temporary:
        missing = [name for name in names if name not in file["episodes"]]
        if missing or not names:
            raise DiwaError(
                f"{source} has no episodes {', '.join(missing) or 'that were named'}: it has {len(file['episodes'])}"
            )
        with new_file(temporary) as copy:
            copy.attrs.update({**file.attrs, "format": FORMAT})
            episodes = copy.create_group("episodes")
            for number, name in enumerate(names):
                member(file["episodes"], name, h5py.Group, str(source))
                file.copy(f"episodes/{name}", episodes, f"{number:06d}")
        write_digest(temporary)


def build_file(
    title: str,
    unit: str,
    out: Path,
    recordings: Sequence[Recording],
    identity: dict[str, Any],
    workers: int,
    build: BuildParts = build_parts,
) -> list[str]:
    """Build the dataset `out` from `recordings`; the names of those that gave no episode.

    `identity` decides the result: `spec` and `config` as plain values, and what else must be the same for `out` to be
    complete already. Finished parts are taken up; those begun with another spec or config are refused.
    """
    require_output(out)
    if out.exists():
        _require_identical(out, identity)
        print(f"{out} is complete already")
        return []
    parts = out.with_name(f".{out.name}.parts")
    with FolderLock(parts), full_disk_as_error(out):
        _prepare_parts(parts, identity)
        jobs = [PartJob(recording, parts / recording.part) for recording in recordings]
        _build_missing(title, unit, jobs, workers, build)
        with atomic_path(out) as temporary:
            skipped = _merge(parts, recordings, temporary, identity)
        remove(parts)
    return skipped


def _require_identical(out: Path, identity: dict[str, Any]) -> None:
    with open_file(out) as file:
        built = parse_object(read_text(file.attrs, "identity", str(out)), f"{out}: identity", CURE)
    require_same_settings(out, built, identity, otherwise="delete it, or choose another --out")


def _prepare_parts(parts: Path, identity: dict[str, Any]) -> None:
    """Make the folder of finished parts, or refuse one that another spec or config began."""
    settings = {key: identity[key] for key in ("spec", "config")}
    state, cure = parts / "settings.json", "delete the folder to start anew"
    if state.is_file():
        require_same_settings(parts, read_object(state, cure), settings, otherwise=cure)
        return
    require_ours(parts, "begun dataset", state.name)
    write_json(state, settings)


def _build_missing(title: str, unit: str, jobs: Sequence[PartJob], workers: int, build: BuildParts) -> None:
    """Build every part that is not there yet."""
    waiting = [job for job in jobs if not job.part.exists()]
    total, left = (sum(job.recording.size for job in some) for some in (jobs, waiting))
    started, recorded = time.monotonic(), 0.0
    with progress(title, total, unit, total - left) as bar:
        for built in build(waiting, workers):
            recorded += built.seconds
            bar.advance(built.size, f"{recorded / (time.monotonic() - started):.0f}x real time")


def _merge(parts: Path, recordings: Sequence[Recording], out: Path, identity: dict[str, Any]) -> list[str]:
    """Copy all parts into one file, in the order of the recordings; the names of those that gave no episode."""
    require_space(out, sum((parts / recording.part).stat().st_size for recording in recordings))
    skipped = []
    number = 0
    with new_file(out) as file:
        file.attrs["format"] = FORMAT
        file.attrs["spec"] = json.dumps(identity["spec"], sort_keys=True)
        file.attrs["config"] = json.dumps(identity["config"])
        file.attrs["identity"] = json.dumps(identity)
        file.attrs["version"] = __version__
        episodes = file.create_group("episodes")
        for recording in recordings:
            copied = _copy_part(parts / recording.part, episodes, number)
            skipped += [] if copied else [recording.name]
            number += copied
    write_digest(out)
    if number == 0:
        raise DiwaError(
            f"no recording of {len(recordings)} has two good ticks in a row: look at one with 'diwa inspect'"
        )
    return skipped


def _copy_part(path: Path, episodes: h5py.Group, number: int) -> int:
    """Copy the episodes of a part behind `number` others; how many they are."""
    cure = "delete it and run again"
    with damage_as_error(f"{path} is damaged", cure):
        require_digest(path, cure)
        part = h5py.File(path, "r")
    with part:
        for count, name in enumerate(sorted(part, key=int)):
            part.copy(name, episodes, f"{number + count:06d}")
        return len(part)
