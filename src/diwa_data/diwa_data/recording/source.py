"""A recording as datasets are made of it, whoever recorded it: our own bags, and others' through a mapping."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diwa_data.recording.marks import Outcome
from diwa_data.spec import Spec
from diwa_data.ticks import Sample


@dataclass(frozen=True)
class Attempt:
    """A part of a recording that becomes an episode of a dataset, several where it has gaps; seconds received."""

    first: float = -math.inf
    """Frames of the clock before it do not belong to it."""
    last: float = math.inf
    """Nor do those after it."""
    success: float = math.inf
    """When the skill was done; infinite if it never was."""
    success_before_end: float | None = None
    """Seconds before its last tick from which on the skill was done, in place of a time."""
    withdrawn: float = math.inf
    """When a success was marked that was taken back; infinite if none was."""
    outcome: Outcome = "none"
    """The operator's word on it."""


class Source(Protocol):
    """An open recording as streams under our own topics' names, from which a dataset's rows are made."""

    @property
    def path(self) -> Path:
        """The folder that it lies in."""

    @property
    def spec(self) -> Spec:
        """The contract that the dataset is built under."""

    @property
    def streams(self) -> Sequence[str]:
        """Everything that a tick needs; the images of the clock come first."""

    @property
    def latched(self) -> Collection[str]:
        """Streams whose last message holds however old it is."""

    @property
    def derived(self) -> Collection[str]:
        """Streams that were not recorded: what was measured one tick later stands for their values."""

    @property
    def attempts(self) -> Sequence[Attempt]:
        """In order of time, apart from each other."""

    @property
    def labels(self) -> dict[str, Any]:
        """source, skill and free ones."""

    @property
    def recorded_by(self) -> str:
        """Software that recorded it."""

    def require_topics(self, topics: Sequence[str]) -> None:
        """Raise `DiwaError` naming what is missing among these streams, and what there is."""

    def messages(self, topics: Sequence[str]) -> Iterator[tuple[str, Sample]]:
        """(stream, sample) in the order received; values are still serialised."""

    def value(self, stream: str, sample: Sample) -> Any:
        """The value in its message: an image (H, W, 3), a `Pose`, a width in metres, a command, the scene state.

        Raises `DiwaError` on a damaged message, and on numbers that are not finite.
        """


def attempt_at(attempts: Sequence[Attempt], received: float) -> Attempt | None:
    """The attempt that a frame received at this time belongs to."""
    before = bisect_right(attempts, received, key=lambda attempt: attempt.first)
    return attempts[before - 1] if before and received <= attempts[before - 1].last else None
