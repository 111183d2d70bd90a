"""The reward from images: the classifier on what the world model decodes, to be held against the one on latents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.networks import ImageEncoder


@dataclass(frozen=True)
class RewardConfig:
    """Training of the reward classifier; the defaults are the paper's (Table S.4)."""

    kind: Literal["classifier", "images", "decoder"] = "classifier"
    """`images`: a classifier of the images that the world model decodes, for comparison. `decoder`: success by the
    scene state that a hybrid world model decodes; nothing is trained, only measured."""
    width: int = 512
    """Units of each layer."""
    epochs: int = 100
    """Passes over all items; with play, as many before for the classifier that screens it."""
    batch_size: int = 32
    """Items per optimiser step."""
    learning_rate: float = 1e-6
    """Of Adam."""
    margin: float = 1.0
    """Seconds: frames of a demonstration are failures until so long before its success mark, then unused up to it."""
    temperature: float = 0.5
    """Of NT-Xent."""
    positive_share: float = 0.5
    """Share of each batch drawn from success items, which are rare."""
    latent_samples: int = 2
    """Draws of the noise of each demonstration's latents."""
    imagined_every: int = 8
    """Frames between the first frames of a demonstration's imagined stretches; the first starts at frame 0."""
    context: int = 1
    """Frames of a stretch that are filtered before imagination begins: as before a dream (`starts.context`)."""
    horizon: int = 72
    """Most actions imagined in a stretch: as long as a dream."""
    play_segments: int = 300
    """Random stretches of `horizon` actions of play that give negatives."""
    play_negative_below: float = 0.1
    """Play frames are negatives where a classifier trained on demonstrations alone scores below this."""
    held_out: float = 0.2
    """Share of demonstrations and of play stretches kept for threshold and report; at least one demonstration."""
    precision: float = 0.95
    """The threshold has the best recall at this precision on held-out imagined latents."""
    lowest_threshold: float = 0.5
    """But it is no lower: a dream that goes on until something passes finds what few recorded frames show."""
    save_every: int = 10
    """Epochs between saves of the resumable state."""
    seed: int = 0
    """Of weights, latents and batches."""


POSITIVE, NEGATIVE, UNUSED = 1, 0, -1


class SuccessClassifier(nn.Module):
    """Says of model states whether the skill is done."""

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.5))

    def probability(self, features: Tensor) -> Tensor:
        """Probability of success (...) of features (..., F)."""
        raise NotImplementedError

    def is_success(self, probability: Tensor) -> Tensor:
        """Whether a probability (...) is above the threshold."""
        return probability > self.threshold


class RewardClassifier(SuccessClassifier):
    """Embedding MLP F -> W -> W and head W -> W -> 2, ReLU; class 1 is success."""

    def __init__(self, feature_dim: int, width: int):
        super().__init__()
        self.embedding = nn.Sequential(nn.Linear(feature_dim, width), nn.ReLU(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

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
        return contrast + functional.cross_entropy(self.head(embeds), labels)


def nt_xent(embeds: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised NT-Xent: embeds (B, W) of unit length, labels (B,) -> scalar.

    For anchor i with positives P(i), all other items of its label:
    -1/|P(i)| sum_{p in P(i)} log( exp(s_ip / tau) / sum_{j != i} exp(s_ij / tau) ), mean over anchors that have one.
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarity = (embeds @ embeds.T / temperature).masked_fill(itself, -math.inf)
    log_share = similarity - similarity.logsumexp(dim=-1, keepdim=True)  # (B, B)
    positive = (labels[:, None] == labels) & ~itself
    count = positive.sum(dim=-1)
    each = -log_share.masked_fill(~positive, 0.0).sum(dim=-1) / count.clamp_min(1)
    return each.sum() / (count > 0).sum().clamp_min(1)


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


FRAMES = 256
"""Model states whose images are in memory at a time."""


class ImageClassifier(RewardClassifier):
    """`RewardClassifier` behind convolutions over the images that a world model decodes from features.

    So it sees of a dream what a classifier of camera frames would see of it, and learns from the same items, labels and
    loss. It judges dreams: a world model that was packed for a robot does not decode.
    """

    def __init__(self, model: WorldModel, width: int):
        depth, cameras = model.config.depth, list(model.encoders)
        super().__init__(len(cameras) * 32 * depth, width)
        self.encoders = nn.ModuleDict({name: ImageEncoder(depth) for name in cameras})
        self._model = (model,)  # in a tuple it is no part of this module: neither trained nor saved again
        if not model.decodes:
            raise DiwaError(
                "this world model was packed for deployment and decodes no images, which the classifier judges: give "
                "the one that it is made of"
            )

    def embed(self, features: Tensor) -> Tensor:
        """(..., F) -> (..., W)."""
        some = features.flatten(end_dim=-2).split(FRAMES)
        return torch.cat([self.embedding(self._encode(each)) for each in some]).unflatten(0, features.shape[:-1])

    def _encode(self, features: Tensor) -> Tensor:
        """Features (B, F) -> codes (B, C) of their images."""
        with torch.no_grad():
            images = self._model[0].decode(features)
        return torch.cat([encoder(images[name].movedim(-1, -3)) for name, encoder in self.encoders.items()], -1)
