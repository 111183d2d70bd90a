"""What every benchmark shares: measurements, each printed as a line of JSON by the benchmark's command."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measurement:
    """One figure; `reference` is the same work done plainly in the same run, `ratio` how many times faster ours is.

    Where there is a ratio, `target` is one. `floor` is what the arithmetic alone allows: its operations at the peak of
    one large matrix product.
    """

    name: str
    value: float
    unit: str
    target: float
    reference: float | None = None
    ratio: float | None = None
    floor: float | None = None

    def print(self) -> None:
        """Write the measurement as a line of JSON, with the command that made it."""
        rounded = {key: round(value, 2) if isinstance(value, float) else value for key, value in asdict(self).items()}
        row = rounded | {"command": f"python benchmarks/{Path(sys.argv[0]).name}"}
        print(json.dumps(row), flush=True)
