"""Worker processes and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


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
