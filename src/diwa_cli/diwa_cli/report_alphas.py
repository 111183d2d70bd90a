"""The section of a sweep's report on alpha_BC: success in dreams against the truth (paper Fig. S.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diwa_cli.page import Table, drawing
from diwa_cli.plots_sweep import Bar, DreamtBar, dreamt_bars
from diwa_cli.report_learning import history
from diwa_cli.run_folder import FINETUNED, read_metrics
from diwa_cli.statistics import Interval, interval_of_mean
from diwa_cli.sweep_folder import Run, SweepFolder
from diwa_learning.selection import before


def alphas(folder: SweepFolder, found: dict[str, Any]) -> dict[str, Any] | None:
    """Success in dreams and in the simulator over alpha_BC; None if no skill has all of several values."""
    rows = groups(found["skills"])
    if len(rows) < 2:
        return None
    bars, cells = {}, []
    for alpha, group in rows.items():
        dream, kl = (mean(of_runs(folder, group, name)) for name in ("dream_success", "bc_kl"))
        truth = over_skills(group)
        bars[f"{alpha:g}"] = DreamtBar(100 * dream, truth)
        cells.append([f"{alpha:g}", f"{100 * dream:.1f}", f"{truth.mean:.1f}", f"{truth.low:.1f} to {truth.high:.1f}",
                      f"{kl:.3f}"])  # fmt: skip
    spoken = "; ".join(
        f"{name}: {bar.dream:.0f} % in dreams, {bar.truth.mean:.0f} % true" for name, bar in bars.items()
    )
    head = ["alpha_BC", "in dreams, %", "in the simulator, %", "95 %", "KL to the base policy"]
    return {
        "rows": Table(head, cells),
        "bars": drawing(dreamt_bars(bars), f"Bars of success by alpha_BC, {spoken}"),
    }


def groups(rows: Sequence[dict[str, Any]]) -> dict[float, list[dict[str, Any]]]:
    """alpha_BC -> rows of the skills that were fine-tuned with every value."""
    values = sorted({row["alpha_bc"] for row in rows})
    skills = [row["skill"] for row in rows]
    return {
        alpha: group
        for alpha in values
        if (group := [r for r in rows if r["alpha_bc"] == alpha and skills.count(r["skill"]) == len(values)])
    }


def of_runs(folder: SweepFolder, group: Sequence[dict[str, Any]], name: str) -> list[float]:
    """A curve of fine-tuning just before the result, of each skill and seed."""
    found = []
    for row in group:
        for seed in row["seeds"]:
            run = folder.of(Run(row["skill"], seed, row["alpha_bc"]).name)
            metrics = read_metrics(run.finetuned) or {}
            if curve := history(metrics, name):
                found.append(before(curve.y, metrics.get("iteration", len(curve.y))))
    return found


def over_skills(group: Sequence[dict[str, Any]]) -> Bar:
    """Success in the simulator, a dot a skill."""
    rates = [row[FINETUNED] for row in group]
    ends = interval_of_mean(rates, [Interval(*row["finetuned_interval"]) for row in group])
    return Bar(mean(rates), ends.low, ends.high, rates)


def mean(values: Sequence[float]) -> float:
    """Not a number where nothing was logged."""
    return sum(values) / len(values) if values else float("nan")
