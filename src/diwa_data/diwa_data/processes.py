"""Worker processes: Ctrl-C, and the death of the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import TypeVar

from diwa_data.errors import DiwaError

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def children_without_interrupts() -> Iterator[None]:
    """Processes started inside never see Ctrl-C: this one stops them. One pressed inside comes at the end.

    Ctrl-C goes to every process of a terminal, also to those that are still importing: each would print a traceback.
    """
    resource_tracker.ensure_running()  # starting it inside would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_unordered(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    died: str,
    start: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """`work(item)` of all items as they are done, in up to so many processes; in this one if one is enough.

    They are spawned (OpenGL does not survive a fork), begin with `start()`, and end when this one does, even if it is
    killed: a pool's own would wait for work for ever. When this ends early (Ctrl-C, an error of an item), the items
    under way see a KeyboardInterrupt and can clean up. Raises `DiwaError(died)` if a process was killed.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (start,))
    try:
        with children_without_interrupts():
            futures = [pool.submit(_unless_stopped, work, item) for item in items]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise DiwaError(died) from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_stopped = False


def _start(start: Callable[[], object] | None) -> None:
    def stop(*_: object) -> None:
        global _stopped
        _stopped = True
        raise KeyboardInterrupt

    end_with_parent()
    signal.signal(signal.SIGTERM, stop)
    if start:
        start()


def _unless_stopped(work: Callable[[Item], Result], item: Item) -> Result:
    if _stopped:
        raise KeyboardInterrupt
    return work(item)


def end_with_parent() -> None:
    """From now on this process ends when the one that started it does, killed included. Does nothing in the first."""
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
