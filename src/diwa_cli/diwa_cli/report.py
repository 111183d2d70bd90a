"""`diwa report`: one self-contained HTML page about a run; what it lacks is named with the command that makes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diwa_cli import page, plots
from diwa_cli.before_after import choose_pair, draw_pair
from diwa_cli.page import Table, drawing
from diwa_cli.report_learning import classifier, fine_tuning, imitation, world_model
from diwa_cli.report_run import data, replayed, reproduce, time_spent
from diwa_cli.run_folder import BASE, FINETUNED, RunFolder, damaged_run, read_json, read_metrics
from diwa_cli.statistics import SuccessRate
from diwa_cli.video import failure_as_warning
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
    with damaged_run(run):
        shown = contents(folder)
        evaluation = read_json(folder.final / "evaluation.json")
        pair = choose_pair(evaluation, folder.final / "videos", (BASE, FINETUNED)) if evaluation else None
    page.write_page(folder.report, "report.html", **shown)
    if pair:
        with failure_as_warning(folder.film):
            draw_pair({LABELS[name]: video for name, video in pair.items()}, folder.strip, folder.film)
    return folder.report


def contents(folder: RunFolder) -> dict[str, Any]:
    """What the template shows of a run; None for what it lacks."""
    evaluation = read_json(folder.final / "evaluation.json")
    description = read_json(folder.description) or {}
    demo = description.get("config", {}).get("demo", {})
    return {
        "skill": evaluation["config"]["skill"] if evaluation else demo.get("skill", "run"),
        "max_steps": evaluation["config"]["max_steps"] if evaluation else 72,
        "result": result(evaluation) if evaluation else None,
        "numbers": key_numbers(evaluation, folder) if evaluation else [],
        "films": films(folder, evaluation),
        "finetuning": fine_tuning(folder),
        "world_model": world_model(folder),
        "policy": imitation(folder),
        "reward": classifier(folder),
        "replay": replayed(folder),
        "data": data(folder),
        "time": time_spent(folder),
        "run": reproduce(folder, description),
    }


def key_numbers(evaluation: dict[str, Any], folder: RunFolder) -> list[tuple[str, str]]:
    """The figures under the title."""
    found = []
    for name, label in LABELS.items():
        rate = success_rate(evaluation, name)
        found.append((f"{rate.successes} of {rate.rollouts}", f"succeed {label}"))
    metrics = read_metrics(folder.finetuned) or {}
    if "imagined_actions" in metrics:
        found.append((f"{metrics['imagined_actions']:,}", "imagined actions to fine-tune"))
        found.append(("0", "robot actions to fine-tune"))
    phases = read_json(folder.phases) or {}
    if phases:
        found.append((plots.clock(sum(phase["seconds"] for phase in phases.values())), "for the whole run"))
    return found


def result(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Rates, bars, intervals and the paired table."""
    rates = {label: success_rate(evaluation, name) for name, label in LABELS.items()}
    spoken = ", ".join(f"{label} {100 * rate.rate:.0f} %" for label, rate in rates.items())
    difference = evaluation["differences"]["finetuned - base"]
    low, high = difference["interval"]
    pairs = [
        ("both succeed", str(difference["both"])),
        ("only the fine-tuned policy succeeds", str(difference["only_finetuned"])),
        ("only the base policy succeeds", str(difference["only_base"])),
        ("neither succeeds", str(difference["neither"])),
    ]
    rows = []
    for label, rate in rates.items():
        interval = f"{100 * rate.interval.low:.1f} to {100 * rate.interval.high:.1f}"
        rows.append((label, f"{rate.successes} / {rate.rollouts}", f"{100 * rate.rate:.1f}", interval))
    rows.append(("difference, points", "", signed(difference["points"], 1), f"{signed(low, 1)} to {signed(high, 1)}"))
    base, tuned = rates.values()
    return {
        "base": f"{100 * base.rate:.0f}",
        "finetuned": f"{100 * tuned.rate:.0f}",
        "starts": base.rollouts,
        "points": signed(difference["points"]),
        "low": signed(low),
        "high": signed(high),
        "bars": drawing(plots.success_bars(rates), f"Bars of success: {spoken}"),
        "rates": Table(["policy", "successes", "%", "95 % interval"], rows),
        "pairs": Table(["start states where", "number"], pairs),
    }


def films(folder: RunFolder, evaluation: dict[str, Any] | None) -> list[list[dict[str, Any]]]:
    """Videos of both policies from the same starts, in pairs."""
    found = {(r["policy"], r["seed"]): r for r in (evaluation or {}).get("rollouts", [])}
    pairs = []
    for seed in dict.fromkeys(seed for _, seed in found):
        videos = {name: folder.final / "videos" / f"{name}_{seed}.mp4" for name in LABELS}
        if all(video.is_file() for video in videos.values()):
            pairs.append([_film(video, LABELS[name], found[name, seed]) for name, video in videos.items()])
    return pairs


def signed(value: float, digits: int = 0) -> str:
    """A number with its sign, as print has it: a real minus, and no sign at zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def success_rate(evaluation: dict[str, Any], name: str) -> SuccessRate:
    """Of one policy of an evaluation."""
    policy = evaluation["policies"][name]
    return SuccessRate(policy["successes"], policy["rollouts"])


def _film(path: Path, label: str, rollout: dict[str, Any]) -> dict[str, Any]:
    return {
        "src": page.data_uri(path),
        "label": label,
        "start": rollout["seed"],
        "success": "success" if rollout["success"] else "",
        "seconds": f"{rollout['steps'] / 7.5:.1f}",
    }
