"""Shared parts of the benchmarks: measurements, each printed as a line of JSON by the benchmark's command."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

LOWER_IS_BETTER = ("ms", "s", "GiB")
"""Units of which less is better; of all others more is."""


@dataclass(frozen=True)
class Measurement:
    """One figure; `reference` is the same work done by another implementation in the same run.

    `ratio` is how many times faster ours is, `spread` its lowest and highest value in a round. Where there is a ratio,
    `target` is one. `floor` is what the arithmetic alone allows: its operations at the peak of one large matrix
    product.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    reference: float | None = None
    ratio: float | None = None
    floor: float | None = None
    spread: tuple[float, float] | None = None

    def print(self) -> None:
        """Write the measurement as a line of JSON, with the command that made it."""
        command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        print(
            json.dumps({key: rounded(value) for key, value in asdict(self).items()} | {"command": command}), flush=True
        )


def rounded(value: object) -> object:
    """Two decimals of a number, or of each of a tuple's; anything else as it is."""
    if isinstance(value, tuple | list):
        return [rounded(each) for each in value]
    return round(value, 2) if isinstance(value, float) else value
