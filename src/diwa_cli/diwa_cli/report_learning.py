"""The report's sections about what was learned: fine-tuning, world model, policy and reward."""

from __future__ import annotations

from typing import Any

from diwa_cli import page, plots
from diwa_cli.page import missing, section
from diwa_cli.plots import Curve
from diwa_cli.run_folder import RunFolder, read_json
from diwa_cli.statistics import SuccessRate


def fine_tuning(folder: RunFolder) -> str:
    """Dream success against true success over iterations, and how the updates went."""
    about = (
        "PPO on the last denoising steps, entirely in imagination. If dream and truth part, the policy exploits the "
        "world model or the classifier. The true success of the checkpoints on the way is measured on start states of "
        "their own, apart from those of the final figure, and chooses nothing."
    )
    metrics = read_json(folder.finetuned / "metrics.json")
    if metrics is None:
        return section("finetuning", "Fine-tuning in dreams", about, missing("The fine-tuned policy", "diwa finetune"))
    curve = read_json(folder.curve / "evaluation.json")
    truth = {
        int(name): SuccessRate(found["successes"], found["rollouts"])
        for name, found in (curve["policies"] if curve else {}).items()
    }
    dream = history(metrics, "dream_success") or Curve([], [])
    scores = {int(iteration): score for iteration, score in metrics.get("scores", {}).items()}
    spoken = ", ".join(f"iteration {step}: {100 * rate.rate:.0f} %" for step, rate in truth.items())
    drawn = plots.learning_curve(dream, truth, scores, metrics.get("iteration", 0))
    parts = [page.svg_figure(drawn, f"Learning curve; true success {spoken or 'missing'}")]
    if scores:
        parts.append(selected(metrics, scores, truth))
    if not truth:
        parts.append(missing("True success of the checkpoints on the way", "diwa evaluate --seeds curve"))
    small = [
        chart(metrics, {"approx_kl": "of an update"}, "iteration", "approximate KL", "how far each update moves"),
        chart(metrics, {"bc_kl": "to base"}, "iteration", "KL to the base policy", "what the BC term holds down"),
        chart(metrics, {"clip_fraction": "clipped"}, "iteration", "clipped share", "PPO ratios at their limit"),
        chart(
            metrics, {"explained_variance": "critic"}, "iteration", "explained variance", "of returns, by the critic"
        ),
    ]
    return section("finetuning", "Fine-tuning in dreams", about, *parts, "<h3>Updates</h3>", page.columns(*small))


def selected(metrics: dict[str, Any], scores: dict[int, float], truth: dict[int, SuccessRate]) -> str:
    """Which checkpoint the offline score took, and what that is worth where both it and the last were evaluated."""
    chosen, last = metrics["iteration"], metrics["steps"]
    text = (
        f"The result is the policy after iteration {chosen} of {last}, the best of {len(scores)} by offline score: "
        f"dream success less the guard's deviation beyond that of the base's dreams, {100 * scores[chosen]:.0f} %."
    )
    if chosen != last and chosen in truth and last in truth:
        rates = [100 * truth[iteration].rate for iteration in (chosen, last)]
        text += f" It succeeds in {rates[0]:.0f} % in the simulator, the last one in {rates[1]:.0f} %."
    return f"<p>{text}</p>"


def world_model(folder: RunFolder, *more: str) -> str:
    """Filmstrip of imagination against the recording, losses, and `more` HTML below."""
    about = (
        "From two frames of context the model imagines what the recorded actions do, without seeing another frame. "
        "Compare with the recording: the hand must go where it went, and the furniture must answer."
    )
    metrics = read_json(folder.world_model / "metrics.json")
    if metrics is None:
        return section("world-model", "World model", about, missing("The world model", "diwa train-world-model"))
    strip = folder.world_model / "open_loop.png"
    spoken = "Filmstrip of a held-out clip: recorded frames above imagined ones, for each camera"
    film = page.image_figure(strip, spoken) if strip.is_file() else missing("The filmstrip", "diwa train-world-model")
    small = [
        *open_loop(metrics),
        chart(metrics, {"loss": "training"}, "update", "loss", "", log=True),
        chart(metrics, {"kl": "training"}, "update", "KL(posterior ‖ prior), nats", ""),
    ]
    return section("world-model", "World model", about, film, model_size(metrics), page.columns(*small), *more)


def model_size(metrics: dict[str, Any]) -> str:
    """What it was trained on, and whether it listens to actions (METHOD section 6, check 2)."""
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
    return f"<p>{text}</p>"


def open_loop(metrics: dict[str, Any]) -> list[str]:
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


def networks(folder: RunFolder) -> str:
    """Policy loss, classifier loss, precision and recall."""
    about = (
        "The policy imitates with a denoising loss. The classifier says from the world model's state whether the skill "
        "is done; its threshold is set on imagined states of held-out demonstrations, as it will judge dreams."
    )
    policy = read_json(folder.policy / "metrics.json")
    reward = read_json(folder.reward / "metrics.json")
    left = (
        chart(policy, {"loss": "training"}, "epoch", "denoising loss", "the policy's imitation", log=True)
        if policy
        else missing("The policy", "diwa train-policy")
    )
    right = (
        chart(reward, {"loss": "training"}, "epoch", "NT-Xent + cross-entropy", "the classifier's training")
        if reward
        else missing("The classifier", "diwa train-reward")
    )
    scores = classifier_scores(reward) if reward else ""
    return section("networks", "Policy and reward", about, page.columns(left, right), scores)


def classifier_scores(metrics: dict[str, Any]) -> str:
    """Precision and recall on held-out states, and two sanity checks in dreams."""
    rows = []
    for origin in ("filtered", "imagined"):
        if score := metrics.get(origin):
            counts = [str(score["positives"]), str(score["negatives"])]
            rows.append([f"{origin} states", f"{score['precision']:.2f}", f"{score['recall']:.2f}", *counts])
    parts = ["<h3>Classifier on held-out states</h3>"]
    parts.append(page.table(["", "precision", "recall", "successes", "failures"], rows))
    if dreams := metrics.get("dreams"):
        parts.append(
            f"<p>Dreams from held-out starts that it calls a success: {100 * dreams['demonstrated']:.0f} % under the "
            f"demonstrated actions, {100 * dreams['idle']:.0f} % when doing nothing.</p>"
        )
    return "".join(parts)


def history(metrics: dict[str, Any], name: str) -> Curve | None:
    """A logged curve; None if it was not logged."""
    points = metrics.get("history", {}).get(name)
    return Curve([step for step, _ in points], [value for _, value in points]) if points else None


def chart(
    metrics: dict[str, Any], names: dict[str, str], xlabel: str, ylabel: str, caption: str, log: bool = False
) -> str:
    """Logged curves (name -> label) in one small figure; nothing if none was logged."""
    curves = {label: curve for name, label in names.items() if (curve := history(metrics, name))}
    return figure(curves, xlabel, ylabel, caption, log) if curves else ""


def figure(curves: dict[str, Curve], xlabel: str, ylabel: str, caption: str, log: bool = False) -> str:
    """A small drawing of curves (label -> points)."""
    last = ", ".join(f"{label} ends at {curve.y[-1]:.4g}" for label, curve in curves.items())
    return page.svg_figure(plots.lines(curves, xlabel, ylabel, log), f"{ylabel} over {xlabel}: {last}", caption)
