"""Implementations of the same work, timed in turn in one run: what the machine does meanwhile meets all of them."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from common import Measurement

from diwa_learning.core.device import reuse_freed_memory

Work = Callable[[], object]


class Apart:
    """Work in a process of its own, which has its own allocator, set as ours is, and our number of threads.

    Args:
        make: returns the work, called in that process with `arguments`.
    """

    def __init__(self, make: Callable[..., Work], *arguments: Any):
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._pool.submit(_prepare, torch.get_num_threads(), make, *arguments).result()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def seconds(self) -> float:
        """Time the work once, there."""
        return self._pool.submit(_seconds_here).result()


_work: Work
"""The work of this process."""


def _prepare(threads: int, make: Callable[..., Work], *arguments: Any) -> None:
    global _work
    torch.set_num_threads(threads)
    reuse_freed_memory()
    torch.manual_seed(0)
    _work = make(*arguments)


def _seconds_here() -> float:
    return seconds(_work)


def seconds(work: Work | Apart) -> float:
    """Time the work once."""
    if isinstance(work, Apart):
        return work.seconds()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(works: Sequence[Work | Apart], rounds: int) -> list[tuple[float, ...]]:
    """Seconds of each work in each round, after one round of warm-up."""
    return list(zip(*[[seconds(work) for work in works] for _ in range(rounds + 1)][1:], strict=True))


def compare(
    name: str,
    ours: Work,
    other: Work | Apart,
    rounds: int,
    amount: float,
    unit: str,
    target: float | None = None,
    floor: float | None = None,
) -> None:
    """Time both in turn and print how much (`amount` of `unit`) ours does per second, beside the other."""
    mine, theirs = in_turn([ours, other], rounds)
    ratios = [other_seconds / our_seconds for our_seconds, other_seconds in zip(mine, theirs, strict=True)]
    our_rate, other_rate = (amount / statistics.median(side) for side in (mine, theirs))
    spread = (min(ratios), max(ratios))
    Measurement(name, our_rate, unit, target, other_rate, our_rate / other_rate, floor, spread).print()
