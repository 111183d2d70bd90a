"""The report of a sweep: one page over all runs, with the commands behind each figure. Videos are linked."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from diwa_cli import page, plots
from diwa_cli.page import missing, section
from diwa_cli.plots import Curve
from diwa_cli.plots_sweep import Bar, SeedCurve, seed_curves, skill_bars
from diwa_cli.report import signed
from diwa_cli.report_alphas import alphas
from diwa_cli.report_learning import history, world_model
from diwa_cli.run_folder import BASE, FINETUNED, read_json, write_text
from diwa_cli.sweep_folder import Run, SweepFolder
from diwa_data import __version__
from diwa_data.errors import DiwaError

RESULT = (
    "Every policy was judged by the simulator's oracle from the same start states, which nobody had looked at. A rate "
    "is the mean over training seeds; so is the difference, paired by start state within each seed. Intervals (95 %) "
    "treat seeds and start states as two crossed samples (Hillis 2007), so they hold for other seeds too; a row of a "
    "single seed carries Wilson's and Newcombe's intervals, which hold for that seed alone."
)


def write_sweep_report(path: Path) -> Path:
    """Write `report.html` of the sweep in the folder `path`; the page's path. Raises `DiwaError` without results."""
    folder = SweepFolder(path)
    found, description = read_json(folder.shared.results), read_json(folder.shared.description)
    if found is None or description is None:
        raise DiwaError(f"{path} has no results of a sweep yet: run `diwa sweep --out {path}` to its end")
    by_alpha = alphas(folder, found)
    sections = [
        *failed(found),
        result(found),
        learning_curves(folder, found),
        *by_alpha,
        *baseline(found),
        classifiers(folder, found),
        world_model(folder.shared, commands(found, "train_world_model")),
        data(folder, found),
        time_spent(found),
        reproduce(found, description),
    ]
    footer = (
        f"<p>Made by diwa-ros2 {escape(__version__)}. This page loads nothing; its links lead to files beside it.</p>"
    )
    write_text(folder.shared.report, page.page("DiWA: a sweep", header(found, bool(by_alpha)), sections, footer))
    return folder.shared.report


def header(found: dict[str, Any], by_alpha: bool) -> str:
    """Title with the mean rates, one sentence, links to the sections."""
    over = '<p class="over">DiWA · diffusion policies, fine-tuned inside a learned world model</p>'
    anchors = [
        ("result", "Result"), ("curves", "Learning curves"), ("classifiers", "Classifiers"),
        ("world-model", "World model"), ("data", "Data"), ("time", "Time"), ("reproduce", "Reproduce"),
    ]  # fmt: skip
    if any(row.get("dppo") for row in found["skills"]):
        anchors.insert(2, ("dppo", "DPPO"))
    if by_alpha:
        anchors.insert(2, ("alphas", "alpha_BC"))
    if found["failed"]:
        anchors.insert(0, ("failed", "Failures"))
    nav = "<nav>" + "".join(f'<a href="#{key}">{name}</a>' for key, name in anchors) + "</nav>"
    rows = found["skills"]
    if not rows:
        return f"{over}<h1>A sweep without results</h1><p class='lead'>No run was judged to its end.</p>{nav}"
    base, tuned = (sum(row[key] for row in rows) / len(rows) for key in (BASE, FINETUNED))
    skills, seeds = {row["skill"] for row in rows}, {seed for row in rows for seed in row["seeds"]}
    title = (
        f'<h1>{_count(len(skills), "skill")}, {_count(len(seeds), "seed")}: <span class="base">{base:.0f} %</span> '
        f'<span class="arrow">→</span> <span class="tuned">{tuned:.0f} %</span></h1>'
    )
    lead = (
        "<p class='lead'>Mean success of the rows below, after imitation and after dreaming. No policy took one more "
        f"step on the robot between the two. {_count(len(found['runs']), 'run')}, "
        f"{rows[0]['rollouts']} start states each.</p>"
    )
    return over + title + lead + nav


def failed(found: dict[str, Any]) -> list[str]:
    """What is missing and why, at the top of the page; nothing if nothing failed."""
    if not found["failed"]:
        return []
    about = "These phases failed; what needed them was left out, all else is here. The same command tries them again."
    causes = list(found["left_out"].values())
    rows = [[name, error, str(causes.count(name))] for name, error in found["failed"].items()]
    return [section("failed", "Failures", about, page.table(["phase", "error", "left out for it"], rows))]


def result(found: dict[str, Any]) -> str:
    """Table and bars over skills, and the table of runs."""
    rows = found["skills"]
    if not rows:
        return section("result", "Result", RESULT, missing("A judged run", "diwa sweep"))
    bars = {label(row, rows): (_bar(found, row, BASE), _bar(found, row, FINETUNED)) for row in rows}
    spoken = "; ".join(f"{name}: {before.mean:.0f} % to {after.mean:.0f} %" for name, (before, after) in bars.items())
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
    return section(
        "result",
        "Result",
        RESULT,
        page.table(head, cells),
        page.svg_figure(skill_bars(bars), f"Bars of success, {spoken}"),
        commands(found, "evaluate"),
        page.details("Every run", page.table(head_runs, runs)),
    )


def learning_curves(folder: SweepFolder, found: dict[str, Any]) -> str:
    """A small figure for each row of the result, a line a seed."""
    about = (
        "Success in dreams over the iterations of fine-tuning, and success in the simulator of base and result. Where "
        "dreams rise and the truth does not, the policy exploits the world model or the classifier."
    )
    small = []
    for row in found["skills"]:
        curves = {seed: curve for seed in row["seeds"] if (curve := _curve(folder, found, row, seed))}
        if curves:
            name = label(row, found["skills"])
            ends = ", ".join(f"seed {seed} {curve.dream.y[-1]:.0f} %" for seed, curve in curves.items())
            spoken = f"Learning curves of {name}; dreams end at {ends}"
            small.append(page.svg_figure(seed_curves(curves), spoken, escape(name) + _films(folder, row)))
    shown = page.columns(*small) if small else missing("A fine-tuned policy", "diwa sweep")
    return section("curves", "Learning curves", about, shown, commands(found, "finetune"))


def baseline(found: dict[str, Any]) -> list[str]:
    """What the same gain costs on the robot; nothing where the baseline did not run."""
    about = (
        "DPPO fine-tunes the same base policies by the same PPO in the simulator, with the simulator's own reward. The "
        "steps after which one of its checkpoints, each rolled out from start states of its own, first succeeds as "
        "often as DiWA's result, which took no step."
    )
    cells = [
        [row["skill"], str(one["seed"]), f"{one['rate']:.1f}",
         "not reached" if one["steps"] is None else f"{one['steps']:,}", f"{one['practised']:,}"]
        for row in found["skills"]
        for one in row.get("dppo", [])
    ]  # fmt: skip
    if not cells:
        return []
    shown = page.table(["skill", "seed", "success to match, %", "environment steps", "practised"], cells)
    return [section("dppo", "DPPO", about, shown, commands(found, "dppo"))]


def classifiers(folder: SweepFolder, found: dict[str, Any]) -> str:
    """Precision and recall of every classifier on held-out imagined states."""
    about = (
        "Of every skill's and seed's classifier, on states imagined under held-out demonstrations' actions, as it "
        "judges dreams; and the share of dreams that it calls a success, under the demonstrated actions and doing "
        "nothing."
    )
    rows = []
    for skill, seed in dict.fromkeys((row["skill"], row["seed"]) for row in found["runs"]):
        metrics = read_json(folder.of(f"{skill}/seed_{seed}").reward / "metrics.json") or {}
        score, dreams = metrics.get("imagined"), metrics.get("dreams") or {}
        if score:
            shares = [f"{100 * dreams[key]:.0f}" if key in dreams else "" for key in ("demonstrated", "idle")]
            rows.append([skill, str(seed), f"{score['precision']:.2f}", f"{score['recall']:.2f}", *shares])
    head = ["skill", "seed", "precision", "recall", "dreams of demonstrations, %", "of doing nothing, %"]
    shown = page.table(head, rows) if rows else missing("A classifier", "diwa train-reward")
    return section("classifiers", "Classifiers", about, shown, commands(found, "train_reward"))


def data(folder: SweepFolder, found: dict[str, Any]) -> str:
    """Whether each skill's demonstrations succeed again when replayed."""
    about = (
        "Play, from which the world model learned, and each skill's demonstrations were recorded once, for all seeds. "
        "Replayed open loop from the dataset's actions alone, demonstrations must succeed again."
    )
    rows = []
    for skill in (name.partition("/")[0] for name in found["stages"]["replay"]["commands"]):
        replay = read_json(folder.of(skill).replay)
        if replay:
            again = sum(episode["succeeded"] for episode in replay["episodes"])
            right = all(share >= replay["minimum"] for share in replay["shares"].values())
            verdict = "as it must" if right else f"below {100 * replay['minimum']:.0f} %: the actions are in doubt"
            rows.append([skill, f"{again} of {len(replay['episodes'])}", verdict])
    shown = page.table(["demonstrations", "succeed again", ""], rows) if rows else missing("A replay", "diwa replay")
    return section("data", "Data", about, shown, *(commands(found, stage) for stage in ("record", "build", "replay")))


def time_spent(found: dict[str, Any]) -> str:
    """Seconds of each stage, summed over its phases."""
    about = (
        "Time of the phases of each stage added up, interruptions left out; phases that ran side by side count each."
    )
    seconds = {name.replace("_", " "): stage["seconds"] for name, stage in found["stages"].items()}
    spoken = ", ".join(f"{name} {plots.clock(value)}" for name, value in seconds.items())
    return section("time", "Time", about, page.svg_figure(plots.phase_bars(seconds), f"Time of each stage: {spoken}"))


def reproduce(found: dict[str, Any], description: dict[str, Any]) -> str:
    """Command, configuration, versions, machine."""
    about = "The command makes all of it; the commands of its phases stand beside what they made."
    versions = {**found["versions"], **found["machine"]}
    return section(
        "reproduce",
        "Reproduce",
        about,
        page.code(found["command"]),
        commands(found, "train_policy"),
        page.details("Full configuration", page.code(json.dumps(description["config"], indent=2))),
        page.details("Versions and machine", page.table(["", ""], [[k, str(v)] for k, v in versions.items()])),
    )


def commands(found: dict[str, Any], stage: str) -> str:
    """The commands of a stage's phases, to unfold; nothing if the sweep has no such stage."""
    lines = found["stages"].get(stage, {}).get("commands", {}).values()
    title = f"Commands: {stage.replace('_', ' ')}"
    return page.details(title, page.code("\n".join(lines))) if lines else ""


def label(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Of a row in figures: its skill, with alpha_BC if it has several."""
    several = sum(other["skill"] == row["skill"] for other in rows) > 1
    return row["skill"].replace("_", " ") + (f", alpha {row['alpha_bc']:g}" if several else "")


def _bar(found: dict[str, Any], row: dict[str, Any], policy: str) -> Bar:
    low, high = row[f"{policy}_interval"]
    return Bar(row[policy], low, high, [run[policy] for run in _runs(found, row)])


def _runs(found: dict[str, Any], row: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for run in found["runs"] if (run["skill"], run["alpha_bc"]) == (row["skill"], row["alpha_bc"])]


def _curve(folder: SweepFolder, found: dict[str, Any], row: dict[str, Any], seed: int) -> SeedCurve | None:
    name = Run(row["skill"], seed, row["alpha_bc"]).name
    metrics = read_json(folder.of(name).finetuned / "metrics.json") or {}
    dream = history(metrics, "dream_success")
    if not dream:
        return None
    run = next(run for run in _runs(found, row) if run["seed"] == seed)
    result = metrics.get("iteration", dream.x[-1] + 1)
    return SeedCurve(Curve(dream.x, [100 * y for y in dream.y]), Curve([0, result], [run[BASE], run[FINETUNED]]))


def _films(folder: SweepFolder, row: dict[str, Any]) -> str:
    """Links to the first seed's videos."""
    run = Run(row["skill"], row["seeds"][0], row["alpha_bc"])
    links = []
    for name, policy in ((run.trained, BASE), (run.name, FINETUNED)):
        for film in sorted((folder.of(name).final / "videos").glob(f"{policy}_*.mp4")):
            links.append(f'<a href="{film.relative_to(folder.path)}">{policy}</a>')
    return f" · films: {', '.join(links)}" if links else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _span(interval: list[float]) -> str:
    return f"{interval[0]:.1f} to {interval[1]:.1f}"


def _signed_span(interval: list[float]) -> str:
    return f"{signed(interval[0], 1)} to {signed(interval[1], 1)}"
