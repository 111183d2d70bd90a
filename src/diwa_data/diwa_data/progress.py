"""Progress of long tasks: a live bar on a terminal, a line every few seconds in a log; both with rate and ETA."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """One task's progress; `update` moves it, `note` (a short text such as a loss) stands behind it."""

    def __init__(self, title: str, total: float, unit: str, done: float, live: Progress | None, every: float = 10.0):
        self._title, self._total, self._unit = title, total, unit
        self._first, self._done, self._live, self._every = done, done, live, every
        self._started = self._printed = time.monotonic()
        self._task: TaskID | None = None
        if live:
            self._task = live.add_task(title, total=total, completed=int(done), rate="", note="")

    def update(self, done: float, note: str = "") -> None:
        """Set the number of units done so far (earlier runs included)."""
        self._done = done
        now = time.monotonic()
        rate = (done - self._first) / max(now - self._started, 1e-9)
        if self._live and self._task is not None:
            self._live.update(self._task, completed=done, rate=f"{rate:,.4g} {self._unit}/s", note=note)
        elif now - self._printed >= self._every or done >= self._total:
            self._printed = now
            eta = (self._total - done) / rate if rate > 0 else float("inf")
            text = f"{self._title}: {done:,.0f}/{self._total:,.0f} {self._unit}, {rate:,.4g}/s, ETA {_clock(eta)}"
            print(f"{text}  {note}".rstrip(), flush=True)

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Move by `amount` units."""
        self.update(self._done + amount, note)


@contextmanager
def progress(title: str, total: float, unit: str, done: float = 0) -> Iterator[Bar]:
    """Show the progress of a task of `total` units, `done` of which were there before."""
    if not sys.stderr.isatty():
        yield Bar(title, total, unit, done, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as live:
        yield Bar(title, total, unit, done, live)


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown"
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"
