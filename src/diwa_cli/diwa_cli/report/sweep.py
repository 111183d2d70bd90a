"""The report of a sweep: one page over all runs, with the commands behind each figure. Videos are linked."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from diwa_cli.figures import DREAM, POLICIES, Bar, Curve, bars, lines
from diwa_cli.figures import FINETUNED as TUNED
from diwa_cli.report.page import Figure, Table, drawing, write_page
from diwa_cli.report.run import history, machine, phase_bars, signed, world_model, write_run_report
from diwa_cli.run_folder import BASE, FINETUNED, Run, RunFolder, SweepFolder, damaged_run, read_json, read_metrics
from diwa_cli.statistics import Interval, interval_of_mean
from diwa_data.errors import DiwaError
from diwa_learning.finetune.selection import before


def alphas(folder: SweepFolder, found: dict[str, Any]) -> dict[str, Any] | None:
    """Success in dreams and in the simulator over alpha_BC; None if no skill has all of several values."""
    rows = groups(found["skills"])
    if len(rows) < 2:
        return None
    shown, cells = {}, []
    for alpha, group in rows.items():
        dream, kl = (mean(of_runs(folder, group, name)) for name in ("dream_success", "bc_kl"))
        truth = over_skills(group)
        shown[f"{alpha:g}"] = {"in dreams": Bar(100 * dream), "in the simulator": truth}
        ends = _span([truth.interval.low, truth.interval.high]) if truth.interval else ""
        cells.append([f"{alpha:g}", f"{100 * dream:.1f}", f"{truth.value:.1f}", ends, f"{kl:.3f}"])
    spoken = "; ".join(
        f"{name}: {pair['in dreams'].value:.0f} % in dreams, {pair['in the simulator'].value:.0f} % true"
        for name, pair in shown.items()
    )
    about = "success at each alpha_BC, % (line: 95 % interval of the mean; dots: skills)"
    head = ["alpha_BC", "in dreams, %", "in the simulator, %", "95 %", "KL to the base policy"]
    return {
        "rows": Table(head, cells),
        "bars": drawing(bars(shown, about, (DREAM, TUNED)), f"Bars of success by alpha_BC, {spoken}"),
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
            run = RunFolder(folder, Run(row["skill"], seed, row["alpha_bc"]))
            metrics = read_metrics(run.finetuned) or {}
            if curve := history(metrics, name):
                found.append(before(curve.y, metrics.get("iteration", len(curve.y))))
    return found


def over_skills(group: Sequence[dict[str, Any]]) -> Bar:
    """Success in the simulator, a dot a skill."""
    rates = [row[FINETUNED] for row in group]
    ends = interval_of_mean(rates, [Interval(*row["finetuned_interval"]) for row in group])
    return Bar(mean(rates), ends, rates)


def mean(values: Sequence[float]) -> float:
    """Not a number where nothing was logged."""
    return sum(values) / len(values) if values else float("nan")


def write_report(path: Path) -> Path:
    """Write `report.html` of the demo or sweep in the folder `path`; the page's path.

    Raises `DiwaError` if there is no such folder, or nothing of a sweep in it.
    """
    folder = SweepFolder(path)
    if not path.is_dir():
        raise DiwaError(f"no run folder {path}: `diwa demo --out {path}` makes one")
    if not folder.is_sweep:
        raise DiwaError(f"{path} holds no run (no run.json): `diwa demo` makes one")
    with damaged_run(path):
        if (config := folder.config["sweep"]).get("curve_checkpoints") and len(folder.runs()) < 2:
            begun = RunFolder(folder, Run(config["skills"][0], config["seeds"][0], 0.0))
            return write_run_report((folder.runs() or [begun])[0])
    found, description = read_json(folder.results), read_json(folder.description)
    if found is None:
        raise DiwaError(f"{path} has no results of a sweep yet: run `diwa sweep --out {path}` to its end")
    with damaged_run(path):
        shown = contents(folder, found, description)
    return write_page(folder.report, "sweep.html", **shown)


def contents(folder: SweepFolder, found: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of a sweep; None for what it lacks."""
    stages = found["stages"]
    return {
        "stages": {name: "\n".join(stage.get("commands", {}).values()) for name, stage in stages.items()},
        "failed": failed(found),
        "result": result(found) if found["skills"] else None,
        "curves": learning_curves(folder, found),
        "alphas": alphas(folder, found),
        "dppo": baseline(found),
        "classifiers": classifiers(folder, found),
        "world_model": world_model(folder),
        "data": data(folder, found),
        "time": phase_bars({name: stage["seconds"] for name, stage in stages.items()}, "stage"),
        "command": found["command"],
        "config": json.dumps(description["config"], indent=2),
        "machine": machine(found),
    }


def failed(found: dict[str, Any]) -> Table | None:
    """What is missing and why; None if nothing failed."""
    causes = list(found["left_out"].values())
    rows = [[name, error, str(causes.count(name))] for name, error in found["failed"].items()]
    return Table(["phase", "error", "left out for it"], rows) if rows else None


def result(found: dict[str, Any]) -> dict[str, Any]:
    """Mean rates, table and bars over skills, and the table of runs."""
    rows = found["skills"]
    shown = {
        label(row, rows): {"after imitation": _bar(found, row, BASE), "after dreaming": _bar(found, row, FINETUNED)}
        for row in rows
    }
    spoken = "; ".join(f"{label(row, rows)}: {row[BASE]:.0f} % to {row[FINETUNED]:.0f} %" for row in rows)
    drawn = bars(shown, "success, % (line: 95 % interval; dots: seeds)", POLICIES)
    head = ["skill", "alpha_BC", "seeds", "base, %", "95 %", "fine-tuned, %", "95 %", "difference, points", "95 %"]
    cells = [
        [row["skill"], f"{row['alpha_bc']:g}", " ".join(map(str, row["seeds"])), f"{row[BASE]:.1f}",
         _span(row["base_interval"]), f"{row[FINETUNED]:.1f}", _span(row["finetuned_interval"]),
         signed(row["difference"], 1), _signed_span(row["interval"])]
        for row in rows
    ]  # fmt: skip
    runs = [
        [row["skill"], str(row["seed"]), f"{row['alpha_bc']:g}", f"{row[BASE]:.1f}", f"{row[FINETUNED]:.1f}",
         signed(row["difference"], 1), _signed_span(row["interval"])]
        for row in found["runs"]
    ]  # fmt: skip
    head_runs = ["skill", "seed", "alpha_BC", "base, %", "fine-tuned, %", "difference, points", "95 %, this seed"]
    return {
        "skills": _count(len({row["skill"] for row in rows}), "skill"),
        "seeds": _count(len({seed for row in rows for seed in row["seeds"]}), "seed"),
        "runs": _count(len(found["runs"]), "run"),
        "starts": rows[0]["rollouts"],
        **{policy: f"{sum(row[policy] for row in rows) / len(rows):.0f}" for policy in (BASE, FINETUNED)},
        "rows": Table(head, cells),
        "bars": drawing(drawn, f"Bars of success, {spoken}"),
        "every": Table(head_runs, runs),
    }


def learning_curves(folder: SweepFolder, found: dict[str, Any]) -> list[dict[str, Any]]:
    """A small figure for each row of the result, a line a seed, with the first seed's films."""
    small = []
    for row in found["skills"]:
        curves = {seed: curve for seed in row["seeds"] if (curve := _curve(folder, found, row, seed))}
        if curves:
            name = label(row, found["skills"])
            small.append({"name": name, "drawing": _drawn(name, curves), "films": _films(folder, row)})
    return small


def baseline(found: dict[str, Any]) -> Table | None:
    """What the same gain costs on the robot; None where the baseline did not run."""
    cells = [
        [row["skill"], str(one["seed"]), f"{one['rate']:.1f}",
         "not reached" if one["steps"] is None else f"{one['steps']:,}", f"{one['practised']:,}"]
        for row in found["skills"]
        for one in row.get("dppo", [])
    ]  # fmt: skip
    return Table(["skill", "seed", "success to match, %", "environment steps", "practised"], cells) if cells else None


def classifiers(folder: SweepFolder, found: dict[str, Any]) -> Table:
    """Precision and recall of every classifier on held-out imagined states."""
    rows = []
    for skill, seed in dict.fromkeys((row["skill"], row["seed"]) for row in found["runs"]):
        metrics = read_metrics(RunFolder(folder, Run(skill, seed, 0)).reward) or {}
        score, dreams = metrics.get("imagined"), metrics.get("dreams") or {}
        if score:
            shares = [f"{100 * dreams[key]:.0f}" if key in dreams else "" for key in ("demonstrated", "idle")]
            rows.append([skill, str(seed), f"{score['precision']:.2f}", f"{score['recall']:.2f}", *shares])
    return Table(["skill", "seed", "precision", "recall", "dreams of demonstrations, %", "of doing nothing, %"], rows)


def data(folder: SweepFolder, found: dict[str, Any]) -> Table:
    """Whether each skill's demonstrations succeed again when replayed."""
    rows = []
    for skill in (name.partition("/")[0] for name in found["stages"]["replay"]["commands"]):
        replay = read_json(RunFolder(folder, Run(skill, 0, 0)).replay)
        if replay:
            again = sum(episode["succeeded"] for episode in replay["episodes"])
            right = all(share >= replay["minimum"] for share in replay["shares"].values())
            verdict = "as it must" if right else f"below {100 * replay['minimum']:.0f} %: the actions are in doubt"
            rows.append([skill, f"{again} of {len(replay['episodes'])}", verdict])
    return Table(["demonstrations", "succeed again", ""], rows)


def label(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Of a row in figures: its skill, with alpha_BC if it has several."""
    several = sum(other["skill"] == row["skill"] for other in rows) > 1
    return row["skill"].replace("_", " ") + (f", alpha {row['alpha_bc']:g}" if several else "")


def _bar(found: dict[str, Any], row: dict[str, Any], policy: str) -> Bar:
    return Bar(row[policy], Interval(*row[f"{policy}_interval"]), [run[policy] for run in _runs(found, row)])


def _runs(found: dict[str, Any], row: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for run in found["runs"] if (run["skill"], run["alpha_bc"]) == (row["skill"], row["alpha_bc"])]


def _curve(folder: SweepFolder, found: dict[str, Any], row: dict[str, Any], seed: int) -> tuple[Curve, Curve] | None:
    metrics = read_metrics(RunFolder(folder, Run(row["skill"], seed, row["alpha_bc"])).finetuned) or {}
    dream = history(metrics, "dream_success")
    if not dream:
        return None
    run = next(run for run in _runs(found, row) if run["seed"] == seed)
    result = metrics.get("iteration", dream.x[-1] + 1)
    return Curve(dream.x, [100 * y for y in dream.y]), Curve([0, result], [run[BASE], run[FINETUNED]])


def _drawn(name: str, curves: dict[int, tuple[Curve, Curve]]) -> Figure:
    ends = ", ".join(f"seed {seed} {dream.y[-1]:.0f} %" for seed, (dream, _) in curves.items())
    dreams, truths = (_joined(some) for some in zip(*curves.values(), strict=True))
    shown = {"in dreams": dreams, "in the simulator": dataclasses.replace(truths, marked=True)}
    drawn = lines(shown, "fine-tuning iteration", "success, %", colors=(DREAM, TUNED))
    return drawing(drawn, f"Learning curves of {name}; dreams end at {ends}")


def _joined(curves: Sequence[Curve]) -> Curve:
    """Several lines as one that breaks between them."""
    gap = float("nan")
    return Curve([x for curve in curves for x in (*curve.x, gap)], [y for curve in curves for y in (*curve.y, gap)])


def _films(folder: SweepFolder, row: dict[str, Any]) -> list[tuple[str, str]]:
    """The first seed's videos that are there: the policy of each, and its address from the page."""
    run = RunFolder(folder, Run(row["skill"], row["seeds"][0], row["alpha_bc"]))
    return [
        (policy, quote(os.fsencode(film.relative_to(folder.path))))
        for policy, final in ((BASE, run.base_final), (FINETUNED, run.final))
        for film in sorted((final / "videos").glob(f"{policy}_*.mp4"))
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _span(interval: list[float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"


def _signed_span(interval: list[float]) -> str:
    return f"{signed(interval[0], 1)} to {signed(interval[1], 1)}"
