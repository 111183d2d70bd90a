"""The rows of each recording as a file of their own: independent jobs, here in processes of this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import h5py

from diwa_data.dataset.hdf5 import new_file, write_digest
from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path
from diwa_data.processes import children_without_interrupts, process_pool


class Recording(Protocol):
    """Something that becomes episodes of a dataset; it is sent to other processes, so it is small."""

    @property
    def part(self) -> str:
        """File name of its part; another one when the recording or what is made of it changes."""

    @property
    def size(self) -> int:
        """Its share of the progress, in the unit that is shown."""

    @property
    def name(self) -> str:
        """As messages call it."""

    def absolute(self) -> Recording:
        """The same for processes with another working directory."""

    def build(self, file: h5py.File, stopped: Callable[[], bool]) -> float:
        """Write its episodes as groups `0`, `1`, ... of `file`; the seconds of recorded time that were read.

        Raises `DiwaError` on bad input, and `KeyboardInterrupt` once `stopped()`.
        """


@dataclass(frozen=True)
class PartJob:
    """One recording, and where its rows go."""

    recording: Recording
    part: Path

    def absolute(self) -> PartJob:
        """The same for processes with another working directory."""
        return PartJob(self.recording.absolute(), self.part.resolve())


@dataclass(frozen=True)
class Built:
    """What a job gave."""

    size: int
    """Of the recording."""
    seconds: float
    """Recorded time that was read."""


BuildParts = Callable[[Sequence[PartJob], int], Iterator[Built]]
"""Does all jobs, in any order and place, in so many processes at most; yields what each gave."""


def build_parts(jobs: Sequence[PartJob], workers: int) -> Iterator[Built]:
    """Do all jobs in `workers` processes, in this one if one is enough."""
    workers = min(workers, len(jobs))
    if workers <= 1:
        for job in jobs:
            yield build_part(job)
        return
    stop = multiprocessing.get_context("spawn").Event()
    pool = process_pool(workers, _start_worker, stop)
    try:
        with children_without_interrupts():
            futures = [pool.submit(_build_part_in_worker, job) for job in jobs]
        for done in as_completed(futures):
            yield done.result()
    except BrokenProcessPool as error:
        raise DiwaError("a worker was killed (out of memory?): run again with fewer --workers") from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def build_part(job: PartJob, stopped: Callable[[], bool] = lambda: False) -> Built:
    """Do one job; its file is there whole or not at all. Raises as `Recording.build` does."""
    with atomic_path(job.part) as temporary:
        with new_file(temporary) as file:
            seconds = job.recording.build(file, stopped)
        write_digest(temporary)
    return Built(job.recording.size, seconds)


_worker_stop: Any = None


def _start_worker(stop: Any) -> None:
    """Keep the event that the parent sets when it stops."""
    global _worker_stop
    _worker_stop = stop
    cv2.setNumThreads(1)


def _build_part_in_worker(job: PartJob) -> Built:
    return build_part(job, _worker_stop.is_set)
