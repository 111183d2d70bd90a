"""Where the episodes of a foreign bag begin and end, and how each ended in the operator's word."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from diwa_data.foreign.mapping import EpisodesMapping, SuccessMapping
from diwa_data.recording.marks import Mark, verdict
from diwa_data.recording.source import Attempt


class Event(NamedTuple):
    """A word on the event topic."""

    word: str
    received: float


def by_events(events: Sequence[Event], mapping: EpisodesMapping, success: SuccessMapping) -> list[Attempt]:
    """One attempt from each start to the next stop or start. A start without a stop lasts to the end of the bag.

    Marks count up to the next start: what is marked between two attempts belongs to the one before.
    """
    starts = [number for number, event in enumerate(events) if event.word == mapping.start]
    if mapping.start == mapping.stop:  # a button that begins and ends
        starts = starts[::2]
    attempts = []
    for begin, end in pairwise([*starts, len(events)]):
        inside = events[begin + 1 : end]
        last = math.nextafter(events[end].received, -math.inf) if end < len(events) else math.inf
        last = min(last, next((event.received for event in inside if event.word == mapping.stop), math.inf))
        if any(event.word == mapping.discard for event in inside):
            continue
        attempt = Attempt(events[begin].received, last)
        marks = [
            Mark(name, e.received) for e in inside for name in ("success", "fail") if e.word == getattr(mapping, name)
        ]
        attempts.append(marked(attempt, marks if success.by == "events" else [], success))
    return [attempt for attempt in attempts if attempt.first < attempt.last]


def by_gripper(commands: Iterable[tuple[float, float]], margin: float) -> list[Attempt]:
    """Attempts that end `margin` seconds after the gripper opens, having been closed.

    `commands` are (seconds received, +1 open or -1 close) in order of time. What follows the last opening is none.
    """
    attempts: list[Attempt] = []
    first, closed = -math.inf, False
    for received, command in commands:
        if command < 0:
            closed = True
        elif closed and received + margin > first:
            attempts.append(Attempt(first, received + margin))
            first, closed = math.nextafter(received + margin, math.inf), False
    return attempts


def by_gaps(frames: Iterable[float], gap: float) -> list[Attempt]:
    """Attempts between pauses of more than `gap` seconds; `frames` are when those of the clock were received."""
    attempts: list[Attempt] = []
    for received in frames:
        if attempts and received - attempts[-1].last <= gap:
            attempts[-1] = replace(attempts[-1], last=max(received, attempts[-1].last))
        elif not attempts or received > attempts[-1].last:
            attempts.append(Attempt(received, received))
    return attempts


def judged(attempts: Iterable[Attempt], marks: Sequence[Mark], success: SuccessMapping) -> list[Attempt]:
    """The attempts with their outcomes: what was marked beside the bag within each, or else the mapping's rule."""
    found = []
    for attempt in attempts:
        inside = [mark for mark in marks if attempt.first <= mark.at <= attempt.last]
        if inside:
            attempt = marked(Attempt(attempt.first, attempt.last), inside, success)
        elif success.by == "end":
            attempt = replace(attempt, outcome="success", success_before_end=success.seconds)
        found.append(attempt)
    return found


def marked(attempt: Attempt, marks: Sequence[Mark], success: SuccessMapping) -> Attempt:
    """The attempt with the outcome that stands among marks; success after its end counts from shortly before it."""
    outcome, at = verdict(marks)
    attempt = replace(attempt, outcome=outcome)
    if outcome != "success" or at is None:
        withdrawn = min((mark.at for mark in marks if mark.event == "success"), default=math.inf)
        return replace(attempt, withdrawn=withdrawn)
    return replace(attempt, success_before_end=success.seconds) if at > attempt.last else replace(attempt, success=at)
