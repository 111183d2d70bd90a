"""Which iterations of fine-tuning are kept as checkpoints, and which of them is the result.

The choice is by an offline score: no robot and no simulator is asked. Dream success does not rank policies: all dream
of success in the end. How much more an ensemble deviates in these dreams than in the base policy's says how much of
that success the world model guesses. The score is the one less the other: a standard deviation cancels all success
(docs/laptop.md says how much the score is worth).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diwa_learning.core.checkpoint import load_checkpoint, save_checkpoint
from diwa_learning.core.run import Curves, TrainingRun
from diwa_learning.finetune.learner import Learner
from diwa_learning.policy.checkpoint import policy_weights

WINDOW = 3
"""Iterations whose dreams say how good the checkpoint after them is."""


def is_due(config: Any, done: int) -> bool:
    """Whether the policy after `done` iterations is kept: one every `checkpoint_every`, and the last."""
    return done % config.checkpoint_every == 0 or done == config.iterations


def iteration_folder(out: Path, iteration: int) -> Path:
    """Where a run keeps the policy after so many iterations."""
    return out / "iterations" / f"{iteration:06d}"


def keep_if_due(run: TrainingRun, policy: nn.Module, about: Mapping[str, Any], done: int) -> None:
    """Leave the policy after `done` iterations in `iterations/NNNNNN`, itself a `finetune` checkpoint, if that is due.

    Its metrics are `about` and the latest value of each curve.
    """
    if is_due(run.config, done):
        latest = {name: curve[-1][1] for name, curve in run.history.items()}
        metrics, folder = {**about, "iteration": done, **latest}, iteration_folder(run.out, done)
        save_checkpoint(folder, "finetune", policy_weights(policy), run.config, run.spec, metrics, run.world_model_hash)


@dataclass(frozen=True)
class Choice:
    """The best checkpoint so far."""

    iteration: int
    """Iterations done when it was kept."""
    scores: dict[int, float]
    """Iterations done -> score, for each checkpoint that was compared."""
    settled: bool
    """Whether so many after it were no better that more are not worth making."""


def scores(curves: Curves, base: int) -> list[float]:
    """Score of each iteration's dreams; the first `base` iterations dream the policy before fine-tuning.

    Dream success, 0 to 1, less the ensemble's mean deviation beyond that of the base's dreams, in standard deviations.
    """
    success, deviation = ([value for _, value in curves[name]] for name in ("dream_success", "deviation"))
    usual = sum(deviation[:base]) / len(deviation[:base])
    return [one - (other - usual) for one, other in zip(success, deviation, strict=True)]


def before(curve: Sequence[float], iteration: int) -> float:
    """Mean of a curve over the dreams that say how good the checkpoint after `iteration` iterations is."""
    window = curve[max(0, iteration - WINDOW) : iteration]
    return sum(window) / len(window)


def choose(score: Sequence[float], kept: Sequence[int], patience: int) -> Choice:
    """The best of the checkpoints `kept` (iterations done), each judged by the dreams just before it.

    The search ends after `patience` checkpoints that are no better; 0 compares all. Of equal ones the first is taken.
    """
    found: dict[int, float] = {}
    best, since = kept[0], 0
    for iteration in kept:
        found[iteration] = before(score, iteration)
        best, since = (iteration, 0) if found[iteration] > found[best] else (best, since + (iteration != best))
        if patience and since >= patience:
            return Choice(best, found, settled=True)
    return Choice(best, found, settled=False)


def finish(run: TrainingRun, learner: Learner, about: Mapping[str, Any], choice: Choice | None = None) -> None:
    """Leave the checkpoint: both policies, the last or the chosen one, and the last critic; its metrics are `about`."""
    metrics, weights = {**about, "alpha_bc": float(learner.bc_weight.alpha)}, policy_weights(learner.policy)
    if choice:
        weights = load_checkpoint(iteration_folder(run.out, choice.iteration), "finetune").weights
        metrics |= {"iteration": choice.iteration, "scores": {str(n): score for n, score in choice.scores.items()}}
    critic = {f"critic.{name}": tensor for name, tensor in learner.critic.state_dict().items()}
    run.finish(weights | critic, metrics)
