"""CPU and memory of the processes of a launch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def node_pid(name: str, launch: int) -> int:
    """The process of a node, by its command line, within the launch's session."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(f"/{name}_node".encode()) for word in words) and os.getsid(int(entry.name)) == launch:
                return int(entry.name)
        except (OSError, ProcessLookupError):
            continue
    raise SystemExit(f"no process of the node {name}: does the launch file run?")


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds so far, and resident megabytes."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    tick = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / tick, int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def summary(rows: np.ndarray) -> dict[str, float]:
    """Summary of rows (N, 3): time, CPU seconds, megabytes."""
    cpu = (rows[-1, 1] - rows[0, 1]) / (rows[-1, 0] - rows[0, 0])
    return {
        "cpu_percent": round(100 * float(cpu), 1),
        "mb_first": round(rows[0, 2], 1),
        "mb_last": round(rows[-1, 2], 1),
    }
