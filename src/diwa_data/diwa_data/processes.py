"""Worker processes: Ctrl-C, and the death of the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any


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


def process_pool(workers: int, start: Callable[..., None] | None = None, *arguments: Any) -> ProcessPoolExecutor:
    """So many spawned processes (OpenGL does not survive a fork), each begun by `start(*arguments)`, if it is given.

    They end when this one does, even if it is killed: the pool's own would wait for work for ever.
    """
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (start, arguments))


def end_with_parent() -> None:
    """From now on this process ends when the one that started it does, killed included. Does nothing in the first."""
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _start(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    if start:
        start(*arguments)


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
