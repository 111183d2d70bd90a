"""Building a dataset's file from recordings, resumable.

The rows of each recording become a file of their own in `.<out>.parts`, with groups `0`, `1`, ... for its episodes:
independent jobs, whose finished parts survive an interruption. When all are there they are copied into one file, which
appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import h5py

from diwa_data import __version__
from diwa_data.dataset.file import CURE, FORMAT, new_file, open_file, read_text, require_digest, write_digest
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import (
    FolderLock,
    as_json,
    atomic_path,
    full_disk_as_error,
    json_text,
    parse_object,
    read_object,
    remove,
    require_ours,
    require_output,
    require_same_settings,
    require_space,
    write_json,
)
from diwa_data.processes import run_unordered
from diwa_data.progress import progress
from diwa_data.spec import Spec


class Recording(Protocol):
    """Something that becomes episodes of a dataset; it is sent to other processes, so it is small."""

    @property
    def path(self) -> Path:
        """The folder that it lies in."""

    @property
    def key(self) -> str:
        """A text that changes when the recording does."""

    @property
    def size(self) -> int:
        """Its share of the progress, in the unit that is shown."""

    @property
    def name(self) -> str:
        """Its name in messages."""

    def build(self, file: h5py.File) -> float:
        """Write its episodes as groups `0`, `1`, ... of `file`; returns the seconds of recorded time that were read.

        Raises `DiwaError` on bad input.
        """


@dataclass(frozen=True)
class PartJob:
    """One recording, and where its rows go."""

    recording: Recording
    part: Path

    def absolute(self) -> PartJob:
        """The same for processes with another working directory."""
        recording: Any = self.recording
        return PartJob(dataclasses.replace(recording, path=recording.path.resolve()), self.part.resolve())


@dataclass(frozen=True)
class Built:
    """Size of a recording that was built, in the unit of the progress, and the seconds of it that were read."""

    size: int
    seconds: float


BuildParts = Callable[[Sequence[PartJob], int], Iterator[Built]]
"""Does all jobs, in any order and place, in so many processes at most; yields what each gave."""


def build_parts(jobs: Sequence[PartJob], workers: int) -> Iterator[Built]:
    """Do all jobs in `workers` processes, in this one if one is enough."""
    died = "a worker was killed (out of memory?): run again with fewer --workers"
    return run_unordered(build_part, jobs, workers, died, partial(cv2.setNumThreads, 1))


def build_part(job: PartJob) -> Built:
    """Do one job; its file is there whole or not at all. Raises as `Recording.build` does."""
    with atomic_path(job.part) as temporary:
        with new_file(temporary) as file:
            seconds = job.recording.build(file)
        write_digest(temporary)
    return Built(job.recording.size, seconds)


def part_name(recording: Recording) -> str:
    """File name of its part."""
    return hashlib.sha256(recording.key.encode()).hexdigest()[:20] + ".h5"


def build_file(
    title: str,
    unit: str,
    source: str,
    out: Path,
    recordings: Sequence[Recording],
    spec: Spec,
    config: Any,
    build: BuildParts = build_parts,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Build the dataset `out` from `recordings`, `config.workers` at a time, and say which of them gave no episode.

    `more` are further settings, kept with those of `config`. Finished parts are taken up; those begun with another spec
    or settings are refused. A complete `out` is left as it is, unless spec, settings or recordings (`source` says in a
    word what these are) differ: an error.
    """
    require_output(out)
    settings = dataclasses.asdict(config) | dict(more or {})
    workers = settings.pop("workers")
    names = hashlib.sha256("".join(map(part_name, recordings)).encode()).hexdigest()  # attributes are small
    identity = as_json({"spec": dataclasses.asdict(spec), "config": settings, source: names})
    if out.exists():
        _require_identical(out, identity)
        print(f"{out} is complete already")
        return
    parts = out.with_name(f".{out.name}.parts")
    with FolderLock(parts), full_disk_as_error(out):
        _prepare_parts(parts, identity)
        jobs = [PartJob(recording, parts / part_name(recording)) for recording in recordings]
        _build_missing(title, unit, jobs, workers, build)
        with atomic_path(out) as temporary:
            skipped = _merge(parts, recordings, temporary, identity)
        remove(parts)
    if skipped:
        print(f"left out, without two good ticks in a row: {', '.join(skipped)}")


def _require_identical(out: Path, identity: dict[str, Any]) -> None:
    with open_file(out) as file:
        built = parse_object(read_text(file.attrs, "identity", str(out)), f"{out}: identity", CURE)
    require_same_settings(out, _of_today(built, out), identity, otherwise="delete it, or choose another --out")


def _of_today(identity: dict[str, Any], where: Path) -> dict[str, Any]:
    """The stored identity, with the fields of a spec that earlier versions did not have."""
    return identity | {"spec": as_json(dataclasses.asdict(Spec.from_plain(identity.get("spec"), f"{where}: spec")))}


def _prepare_parts(parts: Path, identity: dict[str, Any]) -> None:
    """Make the folder of finished parts, or refuse one that another spec or config began."""
    settings = {key: identity[key] for key in ("spec", "config")}
    state, cure = parts / "settings.json", "delete the folder to start anew"
    if state.is_file():
        require_same_settings(parts, _of_today(read_object(state, cure), parts), settings, otherwise=cure)
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
    require_space(out, sum((parts / part_name(recording)).stat().st_size for recording in recordings))
    skipped = []
    number = 0
    with new_file(out) as file:
        file.attrs["format"] = FORMAT
        file.attrs["spec"] = json_text(identity["spec"])
        file.attrs["config"] = json_text(identity["config"])
        file.attrs["identity"] = json_text(identity)
        file.attrs["version"] = __version__
        episodes = file.create_group("episodes")
        for recording in recordings:
            copied = _copy_part(parts / part_name(recording), episodes, number)
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
