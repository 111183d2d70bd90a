"""`diwa report`: one self-contained HTML page about a run; what it lacks is named with the command that makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diwa_cli import figures
from diwa_cli.evaluation.evaluate import Evaluation, difference_summary
from diwa_cli.evaluation.rollouts import RolloutResult
from diwa_cli.figures import DREAM, Curve, clock, lines, percent, success_bars
from diwa_cli.figures import FINETUNED as TUNED
from diwa_cli.report import page
from diwa_cli.report.before_after import choose_pair, draw_pair
from diwa_cli.report.page import Figure, Table, drawing
from diwa_cli.run_folder import BASE, FINETUNED, RunFolder, SweepFolder, damaged_run, read_json, read_metrics
from diwa_cli.statistics import SEEDS, SuccessRate
from diwa_cli.video import failure_as_warning
from diwa_data.errors import DiwaError
from diwa_data.view.inspect import inspect_path

BUILD = "diwa build-dataset"


def data(folder: RunFolder) -> dict[str, list[dict[str, str]]]:
    """Cards of recordings and datasets."""
    return {
        "Play": [_card(folder.sweep.play_bags, "diwa record"), _card(folder.play, BUILD)],
        "Demonstrations": [_card(folder.demonstration_bags, "diwa record"), _card(folder.demonstrations, BUILD)],
    }


def replayed(folder: RunFolder) -> dict[str, Any]:
    """Whether the dataset's actions do again what the operator did; the command that finds out, if nobody did."""
    replay = read_json(folder.replay)
    if replay is None:
        return {"command": f"diwa replay {folder.demonstrations}"}
    return {
        "again": sum(episode["succeeded"] for episode in replay["episodes"]),
        "episodes": len(replay["episodes"]),
        "right": all(share >= replay["minimum"] for share in replay["shares"].values()),
        "minimum": f"{100 * replay['minimum']:.0f}",
    }


def time_spent(folder: RunFolder) -> Figure | None:
    """Bars of the stages' seconds."""
    stages = (read_json(folder.sweep.results) or {}).get("stages")
    return phase_bars({name: stage["seconds"] for name, stage in stages.items()}, "stage") if stages else None


def phase_bars(seconds: dict[str, float], what: str) -> Figure:
    """How long each of several phases or stages (`what`) took."""
    seconds = {name.replace("_", " "): value for name, value in seconds.items()}
    spoken = ", ".join(f"{name} {clock(value)}" for name, value in seconds.items())
    return drawing(figures.phase_bars(seconds), f"Time of each {what}: {spoken}")


def reproduce(folder: RunFolder, description: dict[str, Any]) -> dict[str, Any] | None:
    """Commands, configuration, versions, machine, seeds."""
    if not description:
        return None
    config = description["config"]
    seeds = {name: values["seed"] for name, values in config.items() if isinstance(values, dict) and "seed" in values}
    seeds |= {f"evaluation ({config['final']['seeds']})": _range(config["final"])}
    stages = (read_json(folder.sweep.results) or {}).get("stages", {})
    return {
        "command": description["command"],
        "phases": "\n".join(line for stage in stages.values() for line in stage["commands"].values()),
        "config": json.dumps(config, indent=2),
        "seeds": Table(["phase", "seed"], [[k, str(v)] for k, v in seeds.items()]),
        "machine": machine(description),
    }


def machine(description: dict[str, Any]) -> Table:
    """Versions and machine of a run or sweep."""
    about = {**description["versions"], **description["machine"]}
    return Table(["", ""], [[k, str(v)] for k, v in about.items()])


def _range(evaluation: dict[str, Any]) -> str:
    first = SEEDS[evaluation["seeds"]].start
    return f"{first} to {first + evaluation['rollouts'] - 1}"


def _card(path: Path, command: str) -> dict[str, str]:
    if not path.exists():
        return {"path": str(path), "command": command, "text": ""}
    try:
        return {"text": inspect_path(path)}
    except DiwaError as error:
        return {"text": f"cannot be read: {error}"}


def fine_tuning(folder: RunFolder) -> dict[str, Any] | None:
    """Dream success against true success over iterations, and how the updates went."""
    metrics = read_metrics(folder.finetuned)
    if metrics is None:
        return None
    curve = read_json(folder.curve / "evaluation.json")
    truth = {
        int(name): SuccessRate(found["successes"], found["rollouts"])
        for name, found in (curve["policies"] if curve else {}).items()
    }
    dream = history(metrics, "dream_success") or Curve([], [])
    scores = {int(iteration): score for iteration, score in metrics.get("scores", {}).items()}
    spoken = ", ".join(f"iteration {step}: {100 * rate.rate:.0f} %" for step, rate in truth.items())
    curves = {
        "in dreams (classifier)": Curve(dream.x, [100 * y for y in dream.y]),
        "in the simulator (oracle), 95 % interval": Curve(
            list(truth),
            [100 * rate.rate for rate in truth.values()],
            [percent(rate.interval) for rate in truth.values()],
        ),
    }
    drawn = lines(
        {name: curve for name, curve in curves.items() if len(curve.x)} or curves,
        "fine-tuning iteration",
        "success, %",
        scores=Curve(list(scores), list(scores.values())) if scores else None,
        chosen=metrics.get("iteration", 0) if scores else None,
        colors=(DREAM, TUNED),
        wide=True,
    )
    return {
        "curve": drawing(drawn, f"Learning curve; true success {spoken or 'missing'}"),
        "selected": selected(metrics, scores, truth) if scores else "",
        "truth": bool(truth),
        "charts": charts(
            metrics,
            ("approx_kl", "iteration", "approximate KL", "how far each update moves"),
            ("bc_kl", "iteration", "KL to the base policy", "what the BC term holds down"),
            ("clip_fraction", "iteration", "clipped share", "PPO ratios at their limit"),
            ("explained_variance", "iteration", "explained variance", "of returns, by the critic"),
        ),
    }


def selected(metrics: dict[str, Any], scores: dict[int, float], truth: dict[int, SuccessRate]) -> str:
    """Which checkpoint the offline score took, and what that is worth where both it and the last were evaluated."""
    chosen, last = metrics["iteration"], metrics["steps"]
    text = (
        f"The result is the policy after iteration {chosen} of {last}, the best of {len(scores)} by offline score: "
        f"dream success less the ensemble's deviation beyond that of the base's dreams, {scores[chosen]:.2f}."
    )
    if chosen != last and chosen in truth and last in truth:
        rates = [100 * truth[iteration].rate for iteration in (chosen, last)]
        text += f" It succeeds in {rates[0]:.0f} % in the simulator, the last one in {rates[1]:.0f} %."
    return text


def world_model(folder: RunFolder | SweepFolder) -> dict[str, Any] | None:
    """Filmstrip of imagination against the recording, and losses."""
    metrics = read_metrics(folder.world_model)
    if metrics is None:
        return None
    strip = folder.world_model / "open_loop.png"
    spoken = "Filmstrip of a held-out clip: recorded frames above imagined ones, for each camera"
    losses = charts(
        metrics, ("loss", "update", "loss", "", True), ("kl", "update", "KL(posterior ‖ prior), nats", "")
    )  # fmt: skip
    return {
        "strip": Figure(page.data_uri(strip), spoken) if strip.is_file() else None,
        "size": model_size(metrics),
        "charts": [*open_loop(metrics), *losses],
    }


def model_size(metrics: dict[str, Any]) -> str:
    """What it was trained on, and whether it listens to actions."""
    if "parameters" not in metrics:
        return ""
    text = (
        f"{metrics['parameters'] / 1e6:.1f} M parameters, {metrics['steps']:,} updates on {metrics['frames']:,} frames."
    )
    if kl := metrics.get("action_kl"):
        text += " KL(posterior ‖ prior) on held-out clips, in nats: " + ", ".join(
            f"{name.replace('_', ' ')} actions {value:.2f}" for name, value in kl.items()
        )
        text += ". A model that listens to actions is least surprised under the recorded ones."
    return text


def open_loop(metrics: dict[str, Any]) -> list[Figure]:
    """How imagination on held-out clips keeps up with the recording, step by step."""
    found = metrics.get("open_loop_steps")
    if not found:
        return []
    steps = range(1, len(found["psnr"]) + 1)
    psnr = {"imagined": Curve(steps, found["psnr"]), "a still picture": Curve(steps, found["still_psnr"])}
    ssim = {"imagined": Curve(steps, found["ssim"])}
    return [
        figure(psnr, "imagined step", "PSNR, dB", "held-out clips; a still picture is the last frame seen, repeated"),
        figure(ssim, "imagined step", "SSIM", "held-out clips"),
    ]


def imitation(folder: RunFolder) -> dict[str, Any] | None:
    """The policy's loss."""
    metrics = read_metrics(folder.policy)
    loss = ("loss", "epoch", "denoising loss", "the policy's imitation", True)
    return metrics and {"chart": next(iter(charts(metrics, loss)), None)}


def classifier(folder: RunFolder) -> dict[str, Any] | None:
    """The classifier's loss, precision and recall on held-out states, and two sanity checks in dreams."""
    metrics = read_metrics(folder.reward)
    if metrics is None:
        return None
    rows = []
    for origin in ("filtered", "imagined"):
        if score := metrics.get(origin):
            counts = [str(score["positives"]), str(score["negatives"])]
            rows.append([f"{origin} states", f"{score['precision']:.2f}", f"{score['recall']:.2f}", *counts])
    loss = ("loss", "epoch", "NT-Xent + cross-entropy", "the classifier's training")
    return {
        "chart": next(iter(charts(metrics, loss)), None),
        "scores": Table(["", "precision", "recall", "successes", "failures"], rows),
        "dreams": {name: f"{100 * share:.0f}" for name, share in metrics.get("dreams", {}).items()},
    }


def history(metrics: dict[str, Any], name: str) -> Curve | None:
    """A logged curve; None if it was not logged."""
    points = metrics.get("history", {}).get(name)
    return Curve([step for step, _ in points], [value for _, value in points]) if points else None


def charts(metrics: dict[str, Any], *wanted: tuple[Any, ...]) -> list[Figure]:
    """A small figure of each logged curve: its name, then as for `figure`; those that were not logged are left out."""
    found = ((history(metrics, name), how) for name, *how in wanted)
    return [figure({"training": curve}, *how) for curve, how in found if curve]


def figure(curves: dict[str, Curve], xlabel: str, ylabel: str, caption: str, log: bool = False) -> Figure:
    """A small drawing of curves (label -> points)."""
    last = ", ".join(f"{label} ends at {curve.y[-1]:.4g}" for label, curve in curves.items())
    return drawing(lines(curves, xlabel, ylabel, log), f"{ylabel} over {xlabel}: {last}", caption)


LABELS = {BASE: "after imitation", FINETUNED: "after dreaming"}
"""What the names of the final evaluation's policies mean."""


def write_run_report(folder: RunFolder) -> Path:
    """Write `report.html` about the one run of a sweep, and its `before_after.png` and `.gif`; the page's path."""
    with damaged_run(folder.sweep.path):
        shown, evaluation = contents(folder), paired(folder)
        videos = {BASE: folder.base_final / "videos", FINETUNED: folder.final / "videos"}
        pair = choose_pair(evaluation, videos) if evaluation else None
    page.write_page(folder.sweep.report, "report.html", **shown)
    if pair:
        with failure_as_warning(folder.film):
            draw_pair({LABELS[name]: video for name, video in pair.items()}, folder.strip, folder.film)
    return folder.sweep.report


def paired(folder: RunFolder) -> dict[str, Any] | None:
    """The two final evaluations as one of both policies; None if one is missing."""
    found = {
        name: read_json(path / "evaluation.json")
        for name, path in ((BASE, folder.base_final), (FINETUNED, folder.final))
    }
    if None in found.values():
        return None
    both = Evaluation({name: [RolloutResult(**one) for one in each["rollouts"]] for name, each in found.items()})
    return {
        "config": found[BASE]["config"],
        "policies": {name: each["policies"][name] for name, each in found.items()},
        "differences": {"finetuned - base": difference_summary(both, BASE, FINETUNED)},
        "rollouts": [rollout for each in found.values() for rollout in each["rollouts"]],
    }


def contents(folder: RunFolder) -> dict[str, Any]:
    """What the template shows of a run; None for what it lacks."""
    evaluation = paired(folder)
    description = read_json(folder.sweep.description) or {}
    return {
        "skill": evaluation["config"]["skill"] if evaluation else folder.run.skill,
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
    if stages := (read_json(folder.sweep.results) or {}).get("stages"):
        found.append((clock(sum(stage["seconds"] for stage in stages.values())), "for the whole run"))
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
        "bars": drawing(success_bars(rates), f"Bars of success: {spoken}"),
        "rates": Table(["policy", "successes", "%", "95 % interval"], rows),
        "pairs": Table(["start states where", "number"], pairs),
    }


def films(folder: RunFolder, evaluation: dict[str, Any] | None) -> list[list[dict[str, Any]]]:
    """Videos of both policies from the same starts, in pairs."""
    found = {(r["policy"], r["seed"]): r for r in (evaluation or {}).get("rollouts", [])}
    pairs = []
    for seed in dict.fromkeys(seed for _, seed in found):
        videos = {
            name: path / "videos" / f"{name}_{seed}.mp4"
            for name, path in ((BASE, folder.base_final), (FINETUNED, folder.final))
        }
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
