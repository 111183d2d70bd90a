"""`diwa compare`: variants of the method, on the skills, seeds and start states that all of them have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_cli.figures import Bar, bars
from diwa_cli.pipeline.results import change, over_seeds, points
from diwa_cli.report.page import markdown_table
from diwa_cli.run_folder import BASE, FINETUNED, SweepFolder, damaged_run, read_json, write_text
from diwa_cli.statistics import Interval, difference_over_seeds, interval_of_mean
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import read_bytes, write_json

UNITS = (
    "rates in percent, differences in percentage points, intervals 95 %: paired by start state, over seeds where there "
    "are several; of the mean, over start states and seeds, the skills given"
)
GAIN, BEYOND = ("difference", "interval"), ("beyond_first", "beyond_first_interval")
"""Names of a difference and its interval: to the base policy, and to the first variant's result."""
MEAN = "mean"
"""In the column of skills."""


Successes = dict[tuple[str, int], dict[int, bool]]
"""(skill, seed) -> start state -> success."""


@dataclass(frozen=True)
class Variant:
    """A finished sweep, or one value of alpha_BC in it, under the name by which it is compared."""

    name: str
    folder: Path
    command: str
    rollouts: Mapping[tuple[str, int], Mapping[str, Mapping[int, bool]]]
    """(skill, seed) -> policy -> start state -> success."""

    def successes(self, skill: str, seeds: Sequence[int], policy: str) -> list[list[bool]]:
        """A row a seed, in the order of start states."""
        return [[won for _, won in sorted(self.rollouts[skill, seed][policy].items())] for seed in seeds]


def compare(folders: Sequence[Path], names: Sequence[str], out: Path | None, figure: Path | None) -> str:
    """Their table as Markdown; its rows also go to the JSON file `out`, bars to the SVG file `figure`.

    Raises `DiwaError` for a folder without a finished sweep, names that do not tell them apart, a single variant,
    variants with nothing in common, and one that was judged from other start states.
    """
    names = names or [folder.name for folder in folders]
    if len(set(names)) != len(names) or len(names) != len(folders):
        raise DiwaError(f"each folder needs a name of its own (--names): {', '.join(names)}")
    variants = [one for name, folder in zip(names, folders, strict=True) for one in load(name, folder)]
    if len(variants) < 2:
        raise DiwaError(f"{folders[0]} is one variant: give two folders or more, or a sweep with several --alphas")
    rows = [row(variants, skill, seeds) for skill, seeds in shared(variants).items()]
    rows.append(mean(rows))
    if out:
        about = {v.name: {"folder": str(v.folder), "command": v.command} for v in variants}
        write_json(out, {"units": UNITS, "variants": about, "rows": rows})
    if figure:
        write_text(figure, drawing(rows))
    return table(rows)


def load(name: str, folder: Path) -> list[Variant]:
    """A finished sweep as one variant, or where it has several values of alpha_BC as one for each of them.

    Raises `DiwaError` for a folder without one, and for a damaged file.
    """
    paths = SweepFolder(folder)
    description = require_finished(paths)
    bases, tuned = read_rollouts(paths.rollouts)
    groups = {f"{name}, alpha_BC {alpha:g}": runs for alpha, runs in sorted(tuned.items())}
    keys = [key for runs in groups.values() for key in runs]
    if len(set(keys)) == len(keys):  # no skill has several values
        groups = {name: {key: starts for runs in groups.values() for key, starts in runs.items()}}
    with damaged_run(folder):
        return [
            Variant(
                label, folder, description["command"], {key: {BASE: bases[key], FINETUNED: runs[key]} for key in runs}
            )
            for label, runs in groups.items()
        ]


def read_rollouts(path: Path) -> tuple[Successes, dict[float, Successes]]:
    """Successes of base policies, and of fine-tuned ones by alpha_BC. Raises `DiwaError` for a damaged file."""
    bases: Successes = {}
    tuned: dict[float, Successes] = {}
    for number, line in enumerate(read_bytes(path, "the same `diwa sweep` rewrites it").splitlines(), 1):
        with damage_as_error(f"{path} is damaged in line {number}", "the same `diwa sweep` rewrites it"):
            one = json.loads(line)
            runs = bases if one["policy"] == BASE else tuned.setdefault(one["alpha_bc"], {})
            runs.setdefault((one["skill"], one["seed"]), {})[one["start"]] = one["success"]
    return bases, tuned


def shared(variants: Sequence[Variant]) -> dict[str, list[int]]:
    """Skill -> seeds that all of them have, in the order of the first. Raises `DiwaError` if there are none."""
    first, *others = variants
    found: dict[str, list[int]] = {}
    for key, policies in first.rollouts.items():
        if not all(key in other.rollouts for other in others):
            continue
        for other in others:
            if other.rollouts[key][FINETUNED].keys() != policies[FINETUNED].keys():
                raise DiwaError(
                    f"{other.folder} has {key[0]} judged from other start states than {first.folder}: "
                    f"{len(other.rollouts[key][FINETUNED])} and {len(policies[FINETUNED])}; use the same --rollouts"
                )
        found.setdefault(key[0], []).append(key[1])
    if not found:
        raise DiwaError(
            f"no skill and seed is in all of {', '.join(variant.name for variant in variants)}: choose others"
        )
    return found


def row(variants: Sequence[Variant], skill: str, seeds: Sequence[int]) -> dict[str, Any]:
    """One skill: rates and gain of every variant, and how far each result is beyond the first variant's."""
    first = variants[0].successes(skill, seeds, FINETUNED)
    results: dict[str, dict[str, Any]] = {}
    for variant in variants:
        base, tuned = (variant.successes(skill, seeds, policy) for policy in (BASE, FINETUNED))
        results[variant.name] = over_seeds(base, tuned)
        if variant is not variants[0]:
            results[variant.name] |= points(*BEYOND, difference_over_seeds(first, tuned))
    return {"skill": skill, "seeds": list(seeds), "rollouts": len(first[0]), "variants": results}


def mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over skills."""
    results = {}
    for name in rows[0]["variants"]:
        each = [found["variants"][name] for found in rows]
        results[name] = {key: round(sum(one[key] for one in each) / len(each), 2) for key in (BASE, FINETUNED)}
        for key, interval in (names for names in (GAIN, BEYOND) if names[0] in each[0]):
            values = [one[key] for one in each]
            ends = interval_of_mean(values, [Interval(*one[interval]) for one in each])
            results[name][key] = round(sum(values) / len(values), 2)
            results[name][interval] = [round(ends.low, 2), round(ends.high, 2)]
    return {"skill": MEAN, "seeds": sorted({seed for found in rows for seed in found["seeds"]}), "variants": results}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as Markdown: before and after of each variant, then each result beyond the first variant's."""
    first, *others = rows[0]["variants"]
    head = ["skill", "seeds", first, *others, *(f"{name} - {first} (95 %)" for name in others)]
    lines = []
    for found in rows:
        results = found["variants"]
        cells = [found["skill"], " ".join(map(str, found["seeds"]))]
        cells += [f"{one[BASE]:.1f} to {one[FINETUNED]:.1f} %" for one in results.values()]
        for name in others:
            low, high = results[name]["beyond_first_interval"]
            cells.append(f"{results[name]['beyond_first']:+.1f} ({low:+.1f} to {high:+.1f})")
        lines.append(cells)
    return markdown_table(head, lines)


def drawing(rows: Sequence[dict[str, Any]]) -> str:
    """A bar for each skill and variant, after dreaming, with a line where it was after imitation."""
    shown = {}
    for found in rows:
        pairs = found["variants"].items()
        shown[found["skill"].replace("_", " ")] = {name: Bar(one[FINETUNED], mark=one[BASE]) for name, one in pairs}
    return bars(shown, "success after dreaming, %", mark="after imitation")


def require_finished(folder: SweepFolder) -> dict[str, Any]:
    """Contents of `run.json`. Raises `DiwaError` for a folder without a finished sweep or demo."""
    if not folder.is_sweep or not folder.rollouts.is_file():
        path = folder.path
        raise DiwaError(f"{path} holds no finished demo or sweep: run `diwa sweep --out {path}` to its end first")
    return read_json(folder.description)


def each(folders: Sequence[Path], out: Path | None) -> str:
    """A row for every run of finished demos and sweeps as Markdown; the rows also go to the JSON file `out`."""
    rows = [found for folder in folders for found in run_rows(folder)]
    if out:
        write_json(out, rows)
    lines = []
    for found in rows:
        own = "" if found["own_world_model"] else " (world model of another run)"
        about = (found["skill"], str(found["seed"]), f"{found['alpha_bc']:g}")
        lines.append((*about, *change(found), f"{found['minutes']:.1f}{own}"))
    head = ("skill", "seed", "alpha_BC", "base", "fine-tuned", "difference (95 %)", "minutes of the whole sweep")
    return markdown_table(head, lines)


def run_rows(path: Path) -> list[dict[str, Any]]:
    """Results of the runs of a demo or sweep: rates in percent, difference and its interval in points, all minutes."""
    folder = SweepFolder(path)
    description, found = require_finished(folder), read_json(folder.results)
    with damaged_run(path):
        about = {
            "minutes": round(sum(stage["seconds"] for stage in found["stages"].values()) / 60, 1),
            "own_world_model": folder.learned_path == folder.path,
            "command": description["command"],
            "machine": description["machine"],
        }
        return [{**run, "points": round(run["difference"], 2), **about} for run in found["runs"]]
