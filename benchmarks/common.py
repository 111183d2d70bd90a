"""What every benchmark shares: one measurement, printed as one line of JSON by a command of its own."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measurement:
    """One figure; `reference` is the same work done plainly in the same run, `ratio` ours over it."""

    name: str
    value: float
    unit: str
    target: float
    reference: float | None = None
    ratio: float | None = None

    def print(self) -> None:
        """Write the measurement as a line of JSON, with the command that made it."""
        row = asdict(self) | {"value": round(self.value, 2), "command": f"python benchmarks/{Path(sys.argv[0]).name}"}
        print(json.dumps(row), flush=True)
