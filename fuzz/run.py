"""`make fuzz`: damage files of every kind at random and count what their readers do; status 1 if any case is bad.

A new kind of file is a `Target` (harness.py) in the list `TARGETS` of a module here, which `all_targets` names.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import checkpoints
import datasets
import foreign
import recordings
from harness import BAD, OUTCOMES, Case, Target, run


def all_targets() -> dict[str, Target]:
    """Every kind of file, by name."""
    return {
        target.name: target
        for target in (*recordings.TARGETS, *foreign.TARGETS, *datasets.TARGETS, *checkpoints.TARGETS)
    }


def row(name: str, cases: list[Case]) -> dict[str, str | int]:
    """The record that is written about a target."""
    counts = Counter(case.outcome for case in cases)
    return {"target": name, "cases": len(cases), **{outcome: counts[outcome] for outcome in OUTCOMES}}


def show(name: str, cases: list[Case], details: bool) -> None:
    """Print the counts, and one example of each bad outcome (with `details` every case)."""
    print(", ".join(f"{key} {value}" for key, value in row(name, cases).items()), flush=True)
    examples = {case.outcome: case for case in reversed(cases) if case.outcome in BAD}
    for case in cases if details else examples.values():
        print(f"  case {case.number}: {case.outcome} {case.detail}".rstrip(), flush=True)


def write(out: Path, rows: list[dict[str, str | int]]) -> None:
    """Write `rows` into `out`; those of other targets stay."""
    kept = {each["target"]: each for each in json.loads(out.read_text())} if out.is_file() else {}
    kept |= {each["target"]: each for each in rows}
    order = [name for name in all_targets() if name in kept]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("[\n" + ",\n".join(json.dumps(kept[name]) for name in order) + "\n]\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="names of targets; all unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="targets at the same time")
    parser.add_argument("--out", type=Path, help="JSON file of rows")
    parser.add_argument("--details", action="store_true", help="print every case")
    given = parser.parse_args()
    targets = all_targets()
    unknown = set(given.only) - set(targets)
    if unknown:
        parser.error(f"unknown target {', '.join(sorted(unknown))}; choose from {', '.join(targets)}")
    rows = []
    with ThreadPoolExecutor(given.jobs) as pool:
        names = given.only or list(targets)
        done = pool.map(lambda name: run(targets[name], all_targets, given.seed), names)
        for name, cases in zip(names, done, strict=True):
            show(name, cases, given.details)
            rows.append(row(name, cases))
    if given.out:
        write(given.out, rows)
    return int(any(each[outcome] for each in rows for outcome in BAD))


if __name__ == "__main__":
    raise SystemExit(main())
