"""Run every benchmark in a process of its own and keep the table: `python benchmarks/run.py --out FILE.json`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("simulation", "dataset_build", "dataset_load", "control_tick", "world_model", "imagination", "finetuning")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/bench_cpu.json"))
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    arguments = parser.parse_args()
    kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    rows = {row["name"]: row for row in kept}
    for name in arguments.only:
        script = Path(__file__).with_name(f"{name}.py")
        done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, check=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]  # beside what commands print
        for row in map(json.loads, lines):
            rows[row["name"]] = row
            against = f"{row['ratio']:.2f} x the plain one" if row["ratio"] else ""
            target = f"target {row['target']:,g}{' x' if against else ''}"
            print(f"{row['name']:32} {row['value']:>10,.4g} {row['unit']:12} {target:14} {against}", flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()
