"""The causal tick rule: the same class aligns recordings and live streams.

The first camera is the clock. Tick n is its frame whose rounded period index since the episode's start is
`frames_per_tick * n`, by header stamp. Every other stream contributes its last message received by then, if it is
not older than its maximum age. A tick without its frame, or with an aged stream, repeats what was known last and
is flagged; more than `max_missing` of those in a row end the segment, and a new one starts at the next good frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_HISTORY = 256  # messages kept per stream; far more than arrive within `max_missing` ticks
_PATIENCE = 2.0  # seconds of messages that are kept at least while no frame comes: others' raw images are large


class Sample(NamedTuple):
    """One message of a stream; times in seconds."""

    value: Any
    stamp: float
    received: float


@dataclass(frozen=True, eq=False)
class Tick:
    """Everything known at one control tick."""

    segment: int
    """Counts up whenever too many ticks were missing."""
    index: int
    """Tick number n within the segment."""
    stamp: float
    """Capture time of the clock's frame; when it was due, if it is missing."""
    received: float
    """Time at which that frame arrived, or would have."""
    samples: dict[str, Sample]
    """Stream -> its last message received by then."""
    flagged: bool
    """The frame is missing and repeated, or a stream is older than its maximum age."""


def period_index(stamp: float, origin: float, rate: float) -> int:
    """Which period of `rate` Hz since `origin` a stamp belongs to, rounded to the nearest."""
    return round((stamp - origin) * rate)


def last_received(history: Iterable[Sample], received: float) -> Sample | None:
    """The last sample of a history (newest last, reversible) received by `received`; None if there is none."""
    for sample in reversed(history):  # type: ignore[call-overload]
        if sample.received <= received:
            return sample
    return None


class TickClock:
    """Feed it messages in the order they were received and take the ticks that are due."""

    def __init__(
        self, clock: str, max_age: Mapping[str, float], rate: float, frames_per_tick: int, max_missing: int = 2
    ):
        """`max_age`: seconds per stream besides `clock`, infinite for latched ones; `rate`: clock frames per second."""
        self._clock, self._max_age, self._rate = clock, dict(max_age), rate
        self._frames_per_tick, self._max_missing = frames_per_tick, max_missing
        self._kept = _PATIENCE + (max_missing + 2) * frames_per_tick / rate
        self._history: dict[str, deque[Sample]] = {s: deque(maxlen=_HISTORY) for s in (clock, *max_age)}
        self._pending: deque[Sample] = deque()
        self._segment = -1
        self._origin: float | None = None
        self._last: Sample | None = None
        self._last_index = self._next = self._missing = 0

    def feed(self, stream: str, sample: Sample) -> None:
        """A message of one of the streams."""
        history = self._history[stream]
        history.append(sample)
        _forget(history, sample.received - self._kept)
        if stream == self._clock:
            self._pending.append(sample)

    def restart(self) -> None:
        """End the segment: the next good frame begins a new one. Take the ticks that are due before."""
        self._origin = self._last = None
        self._last_index = self._next = self._missing = 0

    def advance(self) -> Iterator[Tick]:
        """The ticks due by the messages fed so far, each once."""
        while self._pending:
            frame = self._pending.popleft()
            yield from self._on_frame(frame)
            for history in self._history.values():
                _forget(history, frame.received)

    def _on_frame(self, frame: Sample) -> Iterator[Tick]:
        if self._last is not None and frame.stamp < self._last.stamp:
            self.restart()  # the camera's clock was set back
        if self._origin is None and not self._begin(frame):
            return
        assert self._origin is not None
        index = period_index(frame.stamp, self._origin, self._rate)
        while self._next * self._frames_per_tick < index:
            tick = self._missing_tick(frame.received)
            if tick is None:
                self.restart()
                yield from self._on_frame(frame)
                return
            yield tick
        if index == self._next * self._frames_per_tick:
            samples = self._known(frame.received)
            samples[self._clock] = frame
            tick = self._tick(frame.stamp, frame.received, samples, self._aged(samples, frame.stamp))
            if tick is None:
                self.restart()
                return
            yield tick
        self._last, self._last_index = frame, index

    def _begin(self, frame: Sample) -> bool:
        """Start a segment at `frame` if every stream is known and fresh."""
        samples = self._known(frame.received)
        if len(samples) < len(self._history) or self._aged(samples, frame.stamp):
            return False
        self._origin = frame.stamp
        self._segment += 1
        return True

    def _missing_tick(self, now: float) -> Tick | None:
        """The next tick, whose frame did not come: when it was due, with what was known then."""
        assert self._last is not None
        late = (self._next * self._frames_per_tick - self._last_index) / self._rate
        received = min(self._last.received + late, now)
        return self._tick(self._last.stamp + late, received, self._known(received), True)

    def _tick(self, stamp: float, received: float, samples: dict[str, Sample], flagged: bool) -> Tick | None:
        """The next tick; None if too many in a row are flagged or a stream's history is lost: the segment ends."""
        self._missing = self._missing + 1 if flagged else 0
        if self._missing > self._max_missing or len(samples) < len(self._history):
            return None
        tick = Tick(self._segment, self._next, stamp, received, samples, flagged)
        self._next += 1
        return tick

    def _known(self, received: float) -> dict[str, Sample]:
        known = {stream: last_received(history, received) for stream, history in self._history.items()}
        return {stream: sample for stream, sample in known.items() if sample is not None}

    def _aged(self, samples: dict[str, Sample], stamp: float) -> bool:
        return any(stamp - samples[stream].stamp > age for stream, age in self._max_age.items() if stream in samples)


def _forget(history: deque[Sample], received: float) -> None:
    """Drop what no later tick can ask for: everything before the last message received by `received`."""
    while len(history) > 1 and history[1].received <= received:
        history.popleft()
