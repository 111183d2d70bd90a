"""The rows of each bag as a file of their own: independent jobs, here in processes of this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import h5py

from diwa_data.align import Alignment, DatasetConfig, align_bag
from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path
from diwa_data.processes import children_without_interrupts


@dataclass(frozen=True)
class PartJob:
    """One bag, and where its rows go."""

    bag: Path
    part: Path


BuildParts = Callable[[Sequence[PartJob], DatasetConfig], Iterator[Alignment]]
"""Does all jobs, in any order and place; yields what each gave."""


def build_parts(jobs: Sequence[PartJob], config: DatasetConfig) -> Iterator[Alignment]:
    """Do all jobs in `config.workers` processes, in this one if one is enough."""
    workers = min(config.workers, len(jobs))
    if workers <= 1:
        for job in jobs:
            yield build_part(job, config)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (stop,))
    try:
        with children_without_interrupts():
            futures = [pool.submit(_build_part_in_worker, job, config) for job in jobs]
        for done in as_completed(futures):
            yield done.result()
    except BrokenProcessPool as error:
        raise DiwaError("a worker was killed (out of memory?): run again with fewer --workers") from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def build_part(job: PartJob, config: DatasetConfig, stopped: Callable[[], bool] = lambda: False) -> Alignment:
    """Do one job; its file is there whole or not at all. Raises as `align_bag` does."""
    with atomic_path(job.part) as temporary, h5py.File(temporary, "w") as file:
        return align_bag(job.bag, file, config, stopped)


_worker_stop: Any = None


def _start_worker(stop: Any) -> None:
    """Keep the event that the parent sets when it stops."""
    global _worker_stop
    _worker_stop = stop
    cv2.setNumThreads(1)


def _build_part_in_worker(job: PartJob, config: DatasetConfig) -> Alignment:
    return build_part(job, config, _worker_stop.is_set)
