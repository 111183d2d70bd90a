"""The operator's word on an attempt: marks of success and failure, which of them stands, and those beside foreign bags.

Several attempts may lie in one bag of another recorder, so a marks file is a list of moments; each attempt takes those
within it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import read_object, write_json
from diwa_data.manifest import require_format

MARKS = ("success", "fail")
OUTCOMES = (*MARKS, "none")
Outcome = Literal["success", "fail", "none"]
FORMAT = 1
"""Format number of marks files."""
_CURE = "delete it and mark the bag again with 'diwa annotate'"


class Mark(NamedTuple):
    """A moment of an attempt that the operator named."""

    event: str
    """success or fail."""
    at: float
    """Seconds, on the clock of the bag: when messages were received."""


class Verdict(NamedTuple):
    """How an attempt ended, in the operator's word."""

    outcome: Outcome
    at: float | None
    """When that was first marked, seconds received; None without a mark."""


def verdict(marks: Iterable[tuple[str, float]]) -> Verdict:
    """The word that stands among marks of one attempt: the latest; repeated, since its first time."""
    outcome, at = Verdict("none", None)
    for event, received in sorted((mark for mark in marks if mark[0] in MARKS), key=lambda mark: mark[1]):
        if event != outcome:
            outcome, at = event, received  # type: ignore[assignment]
    return Verdict(outcome, at)


def marks_path(bag: Path) -> Path:
    """The file beside a foreign bag that holds its marks; a dataset built from it depends on this file too."""
    bag = Path(bag).absolute()
    return bag.with_name(f"{bag.name}.marks.json")


def read_marks(bag: Path) -> list[Mark]:
    """Marks that `diwa annotate` put beside a foreign bag, in order of time; empty without.

    Raises `DiwaError` if the file is damaged or of a newer format.
    """
    path = marks_path(bag)
    if not path.exists():
        return []
    content = read_object(path, _CURE)
    require_format(content.get("format"), FORMAT, str(path))
    with damage_as_error(f"{path} is damaged", _CURE):
        if content.keys() != {"format", "marks"}:
            raise ValueError(f"its keys are {', '.join(content)}, not format, marks")
        return sorted((_mark(*pair) for pair in content["marks"]), key=lambda mark: mark.at)


def write_marks(bag: Path, marks: Iterable[Mark]) -> None:
    """Put the marks of a foreign bag beside it, whole or not at all; without any, no file stays."""
    path, ordered = marks_path(bag), sorted(marks, key=lambda mark: mark.at)
    if ordered:
        write_json(path, {"format": FORMAT, "marks": ordered})
    elif path.is_dir():
        raise DiwaError(f"{path} is a folder, but marks are stored there: move it away")
    else:
        path.unlink(missing_ok=True)


def _mark(event: Any, at: Any) -> Mark:
    if event not in MARKS:
        raise ValueError(f"{str(event)[:40]!r} is not a mark; known are {', '.join(MARKS)}")
    if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at):
        raise ValueError(f"{str(at)[:40]!r} is not a time")
    return Mark(event, float(at))
