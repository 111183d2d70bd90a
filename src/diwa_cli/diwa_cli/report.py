"""`diwa report`: one self-contained HTML page about a run; what it lacks is named with the command that makes it."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from diwa_cli import page, plots
from diwa_cli.before_after import choose_pair, draw_pair
from diwa_cli.page import missing, section
from diwa_cli.report_learning import fine_tuning, networks, world_model
from diwa_cli.report_run import data, reproduce, time_spent
from diwa_cli.run_folder import BASE, FINETUNED, RunFolder, read_json, write_text
from diwa_cli.statistics import SuccessRate
from diwa_cli.video import failure_as_warning
from diwa_data import __version__
from diwa_data.errors import DiwaError

LABELS = {BASE: "after imitation", FINETUNED: "after dreaming"}
"""What the names of the final evaluation's policies mean."""


def write_report(run: Path) -> Path:
    """Write `report.html`, `before_after.png` and `.gif` into the run's folder; the page's path.

    Raises `DiwaError` if there is no such folder, or nothing of a run in it.
    """
    if not run.is_dir():
        raise DiwaError(f"no run folder {run}: `diwa demo --out {run}` makes one")
    folder = RunFolder(run)
    if not folder.is_run:
        raise DiwaError(f"{run} holds no run (no run.json, dataset, fine-tuning or evaluation): `diwa demo` makes one")
    evaluation = read_json(folder.final / "evaluation.json")
    description = read_json(folder.description) or {}
    skill = _skill(evaluation, description)
    sections = [
        result(evaluation),
        rollouts(folder, evaluation),
        fine_tuning(folder),
        world_model(folder),
        networks(folder),
        data(folder),
        time_spent(folder),
        reproduce(folder, description),
    ]
    footer = f"<p>Made by diwa-ros2 {escape(__version__)}. This page is one file and loads nothing from elsewhere.</p>"
    document = page.page(f"DiWA: {skill}", header(skill, evaluation, folder), sections, footer)
    write_text(folder.report, document)
    pair = choose_pair(evaluation, folder.final / "videos", (BASE, FINETUNED)) if evaluation else None
    if pair:
        with failure_as_warning(folder.film):
            draw_pair({LABELS[name]: video for name, video in pair.items()}, folder.strip, folder.film)
    return folder.report


def header(skill: str, evaluation: dict[str, Any] | None, folder: RunFolder) -> str:
    """Title with the two rates, one sentence, key numbers, links to the sections."""
    over = '<p class="over">DiWA · a diffusion policy, fine-tuned inside a learned world model</p>'
    anchors = [
        ("result", "Result"), ("rollouts", "Rollouts"), ("finetuning", "Fine-tuning"), ("world-model", "World model"),
        ("networks", "Policy and reward"), ("data", "Data"), ("time", "Time"), ("reproduce", "Reproduce"),
    ]  # fmt: skip
    nav = "<nav>" + "".join(f'<a href="#{key}">{name}</a>' for key, name in anchors) + "</nav>"
    if evaluation is None:
        return f"{over}<h1>{escape(skill)}</h1><p class='lead'>Not evaluated yet.</p>{nav}"
    base, tuned = (success_rate(evaluation, name) for name in LABELS)
    title = (
        f'<h1>{escape(skill.replace("_", " "))}: <span class="base">{100 * base.rate:.0f} %</span> '
        f'<span class="arrow">→</span> <span class="tuned">{100 * tuned.rate:.0f} %</span></h1>'
    )
    low, high = _difference(evaluation)["interval"]
    lead = (
        f"<p class='lead'>A policy imitated demonstrations, then practised in the dreams of a world model, without one "
        f"more step on the robot. On the same {base.rollouts} start states, success changed by "
        f"<b>{signed(_difference(evaluation)['points'])} percentage points</b> "
        f"(95 % interval, paired: {signed(low)} to {signed(high)}).</p>"
    )
    return over + title + lead + page.numbers(key_numbers(evaluation, folder)) + nav


def key_numbers(evaluation: dict[str, Any], folder: RunFolder) -> list[tuple[str, str]]:
    """The figures under the title."""
    found = []
    for name, label in LABELS.items():
        rate = success_rate(evaluation, name)
        found.append((f"{rate.successes} of {rate.rollouts}", f"succeed {label}"))
    metrics = read_json(folder.finetuned / "metrics.json") or {}
    if "imagined_actions" in metrics:
        found.append((f"{metrics['imagined_actions']:,}", "imagined actions to fine-tune"))
        found.append(("0", "robot actions to fine-tune"))
    phases = read_json(folder.phases) or {}
    if phases:
        found.append((plots.clock(sum(phase["seconds"] for phase in phases.values())), "for the whole run"))
    return found


def result(evaluation: dict[str, Any] | None) -> str:
    """Bars, intervals and the paired table."""
    about = (
        "A rollout succeeds if the simulator's oracle is true once within "
        f"{evaluation['config']['max_steps'] if evaluation else 72} control ticks (7.5 a second). Both policies start "
        "from the same states with the same sampling seeds; nobody looked at these states before. Rates carry Wilson's "
        "interval, their difference Newcombe's interval for paired proportions (1998, method 10)."
    )
    if evaluation is None:
        return section("result", "Result", about, missing("The paired evaluation", "diwa evaluate"))
    rates = {label: success_rate(evaluation, name) for name, label in LABELS.items()}
    spoken = ", ".join(f"{label} {100 * rate.rate:.0f} %" for label, rate in rates.items())
    bars = page.svg_figure(plots.success_bars(rates), f"Bars of success: {spoken}")
    difference = _difference(evaluation)
    low, high = difference["interval"]
    pairs = page.table(
        ["start states where", "number"],
        [
            ["both succeed", str(difference["both"])],
            ["only the fine-tuned policy succeeds", str(difference["only_finetuned"])],
            ["only the base policy succeeds", str(difference["only_base"])],
            ["neither succeeds", str(difference["neither"])],
        ],
    )
    rows = []
    for label, rate in rates.items():
        interval = f"{100 * rate.interval.low:.1f} to {100 * rate.interval.high:.1f}"
        rows.append([label, f"{rate.successes} / {rate.rollouts}", f"{100 * rate.rate:.1f}", interval])
    rows.append(["difference, points", "", signed(difference["points"], 1), f"{signed(low, 1)} to {signed(high, 1)}"])
    numbers = page.table(["policy", "successes", "%", "95 % interval"], rows)
    return section("result", "Result", about, page.columns(bars, numbers + "<h3>Pairs</h3>" + pairs))


def rollouts(folder: RunFolder, evaluation: dict[str, Any] | None) -> str:
    """Videos of both policies from the same starts, side by side."""
    about = (
        "The first start states of the evaluation, not selected: left the policy after imitation, right the same "
        "policy after dreaming, from the same state. Each video shows the static and the wrist camera; the bar below "
        "is the success probability by the learned classifier, green once the oracle is true."
    )
    found = {(r["policy"], r["seed"]): r for r in (evaluation or {}).get("rollouts", [])}
    pairs = []
    for seed in dict.fromkeys(seed for _, seed in found):
        videos = [folder.final / "videos" / f"{name}_{seed}.mp4" for name in LABELS]
        if all(video.is_file() for video in videos):
            cells = [_video(v, LABELS[n], found[n, seed]) for v, n in zip(videos, LABELS, strict=True)]
            pairs.append(f'<div class="pair">{"".join(cells)}</div>')
    return section("rollouts", "Rollouts", about, *(pairs or [missing("A video", "diwa evaluate --videos 6")]))


def signed(value: float, digits: int = 0) -> str:
    """A number with its sign, as print has it: a real minus, and no sign at zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def success_rate(evaluation: dict[str, Any], name: str) -> SuccessRate:
    """Of one policy of an evaluation."""
    policy = evaluation["policies"][name]
    return SuccessRate(policy["successes"], policy["rollouts"])


def _video(path: Path, label: str, rollout: dict[str, Any]) -> str:
    tag = '<span class="tag yes">success</span>' if rollout["success"] else '<span class="tag">no success</span>'
    spoken = f"Rollout {label} from start {rollout['seed']}: {'success' if rollout['success'] else 'no success'}"
    return page.video_figure(
        path, spoken, f"{label} · {tag} · {rollout['steps'] / 7.5:.1f} s · start {rollout['seed']}"
    )


def _difference(evaluation: dict[str, Any]) -> dict[str, Any]:
    return evaluation["differences"]["finetuned - base"]


def _skill(evaluation: dict[str, Any] | None, description: dict[str, Any]) -> str:
    if evaluation:
        return evaluation["config"]["skill"]
    return description.get("config", {}).get("demo", {}).get("skill", "run")
