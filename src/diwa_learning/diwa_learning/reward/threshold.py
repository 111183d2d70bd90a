"""The threshold above which the classifier is sure: by held-out latents, and by held-out rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diwa_learning.reward.classifier import NEGATIVE, POSITIVE, SuccessClassifier
from diwa_learning.reward.data import LabelledClips
from diwa_learning.world_model.latents import filtered_states
from diwa_learning.world_model.model import WorldModel


@dataclass(frozen=True)
class Score:
    """How well a threshold separates the labels."""

    precision: float
    recall: float
    positives: int
    negatives: int


def score_at(threshold: float, probability: np.ndarray, label: np.ndarray) -> Score:
    """Precision and recall of `probability > threshold` against labels (N,) 0 or 1; 0 where undefined."""
    called, is_positive = probability > threshold, label == POSITIVE
    true = int((called & is_positive).sum())
    return Score(
        precision=true / max(int(called.sum()), 1),
        recall=true / max(int(is_positive.sum()), 1),
        positives=int(is_positive.sum()),
        negatives=int((~is_positive).sum()),
    )


@dataclass(frozen=True)
class Threshold:
    """A threshold, and whether the wanted precision was `reached` with it."""

    value: float
    reached: bool


def choose_threshold(probability: np.ndarray, label: np.ndarray, precision: float, lowest: float = 0.0) -> Threshold:
    """Threshold of best recall among those with at least `precision`; of best precision where none has it.

    Thresholds lie midway between neighbouring scores, but not below `lowest`. probability (N,), label (N,) 0 or 1.
    """
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order].astype(float)
    true = np.cumsum(label[order] == POSITIVE)
    cut = np.append(ranked[:-1] > ranked[1:], True)  # only between different scores
    middle = (ranked + np.append(ranked[1:], 0.0)) / 2
    true, called, middle = true[cut], (np.arange(len(ranked)) + 1)[cut], middle[cut]
    enough = true / called >= precision
    if enough.any() and true[enough].max() > 0:
        best = np.flatnonzero(enough & (true == true[enough].max()))[0]
        return Threshold(max(lowest, float(middle[best])), True)
    best = int(np.argmax(true / called))
    return Threshold(max(lowest, float(middle[best])), False)


@dataclass(frozen=True)
class RolloutScores:
    """For each rollout the highest threshold below which it would be declared done; -inf where it never could be."""

    without: np.ndarray
    """(M,) by frames that are known to be failures: rollouts that had not succeeded."""
    successes: np.ndarray
    """(P,) by the other frames of rollouts that succeeded."""

    @staticmethod
    def join(scores: Sequence[RolloutScores]) -> RolloutScores:
        """Those of all rollouts."""
        both = ([each.without for each in scores], [each.successes for each in scores])
        return RolloutScores(*(np.concatenate(some) for some in both))

    def declared(self, threshold: float) -> tuple[int, int]:
        """How many of each are declared done at a threshold."""
        return int((self.without > threshold).sum()), int((self.successes > threshold).sum())


@torch.no_grad()
def score_rollouts(
    model: WorldModel, classifier: SuccessClassifier, clips: LabelledClips, generator: torch.Generator
) -> RolloutScores:
    """Scores of recordings that are filtered from their first frame on, as deployment does, and then judged."""
    noise = model.rssm.noise(*clips.valid.shape, rng=generator)
    features = filtered_states(model, clips, noise).features
    probability = classifier.seen_probability(features, model.pictures(clips.embeds))
    failure = clips.valid & (clips.labels == NEGATIVE)
    other, success = clips.valid & (clips.labels != NEGATIVE), (clips.valid & (clips.labels == POSITIVE)).any(1)
    without = highest_run(probability, failure, classifier.success_ticks)[failure.any(1)]
    successes = highest_run(probability, other, classifier.success_ticks)[success]
    return RolloutScores(without.cpu().numpy(), successes.cpu().numpy())


def highest_run(probability: Tensor, counted: Tensor, ticks: int) -> Tensor:
    """Largest probability (N,) that is exceeded at `ticks` ticks running, of probability (N, T).

    Only ticks that are `counted` (N, T) make a run; -inf where there are not as many.
    """
    if probability.shape[1] < ticks:
        return probability.new_full(probability.shape[:1], -torch.inf)
    runs = probability.masked_fill(~counted, -torch.inf).unfold(1, ticks, 1)
    return runs.amin(-1).amax(1)


def rollout_threshold(scores: RolloutScores, false_success: float) -> float:
    """The least threshold at which at most this share of the rollouts without success is declared done.

    So most successes are. It lies midway to the next higher score of any rollout.
    """
    if not len(scores.without):
        return 0.0
    ranked = np.sort(scores.without)[::-1]
    least = float(ranked[min(int(false_success * len(ranked)), len(ranked) - 1)])
    every = np.concatenate([scores.without, scores.successes])
    above = every[every > least]
    least = max(least, 0.0)
    return (least + float(above.min())) / 2 if len(above) else least


def strict_threshold(probability: np.ndarray, label: np.ndarray, missed_success: float) -> float:
    """The highest threshold that at most this share of successes does not pass; 0 without any. Both (N,).

    It is a float32, as probabilities and the classifier's threshold are: a success of probability 1 passes it.
    """
    ranked = np.sort(probability[label == POSITIVE]).astype(np.float32)
    if not len(ranked):
        return 0.0
    least = ranked[min(int(missed_success * len(ranked)), len(ranked) - 1)]
    return max(0.0, float(np.nextafter(least, np.float32(-1))))
