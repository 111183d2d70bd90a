"""`diwa report`: one HTML page about a sweep, of one run (a demo) or many, or about a comparison on a robot.

What a folder lacks is named on its page, with the command that makes it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote

from diwa_cli import figures
from diwa_cli.figures import DREAM, POLICIES, Bar, Curve, bars, clock, lines, percent, success_bars
from diwa_cli.report.page import Figure, data_uri, drawing, render, span
from diwa_cli.run_folder import (
    BASE,
    FINETUNED,
    Run,
    RunFolder,
    SweepFolder,
    damaged_run,
    read_json,
    read_metrics,
    write_text,
)
from diwa_cli.statistics import SEEDS, Interval, SuccessRate, interval_of_mean
from diwa_cli.video import draw_pair, failure_as_warning
from diwa_data.errors import DiwaError
from diwa_data.view.inspect import inspect_path
from diwa_deploy.trials import read_comparison
from diwa_learning.core.checkpoint import read_spec
from diwa_learning.finetune.selection import before

LABELS = {BASE: "after imitation", FINETUNED: "after dreaming"}
"""Policies of final evaluations, in words."""
TRAINED = (DREAM, figures.FINETUNED)
"""Colours of a curve in dreams and one in the simulator."""
NOTHING: dict[str, Any] = {"skills": [], "runs": [], "failed": {}, "left_out": {}, "stages": {}}
"""Results of a sweep that has none yet."""

Pair = dict[str, dict[str, Any]]
"""Policy -> its rollout from one start, with the path of its `film`."""


def write_report(path: Path) -> Path:
    """Write `report.html` into the folder of a sweep or demo, and pictures of before and after into its runs' folders.

    A comparison's file gets its page beside it. Returns the page's path. Raises `DiwaError` if `path` is none of these.
    """
    if path.suffix == ".json":
        return write_comparison(path)
    if not path.is_dir():
        raise DiwaError(f"no run folder {path}: `diwa demo --out {path}` makes one")
    folder = SweepFolder(path)
    if not folder.is_sweep:
        raise DiwaError(f"{path} holds no run (no run.json of one): `diwa demo --out {path}` makes one")
    with damaged_run(path):
        pairs = {run: filmed_pairs(run) for run in folder.runs()}
    for run, found in pairs.items():
        draw_before_after(run, found)
    with damaged_run(path):
        page = render("report.html", **contents(folder, pairs))
    write_text(folder.report, page)
    return folder.report


def write_comparison(path: Path) -> Path:
    """Write the page about a blind comparison of policies on a robot (the paper's Fig. 3) beside its file; its path."""
    found = read_comparison(path)
    rates = {}
    for policy in found["policies"]:
        if judged := [trial["success"] for trial in found["trials"] if trial["policy"] == policy]:
            rates[policy] = SuccessRate(sum(judged), len(judged))
    drawn = drawing(success_bars(rates), "success of each policy") if rates else None
    page = path.with_suffix(".html")
    write_text(page, render("comparison.html", **found, file=path.name, rates=rates, bars=drawn))
    return page


def filmed_pairs(run: RunFolder) -> list[Pair]:
    """Starts from which both policies were filmed."""
    found: dict[Any, Pair] = {}
    for policy, folder in ((BASE, run.base_final), (FINETUNED, run.final)):
        for rollout in (read_json(folder / "evaluation.json") or {"rollouts": []})["rollouts"]:
            film = folder / "videos" / f"{policy}_{rollout['seed']}.mp4"
            if rollout["policy"] == policy and film.is_file():
                found.setdefault(rollout["seed"], {})[policy] = {**rollout, "film": film}
    return [pair for pair in found.values() if len(pair) == len(LABELS)]


def draw_before_after(run: RunFolder, pairs: Sequence[Pair]) -> None:
    """Draw the first pair in which only the fine-tuned policy succeeds, or else the first, unless that is done."""
    if not pairs:
        return
    pair = max(pairs, key=lambda pair: pair[FINETUNED]["success"] and not pair[BASE]["success"])
    films = {label: pair[policy]["film"] for policy, label in LABELS.items()}
    if run.film.is_file() and run.film.stat().st_mtime > max(film.stat().st_mtime for film in films.values()):
        return
    with failure_as_warning(run.film):
        draw_pair(films, run.strip, run.film, read_spec(run.world_model).cameras[0].record_size[1])


def contents(folder: SweepFolder, pairs: Mapping[RunFolder, Sequence[Pair]]) -> dict[str, Any]:
    """Contents of the page about a sweep; empty where the sweep lacks them."""
    found, description = read_json(folder.results) or NOTHING, read_json(folder.description)
    rows, runs, causes = found["skills"], list(pairs), list(found["left_out"].values())
    seconds = {name.replace("_", " "): float(stage["seconds"]) for name, stage in found["stages"].items()}
    skills, trained = ({getattr(run.run, key): run for run in runs[::-1]} for key in ("skill", "trained"))
    recorded = {"play": (folder.play_bags, folder.play)}
    recorded |= {name: (run.demonstration_bags, run.demonstrations) for name, run in sorted(skills.items())}
    words = spoken(seconds, clock)
    return {
        "found": found,
        "failed": [[name, error, causes.count(name)] for name, error in found["failed"].items()],
        "result": result(found) if rows else None,
        "numbers": key_numbers(found, runs) if rows else [],
        "setting": next((setting for run in runs if (setting := evaluation_setting(run))), None),
        "curves": [small for row in rows if len(runs) > 1 and (small := row_curves(folder, found, row))],
        "alphas": alphas(folder, found),
        "dppo": [(row["skill"], one) for row in rows for one in row.get("dppo", [])],
        "runs": [details(run, some, embed=len(runs) == 1) for run, some in pairs.items()],
        "classifiers": [
            (run.run, metrics) for _, run in sorted(trained.items()) if (metrics := read_metrics(run.reward))
        ],
        "world_model": world_model(folder),
        "cards": {
            name: [card(bags, "diwa record"), card(dataset, "diwa build-dataset")]
            for name, (bags, dataset) in recorded.items()
        },
        "replays": {name: replay for name, run in sorted(skills.items()) if (replay := read_json(run.replay))},
        "time": drawing(figures.phase_bars(seconds), f"Time of each stage: {words}") if seconds else None,
        "description": description,
        "toy": "--preset debug" in str(description["command"]),
        "config": json.dumps(description["config"], indent=2),
    }


def evaluation_setting(run: RunFolder) -> dict[str, Any] | None:
    """Range of the start states, and control ticks, of a run's final evaluation; None if there is none."""
    if (found := read_json(run.final / "evaluation.json")) is None:
        return None
    config = found["config"]
    first = SEEDS[config["seeds"]].start
    return {
        "range": config["seeds"],
        "starts": f"{first} to {first + config['rollouts'] - 1}",
        "max_steps": config["max_steps"],
    }


def result(found: dict[str, Any]) -> dict[str, Any]:
    """The headline, and bars of skills."""
    rows = found["skills"]
    shown = {
        label(row, rows): {
            name: Bar(row[policy], Interval(*row[f"{policy}_interval"]), [run[policy] for run in runs_of(found, row)])
            for policy, name in LABELS.items()
        }
        for row in rows
    }
    words = "; ".join(f"{label(row, rows)}: {row[BASE]:.0f} % to {row[FINETUNED]:.0f} %" for row in rows)
    drawn = bars(shown, "success, % (line: 95 % interval; dots: seeds)", POLICIES)
    return {
        "skills": list(dict.fromkeys(row["skill"] for row in rows)),
        "seeds": {seed for row in rows for seed in row["seeds"]},
        **{policy: fmean(row[policy] for row in rows) for policy in LABELS},
        "bars": drawing(drawn, f"Bars of success, {words}"),
    }


def runs_of(found: dict[str, Any], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs behind a row of skills."""
    return [run for run in found["runs"] if (run["skill"], run["alpha_bc"]) == (row["skill"], row["alpha_bc"])]


def label(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Name of a row in figures: its skill, with alpha_BC if it has several."""
    several = sum(other["skill"] == row["skill"] for other in rows) > 1
    return row["skill"].replace("_", " ") + (f", alpha {row['alpha_bc']:g}" if several else "")


def key_numbers(found: dict[str, Any], runs: Iterable[RunFolder]) -> list[tuple[str, str]]:
    """The figures under the title."""
    starts, shown = sum(run["rollouts"] for run in found["runs"]), []
    for policy, name in LABELS.items():
        wins = sum(run[policy] * run["rollouts"] / 100 for run in found["runs"])
        shown.append((f"{wins:.0f} of {starts}", f"succeed {name}"))
    if imagined := sum((read_metrics(run.finetuned) or {}).get("imagined_actions", 0) for run in runs):
        shown += [(f"{imagined:,}", "imagined actions to fine-tune"), ("0", "robot actions to fine-tune")]
    return [*shown, (clock(sum(stage["seconds"] for stage in found["stages"].values())), "for all phases")]


def row_curves(folder: SweepFolder, found: dict[str, Any], row: dict[str, Any]) -> Figure | None:
    """Learning curves of a row: dreams, a line a seed, and success in the simulator of base and result."""
    dreams, truths = {}, []
    for run in runs_of(found, row):
        metrics = read_metrics(RunFolder(folder, Run(row["skill"], run["seed"], row["alpha_bc"])).finetuned) or {}
        if dream := history(metrics, "dream_success", 100):
            dreams[f"seed {run['seed']}"] = dream
            truths.append(Curve([0, metrics.get("iteration", dream.x[-1] + 1)], [run[BASE], run[FINETUNED]]))
    if not dreams:
        return None
    shown = {"in dreams": joined(dreams.values()), "in the simulator": joined(truths)}
    shown["in the simulator"] = dataclasses.replace(shown["in the simulator"], marked=True)
    ends = spoken({name: dream.y[-1] for name, dream in dreams.items()}, "{:.0f} %".format)
    name = label(row, found["skills"])
    drawn = lines(shown, "fine-tuning iteration", "success, %", colors=TRAINED)
    return drawing(drawn, f"Learning curves of {name}; dreams end at {ends}", name)


def joined(curves: Iterable[Curve]) -> Curve:
    """Several lines as one that breaks between them."""
    gap = float("nan")
    points = [point for curve in curves for point in (*zip(curve.x, curve.y, strict=True), (gap, gap))]
    return Curve([x for x, _ in points], [y for _, y in points])


def alphas(folder: SweepFolder, found: dict[str, Any]) -> dict[str, Any] | None:
    """Success in dreams and in the simulator over alpha_BC; None if no skill has all of several values."""
    groups = alpha_groups(found["skills"])
    if len(groups) < 2:
        return None
    shown, rows = {}, []
    for alpha, group in groups.items():
        rates = [row[FINETUNED] for row in group]
        ends = interval_of_mean(rates, [Interval(*row["finetuned_interval"]) for row in group])
        dream, kl = (mean_before_result(folder, group, name) for name in ("dream_success", "bc_kl"))
        shown[f"{alpha:g}"] = {"in dreams": Bar(100 * dream), "in the simulator": Bar(fmean(rates), ends, rates)}
        truth = [f"{fmean(rates):.1f}", span([ends.low, ends.high])]
        rows.append([f"{alpha:g}", f"{100 * dream:.1f}", *truth, f"{kl:.3f}"])
    words = "; ".join(f"{row[0]}: {float(row[1]):.0f} % in dreams, {float(row[2]):.0f} % true" for row in rows)
    drawn = bars(shown, "success at each alpha_BC, % (line: 95 % interval of the mean; dots: skills)", TRAINED)
    return {"rows": rows, "bars": drawing(drawn, f"Bars of success by alpha_BC, {words}")}


def alpha_groups(rows: Sequence[dict[str, Any]]) -> dict[float, list[dict[str, Any]]]:
    """alpha_BC -> rows of the skills that were fine-tuned with every value."""
    values = sorted({row["alpha_bc"] for row in rows})
    skills = [row["skill"] for row in rows]
    complete = [row for row in rows if skills.count(row["skill"]) == len(values)]
    return {alpha: [row for row in complete if row["alpha_bc"] == alpha] for alpha in values if complete}


def mean_before_result(folder: SweepFolder, group: Sequence[dict[str, Any]], name: str) -> float:
    """Mean over skills and seeds of a curve of fine-tuning just before the result; not a number without any."""
    found = []
    for run in (Run(row["skill"], seed, row["alpha_bc"]) for row in group for seed in row["seeds"]):
        metrics = read_metrics(RunFolder(folder, run).finetuned) or {}
        if curve := history(metrics, name):
            found.append(before(curve.y, metrics.get("iteration", len(curve.y))))
    return fmean(found) if found else float("nan")


def details(run: RunFolder, pairs: Sequence[Pair], embed: bool) -> dict[str, Any]:
    """One run: its films (their bytes, or links to them), learning curve, and curves of its trainings."""
    tuned, policy, reward = (read_metrics(path) for path in (run.finetuned, run.policy, run.reward))
    alt = "Filmstrips from one start, after imitation above after dreaming"
    return {
        "name": run.run.name,
        "films": [
            [(LABELS[name], address(rollout["film"], run, embed), rollout) for name, rollout in pair.items()]
            for pair in pairs
        ],
        "embed": embed,
        "dream": address(run.dream, run, embed) if run.dream.is_file() else None,
        "strip": Figure(data_uri(run.strip), alt) if run.strip.is_file() and not embed else None,
        "tuned": learning_curve(run, tuned) if tuned else None,
        "policy": policy is not None,
        "reward": reward is not None,
        "charts": [
            *charts(
                tuned or {},
                ("approx_kl", "iteration", "approximate KL", "how far each update moves"),
                ("bc_kl", "iteration", "KL to the base policy", "what the BC term holds down"),
                ("clip_fraction", "iteration", "clipped share", "PPO ratios at their limit"),
                ("explained_variance", "iteration", "explained variance", "of returns, by the critic"),
            ),
            *charts(policy or {}, ("loss", "epoch", "denoising loss", "the policy's imitation", True)),
            *charts(reward or {}, ("loss", "epoch", "NT-Xent + cross-entropy", "the classifier's training")),
        ],
    }


def address(film: Path, run: RunFolder, embed: bool) -> str:
    """A film's bytes, or its address from the page."""
    return data_uri(film) if embed else quote(os.fsencode(film.relative_to(run.sweep.path)))


def learning_curve(run: RunFolder, metrics: dict[str, Any]) -> dict[str, Any]:
    """Dream success against true success over iterations, and the checkpoint that the offline score chose."""
    evaluated = read_json(run.curve / "evaluation.json") or {"policies": {}}
    truth = {int(n): SuccessRate(p["successes"], p["rollouts"]) for n, p in evaluated["policies"].items()}
    scores = {int(iteration): score for iteration, score in metrics.get("scores", {}).items()}
    rates = {step: 100 * rate.rate for step, rate in truth.items()}
    bounds = [percent(rate.interval) for rate in truth.values()]
    curves = {
        "in dreams (classifier)": history(metrics, "dream_success", 100) or Curve([], []),
        "in the simulator (oracle), 95 % interval": Curve(list(rates), list(rates.values()), bounds),
    }
    drawn = lines(
        {name: curve for name, curve in curves.items() if len(curve.x)} or curves,
        "fine-tuning iteration",
        "success, %",
        scores=Curve(list(scores), list(scores.values())) if scores else None,
        chosen=metrics["iteration"] if scores else None,
        colors=TRAINED,
        wide=True,
    )
    words = spoken({f"iteration {step}:": rate for step, rate in rates.items()}, "{:.0f} %".format)
    return {
        "curve": drawing(drawn, f"Learning curve; true success {words or 'missing'}"),
        "scores": scores,
        "rates": rates,
        "iteration": metrics.get("iteration"),
        "last": metrics.get("steps"),
    }


def world_model(folder: SweepFolder) -> dict[str, Any] | None:
    """Filmstrip of imagination against the recording, and how training went; None if there is no world model."""
    metrics = read_metrics(folder.world_model)
    if metrics is None:
        return None
    strip = folder.world_model / "open_loop.png"
    alt = "Filmstrip of a held-out clip: recorded frames above imagined ones, for each camera"
    drawn = charts(metrics, ("loss", "update", "loss", "", True), ("kl", "update", "KL(posterior ‖ prior), nats", ""))
    if steps := metrics.get("open_loop_steps"):
        caption = "held-out clips; a still picture is the last frame seen, repeated"
        x = range(1, len(steps["psnr"]) + 1)
        psnr = {"imagined": Curve(x, steps["psnr"]), "a still picture": Curve(x, steps["still_psnr"])}
        drawn.append(chart(psnr, "imagined step", "PSNR, dB", caption))
        drawn.append(chart({"imagined": Curve(x, steps["ssim"])}, "imagined step", "SSIM", "held-out clips"))
    return {
        "strip": Figure(data_uri(strip), alt) if strip.is_file() else None,
        "metrics": {name: metrics.get(name) for name in ("parameters", "steps", "frames", "action_kl")},
        "charts": drawn,
    }


def card(path: Path, command: str) -> dict[str, str]:
    """The card of a bag or dataset, empty where there is none, and what makes it."""
    try:
        text = inspect_path(path) if path.exists() else ""
    except DiwaError as error:
        text = f"cannot be read: {error}"
    return {"path": str(path), "command": command, "text": text}


def history(metrics: dict[str, Any], name: str, scale: float = 1) -> Curve | None:
    """A logged curve, times `scale`; None if it was not logged."""
    points = metrics.get("history", {}).get(name)
    return Curve([step for step, _ in points], [scale * value for _, value in points]) if points else None


def charts(metrics: dict[str, Any], *wanted: tuple[Any, ...]) -> list[Figure]:
    """A small figure of each logged curve: its name, then as for `chart`; those that were not logged are left out."""
    found = ((history(metrics, name), how) for name, *how in wanted)
    return [chart({"training": curve}, *how) for curve, how in found if curve]


def chart(curves: dict[str, Curve], xlabel: str, ylabel: str, caption: str, log: bool = False) -> Figure:
    """A small drawing of curves (label -> points)."""
    ends = spoken({f"{name} ends at": curve.y[-1] for name, curve in curves.items()}, "{:.4g}".format)
    return drawing(lines(curves, xlabel, ylabel, log), f"{ylabel} over {xlabel}: {ends}", caption)


def spoken(values: Mapping[str, float], text: Callable[[float], str]) -> str:
    """Names with their values, in a line."""
    return ", ".join(f"{name} {text(value)}" for name, value in values.items())
