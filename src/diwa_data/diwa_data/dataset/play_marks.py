"""Marks of play: in which seconds a skill is done, as a person who watches the film sees it.

A CSV file with the columns `skill`, `episode`, `from` and `to`: the episode's number in the dataset, and seconds since
its first frame. An empty `to` lasts until its end; a row without times says that the skill is never done in it. Where
an episode has a row for a skill, all of it is known; about the others nothing is.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path

COLUMNS = ("skill", "episode", "from", "to")
_CURE = "correct the line; its columns are skill, episode, from and to, in seconds since the episode's first frame"


class Done(NamedTuple):
    """A span of an episode in which a skill is done."""

    begin: float
    end: float
    """Seconds since the first frame; infinite: until the last one."""


PlayMarks = dict[str, list[Done]]
"""Episode -> when a skill is done in it; an empty list: never."""


def read_play_marks(path: Path, skill: str) -> PlayMarks:
    """The marks of a skill. Raises `DiwaError` for a file that cannot be read, a line that says nothing sensible, and
    where there is none of the skill."""
    found: PlayMarks = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or [])]:
                raise DiwaError(f"{path} has no column {missing[0]!r}: its first line must be {','.join(COLUMNS)}")
            skills = set()
            for number, row in enumerate(rows, 2):
                skills.add((row["skill"] or "").strip())
                if (row["skill"] or "").strip() == skill:
                    spans = found.setdefault(_episode(row["episode"], f"{path}, line {number}"), [])
                    spans += _spans(row["from"], row["to"], f"{path}, line {number}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DiwaError(f"{path} cannot be read as marks of play ({error}): give a CSV file") from error
    if not found:
        raise DiwaError(f"{path} has no mark of {skill}, only of {', '.join(sorted(skills)) or 'nothing'}")
    return found


def write_play_marks(path: Path, skill: str, marks: PlayMarks) -> None:
    """Leave a file with these marks, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for episode, spans in marks.items():
            ends = [(f"{begin:.2f}", "" if math.isinf(end) else f"{end:.2f}") for begin, end in spans]
            rows.writerows((skill, episode, *times) for times in ends or [("", "")])


def spans_of(done: np.ndarray, seconds: np.ndarray) -> list[Done]:
    """When a skill is done, of (T,) bool at these seconds (T,) since the first frame."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], done, [False]]).astype(int)))
    times = [float(seconds[edge]) if edge < len(seconds) else math.inf for edge in edges]
    return [Done(*pair) for pair in zip(times[::2], times[1::2], strict=True)]


def done_ticks(spans: Iterable[Done], seconds: np.ndarray) -> np.ndarray:
    """In which ticks the skill is done (T,), which are at these seconds (T,) since the first frame."""
    done = np.zeros(len(seconds), bool)
    for begin, end in spans:
        done |= (seconds >= begin) & (seconds < end)
    return done


def _episode(text: str | None, where: str) -> str:
    value = (text or "").strip()
    if not value.isdecimal():
        raise DiwaError(f"{where}: episode {value!r} is not a number: {_CURE}")
    return f"{int(value):06d}"


def _spans(begin: str | None, end: str | None, where: str) -> list[Done]:
    """None where both are empty."""
    texts = (begin or "").strip(), (end or "").strip()
    if not any(texts):
        return []
    try:
        span = Done(float(texts[0] or 0.0), float(texts[1] or math.inf))
    except ValueError as error:
        raise DiwaError(f"{where}: from {texts[0]!r} to {texts[1]!r} are not seconds: {_CURE}") from error
    if not 0 <= span.begin < span.end:
        raise DiwaError(f"{where}: it is done from {texts[0]} to {texts[1]} s, which is not a span of time: {_CURE}")
    return [span]
