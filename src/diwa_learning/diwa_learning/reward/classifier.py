"""Success classifiers: of latents, of the images that a world model decodes, or its own decoder of the scene state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from diwa_data.config import require_at_least, require_shares
from diwa_data.dataset.dataset import Dataset, Episode
from diwa_data.errors import DiwaError, unknown
from diwa_data.skills import Goal, recorded_goal
from diwa_data.spec import Spec
from diwa_learning.reward.done import SUCCESS_TICKS
from diwa_learning.world_model.latents import embed_clips, filtered_states, whole
from diwa_learning.world_model.model import WorldModel, vector_decoder
from diwa_learning.world_model.networks import ImageEncoder, PerCamera

Judge = Literal["latents", "images", "both"]


@dataclass(frozen=True)
class RewardConfig:
    """Training of the success classifier; the defaults are the paper's (Table S.4)."""

    kind: Literal["classifier", "images", "decoder"] = "classifier"
    """`images`: a classifier on the images that the world model decodes, for comparison.
    `decoder`: success by the scene state that a hybrid world model decodes; nothing is trained, only measured."""
    goal: Goal = field(default_factory=lambda: Goal("", 0.0, 0.0))
    """With `decoder`: change of the scene state that makes the skill done; without a quantity, as recorded."""
    width: int = 512
    """Units of each layer."""
    epochs: int = 100
    """Passes over all items. With play, the classifiers that screen it first take as many passes together."""
    batch_size: int = 32
    """Items in each optimiser step."""
    learning_rate: float = 1e-6
    """Learning rate of Adam."""
    margin: float = 1.0
    """Seconds before a demonstration's success mark whose frames have no label; earlier frames are failures."""
    onset_folds: int = 0
    """Number of classifiers that look in those frames for the moment of success.
    Each judges the demonstrations that it was not trained on. With 0 those frames are unused."""
    temperature: float = 0.5
    """Temperature of NT-Xent."""
    positive_share: float = 0.5
    """Share of each batch that is drawn from successes, which are rare."""
    latent_samples: int = 2
    """Latent samples of each demonstration."""
    imagined_every: int = 8
    """Frames between the starts of a demonstration's imagined segments; the first starts at frame 0."""
    context: int = 1
    """Most frames that are filtered before a segment is imagined; 1 to this many, as before a dream
    (`starts.context`)."""
    horizon: int = 72
    """Most actions imagined in a segment; as long as a dream."""
    play_segments: int = 300
    """Number of random segments of play, of `horizon` actions, that give negatives."""
    play_folds: int = 3
    """Number of classifiers that screen unmarked play; each judges the recordings that it was not trained on.
    With 0 unmarked play is not used."""
    play_success_above: float = 0.5
    """Unmarked play counts as failure, except frames that may be a success; these are left out.
    That is where every classifier that has not seen the recording gives a higher probability than this."""
    held_out: float = 0.2
    """Share of demonstrations, failed attempts and play kept for threshold and report; at least one demonstration."""
    false_success: float = 0.05
    """Largest share of held-out rollouts without success that may be declared done at the threshold."""
    missed_success: float = 0.05
    """Largest share of held-out filtered latents of success below the threshold, which is as high as this allows."""
    precision: float = 0.95
    """Lowest precision on held-out imagined latents that the threshold must reach."""
    lowest_threshold: float = 0.5
    """Lowest threshold. PPO finds what passes a lower one, although few recorded frames show it."""
    on_robot: Judge = "latents"
    """Judge of success on a robot: the classifier of `latents`, as in dreams; a second one that sees nothing but the
    present `images`; or `both`, where both must be sure. A decoder always judges by latents."""
    success_ticks: int = SUCCESS_TICKS
    """Control ticks in a row for which the classifier must be sure before the skill counts as done,
    here and wherever the classifier is used."""
    save_every: int = 10
    """Epochs between saves of the resumable state."""
    seed: int = 0
    """Seed of weights, latents and batches."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "success_ticks", "context")
        require_at_least(self, 0, "onset_folds", "play_folds", "margin")
        require_shares(self, "held_out", "false_success", "missed_success", "precision", "lowest_threshold")

    @classmethod
    def gathered(cls, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Without the setting of the screening that earlier checkpoints had."""
        return {key: value for key, value in values.items() if key != "play_negative_below"}


POSITIVE, NEGATIVE, UNUSED = 1, 0, -1


class SuccessClassifier(nn.Module):
    """Decides from model states whether the skill is done, and on a robot from the images too."""

    threshold: Tensor
    success_ticks = SUCCESS_TICKS
    """Ticks running that it must be sure before the skill counts as done."""
    on_robot: Judge = "latents"
    """Judge where there are images (`RewardConfig.on_robot`)."""
    frame: RewardClassifier | None
    """Judges `WorldModel.pictures` of single frames, with the same threshold; None if latents alone judge."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(0.5))
        self.register_module("frame", None)

    def probability(self, features: Tensor) -> Tensor:
        """Probability of success (...) of features (..., F)."""
        raise NotImplementedError

    def seen_probability(self, features: Tensor, pictures: Tensor) -> Tensor:
        """Probability of success (...) where a camera shows the state: features (..., F), `pictures` (..., P).

        A filtered state remembers and expects, and may overrule what the images show; a classifier of single frames
        cannot. With `both` the lower of the two probabilities counts.
        """
        if self.frame is None:
            return self.probability(features)
        shown = self.frame.probability(pictures)
        return shown if self.on_robot == "images" else torch.minimum(shown, self.probability(features))

    def is_success(self, probability: Tensor) -> Tensor:
        """Whether it is sure: a probability (...) is above the threshold."""
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

    In between, frames are unused. A failed attempt is all failure, or where a success in it was taken back or came too
    late, what lies `margin` s or more before that. The episode must have a mark.
    """
    failed = episode.outcome == "fail"
    assert failed or episode.success.any(), f"demonstration {episode.name} has no success mark"
    mark = int(np.argmax(episode.success)) if episode.success.any() else episode.attributes.get("withdrawn_tick", -1)
    labels = np.full(len(episode.success), NEGATIVE if mark < 0 else UNUSED)
    if mark >= 0:
        labels[: max(0, mark - math.ceil(margin * rate) + 1)] = NEGATIVE
        labels[mark:] = UNUSED if failed else POSITIVE
    return labels


def play_labels(episode: Episode, skill: str, rate: float, margin: float) -> np.ndarray:
    """Labels (T,) of a recording of play.

    Where it is a marked attempt at `skill`, failures are known as in demonstrations; what follows a success is not:
    play goes on, and may undo it. Without a mark nothing is known, and all frames are unused.
    """
    if episode.outcome == "none" or episode.attributes.get("skill") != skill:
        return np.full(len(episode.success), UNUSED)
    labels = demonstration_labels(episode, rate, margin)
    return np.where(labels == POSITIVE, UNUSED, labels)


FRAMES = 256
"""Model states whose images are in memory at a time."""


class ImageClassifier(RewardClassifier):
    """`RewardClassifier` behind convolutions over the images that a world model decodes from features.

    So it sees of a dream what a classifier of camera frames would see of it, and learns from the same items, labels and
    loss. It needs a whole world model: one that was packed for a robot does not decode.
    """

    def __init__(self, model: WorldModel, width: int):
        encoders = {each.name: ImageEncoder(model.config.depth, each.size) for each in model.spec.cameras}
        super().__init__(sum(encoder.output_dim for encoder in encoders.values()), width)
        self.encoders = PerCamera(encoders)
        self._model = (model,)  # in a tuple it is no part of this module: neither trained nor saved again
        if not model.decodes:
            raise DiwaError(
                "this world model was packed for deployment and decodes no images, which the classifier sees: give "
                "the one that it was made from"
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


LEAST_ERROR = 1e-3
"""Floor of the decoder's error: millimetres, or thousandths of a light."""


class DecodedReward(SuccessClassifier):
    """By how much the one number of the scene state that a skill changes has passed the skill's goal.

    It is the world model's decoder of that number, in its own unit, less the goal (`Goal.margin`).
    """

    error: Tensor
    """Standard deviation of the decoder's error, in the number's unit."""

    def __init__(self, feature_dim: int):
        super().__init__()
        self.decoder = vector_decoder(feature_dim, 1)
        self.register_buffer("error", torch.tensor(LEAST_ERROR))

    def take_decoder(self, model: WorldModel, goal: Goal) -> None:
        """Copy the decoder of a hybrid `model`, for a skill with this goal."""
        assert model.state_decoder is not None, "a hybrid world model has one"
        spec = model.spec
        row = spec.state_dim + spec.scene_state.index(goal.quantity)
        weights, mean, std = model.state_decoder.state_dict(), model.state_mean[row], model.state_std[row]
        weight, bias = weights["1.weight"][row] * std, weights["1.bias"][row] * std + mean
        direction = 1.0 if goal.change > 0 else -1.0
        margin = {"1.weight": (direction * weight)[None], "1.bias": goal.margin(bias)[None]}
        self.decoder.load_state_dict(weights | margin)

    def margin(self, features: Tensor) -> Tensor:
        """Features (..., F) -> by how much the number (...) has passed the goal."""
        return self.decoder(features)[..., 0]

    def probability(self, features: Tensor) -> Tensor:
        """Probability (...) that the true number of features (..., F) has passed the goal: errors are Gaussian."""
        return torch.special.ndtr(self.margin(features) / self.error)


@torch.no_grad()
def decoded_reward(model: WorldModel, goal: Goal, episodes: Sequence[Episode], seed: int) -> DecodedReward:
    """The decoder of a hybrid model as the classifier of a skill with this goal, its error measured on recordings."""
    classifier = DecodedReward(model.feature_dim).to(model.device)
    classifier.take_decoder(model, goal)
    clips = embed_clips(model, [whole(episode) for episode in episodes])
    noise = model.rssm.noise(*clips.valid.shape, rng=torch.Generator().manual_seed(seed))
    decoded = classifier.margin(filtered_states(model, clips, noise).features)[clips.valid]
    true = np.concatenate([recorded_margin(episode, goal, model.spec) for episode in episodes])
    error = (decoded.cpu() - torch.from_numpy(true)).square().mean().sqrt()
    classifier.error.copy_(error.clamp(min=LEAST_ERROR))
    return classifier


def recorded_margin(episode: Episode, goal: Goal, spec: Spec) -> np.ndarray:
    """By how much the scene state of each frame (T,) has passed the goal; >= 0 is done."""
    assert episode.scene_state is not None, f"episode {episode.name} has no scene state"
    return goal.margin(episode.scene_state[:, spec.scene_state.index(goal.quantity)])


def goal_of(demos: Dataset, skill: str, given: Goal) -> Goal:
    """The goal `given`, or the one that the demonstrations of `skill` were recorded with.

    Raises `DiwaError` if they name none or several, or one that is not a number of their scene state.
    """
    recorded = [
        recorded_goal(each.attributes["labels"], skill, f"{demos.path}: {each.name}") for each in demos.episodes
    ]
    goals = {given} if given.quantity else set(recorded)
    if len(goals) != 1 or None in goals:
        found = "several goals" if None not in goals else "no goal"
        raise DiwaError(
            f"{demos.path} was recorded with {found} of {skill}, which --kind decoder needs: say which number of the "
            "scene state makes it done, such as --goal.quantity drawer --goal.before 0 --goal.change 0.12"
        )
    (goal,) = goals
    assert goal is not None
    if goal.quantity not in demos.spec.scene_state:
        raise unknown("number of the scene state", goal.quantity, demos.spec.scene_state)
    if not math.isfinite(goal.before) or not math.isfinite(goal.change) or not goal.change:
        raise DiwaError(f"the goal of {goal.quantity!r} is {goal}: give numbers, and a change that is not 0")
    return goal
