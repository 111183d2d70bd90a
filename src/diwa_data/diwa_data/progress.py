"""Progress of long tasks: a live bar on a terminal, a line every few seconds in a log; both with rate and ETA.

Whoever runs a task in `listening(listener)` is told of every step of its bars too, as a `Standing`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Standing:
    """State of a task at one step."""

    title: str
    """Name of the task."""
    done: float
    """Units done, earlier runs included."""
    total: float
    """Units in all."""
    unit: str
    """Unit that is counted, such as updates."""
    rate: float
    """Units per second in this run."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Latest figures, such as losses, by name."""

    @property
    def eta(self) -> float:
        """Seconds left at this rate; infinite while it is unknown."""
        return (self.total - self.done) / self.rate if self.rate > 0 else float("inf")

    def clock(self) -> str:
        """The seconds left as minutes:seconds, or unknown."""
        return "unknown" if self.eta == float("inf") else f"{int(self.eta // 60)}:{int(self.eta % 60):02d}"


Listener = Callable[[Standing], None]
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of every step of the bars that are made inside, in the thread that takes it."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


class Bar:
    """One task's progress; `update` moves it, `note` (a short text such as a loss) stands behind it."""

    def __init__(self, title: str, total: float, unit: str, done: float, live: Progress | None, every: float = 10.0):
        self._title, self._total, self._unit = title, total, unit
        self._first, self._done, self._live, self._every = done, done, live, every
        self._started = self._printed = time.monotonic()
        self._listeners = _listeners.get()
        self._task = live.add_task(title, total=total, completed=int(done), rate="", note="") if live else TaskID(0)
        self._tell(Standing(title, done, total, unit, rate=0.0))

    def update(self, done: float, note: str = "", values: Mapping[str, float] | None = None) -> None:
        """Set the number of units done so far (earlier runs included); `values` are for listeners."""
        self._done = done
        now = time.monotonic()
        rate = (done - self._first) / max(now - self._started, 1e-9)
        standing = Standing(self._title, done, self._total, self._unit, rate, dict(values or {}))
        self._tell(standing)
        if self._live:
            self._live.update(self._task, completed=done, rate=f"{rate:,.4g} {self._unit}/s", note=note)
        elif now - self._printed >= self._every or done >= self._total:
            self._printed = now
            text = f"{self._title}: {done:,.0f}/{self._total:,.0f} {self._unit}, {rate:,.4g}/s, ETA {standing.clock()}"
            print(f"{text}  {note}".rstrip(), flush=True)

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Move by `amount` units."""
        self.update(self._done + amount, note)

    def _tell(self, standing: Standing) -> None:
        for listener in self._listeners:
            listener(standing)


@contextmanager
def progress(title: str, total: float, unit: str, done: float = 0) -> Iterator[Bar]:
    """Show the progress of a task of `total` units, `done` of which were there before."""
    if not sys.stderr.isatty():
        yield Bar(title, total, unit, done, None)
        return
    rate, note = TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), note)
    with Progress(*columns, console=Console(stderr=True)) as live:
        yield Bar(title, total, unit, done, live)
