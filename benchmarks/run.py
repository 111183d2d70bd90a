"""Run every benchmark in a process of its own and keep the figures.

    python benchmarks/run.py --out FILE.json
    python benchmarks/run.py --against COMMIT                # also how many times faster than that commit
    python benchmarks/run.py --lumos DIR --dppo DIR          # also against clones of public implementations
    python benchmarks/run.py --table                         # no run: the tables of docs/speed.md, from the figures

The figures of docs/results/bench_cpu.json are the tables of docs/speed.md; a run that writes them writes both.

With `--against`, each benchmark runs in turn with the other commit's own script of that name, from a temporary git
worktree. A row then holds `before_ratio`: above 1, ours is better; null where the other commit has no such row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import LOWER_IS_BETTER, rounded
from table import write_tables

BENCHMARKS = (
    "simulation",
    "dataset_build",
    "dataset_load",
    "control_tick",
    "world_model",
    "imagination",
    "finetuning",
    "growth",
)
PEERS = {"peer_lumos": "lumos", "peer_dppo": "dppo"}
"""Benchmarks that take a clone, and the flag that names it."""
ROOT = Path(__file__).resolve().parents[1]
FIGURES, PAGE = ROOT / "docs/results/bench_cpu.json", ROOT / "docs/speed.md"

Row = dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIGURES)
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS, default=BENCHMARKS, help="beside the clones'")
    parser.add_argument("--against", metavar="COMMIT", help="run this commit's benchmarks in turn with ours")
    parser.add_argument("--rounds", type=int, help="runs of each benchmark: 2 with --against, else 1")
    for flag in PEERS.values():
        parser.add_argument(f"--{flag}", type=Path, metavar="DIR", help=f"a clone of {flag}, measured beside ours")
    parser.add_argument("--table", action="store_true", help="run nothing: write the tables of docs/speed.md")
    arguments = parser.parse_args(argv)
    if arguments.table:
        write_tables(PAGE, json.loads(arguments.out.read_text()))
        return
    clones = {name: getattr(arguments, flag) for name, flag in PEERS.items() if getattr(arguments, flag)}
    work = {name: [] for name in arguments.only} | {name: ["--peer", str(path)] for name, path in clones.items()}
    rounds = arguments.rounds or (2 if arguments.against else 1)
    kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    rows = {row["name"]: row for row in kept}
    with worktree(arguments.against) as (other, commit):
        for name, words in work.items():
            for row in measure(name, words, rounds, other, commit):
                rows[row["name"]] = row
                show(row)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    if arguments.out.resolve() == FIGURES:
        write_tables(PAGE, list(rows.values()))


def measure(name: str, words: Sequence[str], rounds: int, other: Path | None, commit: str | None) -> list[Row]:
    """The benchmark's rows, medians of the rounds; beside the other commit's where there is one."""
    ours: list[list[Row]] = []
    before: list[list[Row]] = []
    for _ in range(rounds):
        ours.append(run(ROOT, name, words))
        if other:
            before.append(run(other, name, words))
    merged = [median([of_name(row["name"], done) for done in ours]) for row in ours[0]]
    if other:
        for row in merged:
            pairs = zip(ours, before, strict=True)
            ratios = [gain(of_name(row["name"], mine), of_name(row["name"], theirs)) for mine, theirs in pairs]
            known = [ratio for ratio in ratios if ratio is not None]
            row["before_ratio"] = rounded(statistics.median(known)) if known else None
            row["before_spread"] = rounded([min(known), max(known)]) if known else None
            row["before_commit"] = commit
    return merged


def run(root: Path, name: str, words: Sequence[str]) -> list[Row]:
    """The rows that a checkout's benchmark prints; none where the checkout has no such benchmark."""
    script = root / "benchmarks" / f"{name}.py"
    if root != ROOT and not script.exists():
        return []
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, env=environment(root), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"benchmarks/{name}.py of {root} ended with status {done.returncode}: its words are above")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]  # beside what commands print


def environment(root: Path) -> dict[str, str]:
    """Environment in which a checkout's own packages are imported, whatever is installed."""
    packages = [str(path) for path in sorted((root / "src").glob("diwa_*")) if (path / "setup.py").exists()]
    inherited = [path for path in [os.environ.get("PYTHONPATH")] if path]  # that of ROS
    return os.environ | {"PYTHONPATH": os.pathsep.join([*packages, *inherited])}


@contextmanager
def worktree(commit: str | None) -> Iterator[tuple[Path | None, str | None]]:
    """A checkout of the commit and its short hash, removed afterwards; nothing for no commit."""
    if not commit:
        yield None, None
        return
    found = git("rev-parse", "--short", f"{commit}^{{commit}}")
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder).resolve() / found
        try:
            git("worktree", "add", "--detach", str(checkout), found)
            where = "import diwa_learning; print(diwa_learning.__file__)"
            command = [sys.executable, "-c", where]
            path = subprocess.run(command, env=environment(checkout), stdout=subprocess.PIPE, text=True, check=True)
            if not Path(path.stdout.strip()).is_relative_to(checkout):
                raise SystemExit(f"diwa_learning comes from {path.stdout.strip()}, not from the checkout of {found}")
            yield checkout, found
        finally:
            git("worktree", "remove", "--force", str(checkout))


def git(*words: str) -> str:
    """A git command in this repository; ends with git's own line where it fails."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def of_name(name: str, rows: Sequence[Row]) -> Row | None:
    """The row of this name."""
    return next((row for row in rows if row["name"] == name), None)


def gain(ours: Row | None, before: Row | None) -> float | None:
    """How many times better ours is; of times and memory the inverse ratio."""
    if ours is None or before is None:
        return None
    ratio = ours["value"] / before["value"]
    return 1 / ratio if ours["unit"] in LOWER_IS_BETTER else ratio


def median(rows: Sequence[Row | None]) -> Row:
    """One row of several runs: medians of figures, the widest spread, everything else as in the first."""
    found = [row for row in rows if row]
    merged = dict(found[0])
    for key, value in found[0].items():
        values = [row[key] for row in found if row[key] is not None]
        if isinstance(value, int | float):
            merged[key] = rounded(float(statistics.median(values)))
        elif isinstance(value, list):
            merged[key] = [min(low for low, _ in values), max(high for _, high in values)]
    return merged


def show(row: Row) -> None:
    """Print a row's figures."""
    ratio = f"{row['ratio']:.2f} x the other" if row.get("ratio") else ""
    target = f"target {row['target']:,g}{' x' if ratio else ''}" if row.get("target") else ""
    before = f"{row['before_ratio']:.2f} x {row['before_commit']}" if row.get("before_ratio") else ""
    print(f"{row['name']:34} {row['value']:>10,.4g} {row['unit']:12} {target:14} {ratio:18} {before}", flush=True)


if __name__ == "__main__":
    main()
