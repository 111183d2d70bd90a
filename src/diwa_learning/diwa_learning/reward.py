"""The reward: a classifier of model states with its losses, labels and threshold (METHOD section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diwa_data.dataset import Episode
from diwa_learning.stacking import Linear

POSITIVE, NEGATIVE, UNUSED = 1, 0, -1


class SuccessJudge(nn.Module):
    """Says of model states whether the skill is done. Several of one form can be stacked if they are `stackable`."""

    threshold: Tensor
    stackable = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.5))

    def probability(self, features: Tensor) -> Tensor:
        """Probability of success (...) of features (..., F)."""
        raise NotImplementedError

    def is_success(self, probability: Tensor) -> Tensor:
        """Whether a probability (..., B) is above the threshold."""
        return probability > self.threshold[..., None]


class RewardClassifier(SuccessJudge):
    """Embedding MLP F -> W -> W and head W -> W -> 2, ReLU; class 1 is success."""

    def __init__(self, feature_dim: int, width: int):
        super().__init__()
        self.embedding = nn.Sequential(Linear(feature_dim, width), nn.ReLU(), Linear(width, width))
        self.head = nn.Sequential(Linear(width, width), nn.ReLU(), Linear(width, 2))

    def embed(self, features: Tensor) -> Tensor:
        """(..., F) -> (..., W), not normalised."""
        return self.embedding(features)

    def logits(self, features: Tensor) -> Tensor:
        """(..., F) -> (..., 2)."""
        return self.head(self.embed(features))

    def probability(self, features: Tensor) -> Tensor:
        """Probability of success (...) of features (..., F)."""
        return self.logits(features).softmax(dim=-1)[..., POSITIVE]

    def loss(self, features: Tensor, labels: Tensor, temperature: float) -> Tensor:
        """NT-Xent on embeddings plus cross-entropy on logits (eq. 14): features (B, F), labels (B,) 0 or 1."""
        embeds = self.embed(features)
        contrast = nt_xent(functional.normalize(embeds, dim=-1), labels, temperature)
        entropy = -self.head(embeds).log_softmax(-1).gather(-1, labels[..., None]).mean((-2, -1))
        return contrast + entropy


def nt_xent(embeds: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised NT-Xent: embeds (B, W) of unit length, labels (B,) -> scalar; a stack's run by run.

    For anchor i with positives P(i), all other items of its label:
    -1/|P(i)| sum_{p in P(i)} log( exp(s_ip / tau) / sum_{j != i} exp(s_ij / tau) ), mean over anchors that have one.
    """
    itself = torch.eye(labels.shape[-1], dtype=torch.bool, device=labels.device)
    similarity = (embeds @ embeds.mT / temperature).masked_fill(itself, -math.inf)
    log_share = similarity - similarity.logsumexp(dim=-1, keepdim=True)  # (B, B)
    positive = (labels[..., :, None] == labels[..., None, :]) & ~itself
    count = positive.sum(dim=-1)
    each = -log_share.masked_fill(~positive, 0.0).sum(dim=-1) / count.clamp_min(1)
    return each.sum(-1) / (count > 0).sum(-1).clamp_min(1)


def demonstration_labels(episode: Episode, rate: float, margin: float) -> np.ndarray:
    """Labels (T,) of a demonstration: success from the operator's mark on, failure `margin` s or more before it.

    In between, frames are unused. The episode must have a mark.
    """
    assert episode.success.any(), f"demonstration {episode.name} has no success mark"
    mark = int(np.argmax(episode.success))
    labels = np.full(len(episode.success), UNUSED)
    labels[mark:] = POSITIVE
    labels[: max(0, mark - math.ceil(margin * rate) + 1)] = NEGATIVE
    return labels


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
