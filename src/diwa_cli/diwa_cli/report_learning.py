"""What the report shows of learning: fine-tuning, world model, policy and reward."""

from __future__ import annotations

from typing import Any

from diwa_cli import page, plots
from diwa_cli.page import Figure, Table, drawing
from diwa_cli.plots import Curve
from diwa_cli.run_folder import RunFolder, read_json, read_metrics
from diwa_cli.statistics import SuccessRate


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
    drawn = plots.learning_curve(dream, truth, scores, metrics.get("iteration", 0))
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
        f"dream success less the guard's deviation beyond that of the base's dreams, {scores[chosen]:.2f}."
    )
    if chosen != last and chosen in truth and last in truth:
        rates = [100 * truth[iteration].rate for iteration in (chosen, last)]
        text += f" It succeeds in {rates[0]:.0f} % in the simulator, the last one in {rates[1]:.0f} %."
    return text


def world_model(folder: RunFolder) -> dict[str, Any] | None:
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
    return drawing(plots.lines(curves, xlabel, ylabel, log), f"{ylabel} over {xlabel}: {last}", caption)
