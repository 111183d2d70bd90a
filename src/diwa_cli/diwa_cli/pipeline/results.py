"""The table of a sweep: a row for each run, one for each skill over seeds; rates in percent, differences in points."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from diwa_cli.doctor import machine, versions
from diwa_cli.evaluation.evaluate import Evaluation, difference_summary
from diwa_cli.evaluation.rollouts import RolloutResult
from diwa_cli.pipeline.execute import Outcome, Phase
from diwa_cli.report.page import markdown_table
from diwa_cli.run_folder import BASE, FINETUNED, Run, RunFolder, SweepFolder, read_json, write_text
from diwa_cli.statistics import Interval, SeedMean, difference_over_seeds, rate_over_seeds
from diwa_data.config import Source
from diwa_data.errors import DiwaError

UNITS = (
    "rates in percent, differences in percentage points, all intervals 95 %. runs: Wilson, Newcombe (paired); "
    "skills: over seeds and start states, both at random (Hillis 2007)"
)
HEADINGS = ("skill", "alpha_BC", "seeds", "base", "fine-tuned", "difference (95 %, paired)", "DPPO steps to match")


@dataclass(frozen=True)
class JudgedRun:
    """A finished run with its rollouts, those of the base policy and the fine-tuned one from the same starts."""

    run: Run
    rollouts: Evaluation
    dppo: dict[str, Any] | None = None
    """Environment steps that the baseline took from the same base policy (`dppo.json`), if it ran."""


def judged_runs(folder: SweepFolder, runs: Iterable[Run], done: Collection[str]) -> list[JudgedRun]:
    """The runs whose two evaluations are among the phases `done`."""
    found = []
    for run in runs:
        if {f"{run.trained}/evaluate", f"{run.name}/evaluate"} <= set(done):
            files = RunFolder(folder, run)
            dppo = read_json(files.dppo_steps) if f"{run.name}/dppo" in done else None
            found.append(JudgedRun(run, paired_rollouts(files), dppo))
    return found


def paired_rollouts(files: RunFolder) -> Evaluation:
    """A run's rollouts, of the base policy and the fine-tuned one. Raises `DiwaError` unless they began alike."""
    found = {}
    for name, folder in ((BASE, files.base_final), (FINETUNED, files.final)):
        found[name] = [RolloutResult(**one) for one in read_json(folder / "evaluation.json")["rollouts"]]
    base, tuned = ([rollout.seed for rollout in rollouts] for rollouts in found.values())
    if base != tuned:
        raise DiwaError(f"{files.path}: was judged from other starts than its base: delete its evaluation")
    return Evaluation(found)


def results(
    judged: Sequence[JudgedRun], phases: Sequence[Phase], outcome: Outcome, command: str, source: Source
) -> dict[str, Any]:
    """Contents of `results.json`."""
    stages: dict[str, dict[str, Any]] = {}
    for phase in phases:
        stage = stages.setdefault(phase.stage, {"seconds": 0.0, "commands": {}})
        stage["seconds"] = round(stage["seconds"] + outcome.folder.log(phase.name).seconds, 1)
        stage["commands"][phase.name] = phase.job.command(source)
    return {
        "command": command,
        "units": UNITS,
        "skills": skill_rows(judged, source.preset),
        "runs": [run_row(one) for one in judged],
        "failed": outcome.failed,
        "left_out": outcome.left_out,
        "stages": stages,
        "versions": versions(),
        "machine": machine(),
    }


def run_row(one: JudgedRun) -> dict[str, Any]:
    """The result of one run, with the intervals of a single run: over start states."""
    row: dict[str, Any] = {"skill": one.run.skill, "seed": one.run.seed, "alpha_bc": one.run.alpha}
    for name in (BASE, FINETUNED):
        rate = one.rollouts.rate(name)
        row |= {name: 100 * rate.rate, f"{name}_interval": _percent(rate.interval), "rollouts": rate.rollouts}
    difference = difference_summary(one.rollouts, BASE, FINETUNED)
    return {**row, "difference": difference.pop("points"), **difference}


def skill_rows(judged: Sequence[JudgedRun], preset: str) -> list[dict[str, Any]]:
    """A row for each skill and alpha_BC over its finished seeds."""
    groups: dict[tuple[str, float], list[JudgedRun]] = {}
    for one in judged:
        groups.setdefault((one.run.skill, one.run.alpha), []).append(one)
    rows = []
    for (skill, alpha), group in groups.items():
        base, tuned = ([one.rollouts.successes(name) for one in group] for name in (BASE, FINETUNED))
        about = {"skill": skill, "preset": preset, "alpha_bc": alpha, "seeds": [one.run.seed for one in group]}
        rows.append({**about, "rollouts": len(base[0]), **over_seeds(base, tuned), **baseline(group)})
    return rows


def over_seeds(base: Sequence[Sequence[bool]], tuned: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """Rates before and after and their difference, with intervals, of successes in rows of seeds."""
    return {
        **points(BASE, "base_interval", rate_over_seeds(base)),
        **points(FINETUNED, "finetuned_interval", rate_over_seeds(tuned)),
        **points("difference", "interval", difference_over_seeds(base, tuned)),
    }


def points(name: str, interval: str, found: SeedMean) -> dict[str, Any]:
    """A mean in percent and its interval, under these two names."""
    return {name: round(100 * found.mean, 2), interval: _percent(found.interval)}


def baseline(group: Sequence[JudgedRun]) -> dict[str, Any]:
    """Environment steps that DPPO took to match each run's result, and their mean; null where it did not, or never ran.

    `dppo` has what was found for each seed: the rate to match, and the steps practised at most.
    """
    seeds = [
        {
            "seed": one.run.seed,
            "rate": round(100 * one.dppo["rate"], 2),
            "steps": one.dppo["environment_steps"],
            "practised": one.dppo["curve"][-1]["environment_steps"],
        }
        for one in group
        if one.dppo
    ]
    steps = [found["steps"] for found in seeds]
    reached = bool(steps) and None not in steps
    return {"dppo_steps_to_match": round(sum(steps) / len(steps)) if reached else None, "dppo": seeds}


def steps_to_match(row: dict[str, Any]) -> str:
    """A row's baseline in a few words; empty if it never ran."""
    if row["dppo_steps_to_match"] is not None:
        return f"{row['dppo_steps_to_match']:,}"
    return f"more than {max(found['practised'] for found in row['dppo']):,}" if row["dppo"] else ""


def table(judged: Sequence[JudgedRun]) -> str:
    """A row for each skill and alpha_BC, as Markdown."""
    return markdown_table(HEADINGS, map(cells, skill_rows(judged, "")))


def headline(judged: Sequence[JudgedRun]) -> str:
    """The result of the one run of a demo in a line."""
    if not judged:
        return "no result"
    run, rollouts = judged[0].run, judged[0].rollouts
    difference, (base, tuned) = difference_summary(rollouts, BASE, FINETUNED), map(rollouts.rate, (BASE, FINETUNED))
    low, high = difference["interval"]
    return (
        f"{run.skill}: {base.successes} of {base.rollouts} after imitation, {tuned.successes} of {tuned.rollouts} "
        f"after dreaming; difference {difference['points']:+.0f} points (95 %: {low:+.0f} to {high:+.0f})"
    )


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of a skill as it is printed."""
    seeds = " ".join(map(str, row["seeds"]))
    return (row["skill"], f"{row['alpha_bc']:g}", seeds, *change(row), steps_to_match(row))


def change(row: dict[str, Any]) -> tuple[str, str, str]:
    """Rates before and after, and their difference."""
    low, high = row["interval"]
    difference = f"{row['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"{row[BASE]:.1f} %", f"{row[FINETUNED]:.1f} %", difference


def write_rollouts(folder: SweepFolder, judged: Sequence[JudgedRun]) -> None:
    """Every rollout as a JSON line: skill, training seed, policy, alpha_bc (base: null), start, success, steps."""
    lines = {}
    for one in judged:
        for policy, rollouts in one.rollouts.rollouts.items():
            alpha = None if policy == BASE else one.run.alpha
            for rollout in rollouts:
                row = {"skill": one.run.skill, "seed": one.run.seed, "policy": policy, "alpha_bc": alpha}
                row |= {"start": rollout.seed, "success": rollout.success, "steps": rollout.steps}
                lines[one.run.trained, alpha, rollout.seed] = json.dumps(row)
    write_text(folder.rollouts, "".join(line + "\n" for line in lines.values()))


def _percent(interval: Interval) -> list[float]:
    return [round(100 * interval.low, 2), round(100 * interval.high, 2)]
