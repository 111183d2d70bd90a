"""Batches for the reward classifier: items of both classes in fixed shares, and the epochs that use them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_learning.core.capture import CapturedEach, step
from diwa_learning.core.stacking import Streams
from diwa_learning.reward.classifier import (
    NEGATIVE,
    POSITIVE,
    UNUSED,
    RewardClassifier,
    RewardConfig,
    SuccessJudge,
    demonstration_labels,
)
from diwa_learning.world_model.latents import (
    Clips,
    draw_stretches,
    embed_clips,
    filtered_states,
    gumbel_noise,
    imagined_states,
    whole,
)
from diwa_learning.world_model.lockstep import Member, lockstep
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import State

StatesOf = Callable[[WorldModel, Clips, Tensor], State]
Truth = Callable[[Episode], np.ndarray]
"""Episode -> (T,) bool: frames in which the skill is done, where something better than an operator knows."""


@dataclass(frozen=True)
class Stretch:
    """A piece of a recording that is imagined: `context` frames seen, then `horizon` actions."""

    context: int
    horizon: int

    @property
    def length(self) -> int:
        """Frames."""
        return self.context + self.horizon

    def states(self, model: WorldModel, clips: Clips, noise: Tensor) -> State:
        return imagined_states(model, clips, noise, self.context)


@dataclass(frozen=True)
class Items:
    """Labelled features: `features` (M, F), `labels` (M,) int64, of which `UNUSED` ones are dropped by `used`."""

    features: Tensor
    labels: Tensor

    def used(self) -> Items:
        keep = self.labels != UNUSED
        return Items(self.features[keep], self.labels[keep])

    @staticmethod
    def join(*items: Items) -> Items:
        return Items(torch.cat([i.features for i in items]), torch.cat([i.labels for i in items]))


@dataclass(frozen=True)
class Latents:
    """Latents by origin."""

    filtered: Items
    imagined: Items

    def used(self) -> Latents:
        return Latents(self.filtered.used(), self.imagined.used())

    def both(self) -> Items:
        return Items.join(self.filtered, self.imagined)

    def and_these(self, other: Latents) -> Latents:
        return Latents(Items.join(self.filtered, other.filtered), Items.join(self.imagined, other.imagined))


@dataclass(frozen=True)
class Demonstrations:
    """Encoded demonstrations with a label for each frame, (N, T) int64."""

    clips: Clips
    labels: Tensor


def encode_demonstrations(
    model: WorldModel, episodes: Sequence[Episode], label: Callable[[Episode], np.ndarray]
) -> Demonstrations:
    """Embed whole demonstrations; `label` gives (T,) of an episode."""
    clips = embed_clips(model, [whole(episode) for episode in episodes])
    labels = torch.full_like(clips.valid, UNUSED, dtype=torch.int64)
    for row, episode in zip(labels, episodes, strict=True):
        row[: len(episode)] = torch.from_numpy(label(episode).astype(int))
    return Demonstrations(clips, labels)


def demonstration_latents(
    model: WorldModel, demos: Demonstrations, stretch: Stretch, every: int, samples: int, generator: torch.Generator
) -> Latents:
    """Latents of whole demonstrations filtered, and of a stretch that begins at every `every`-th frame.

    Only used labels; `samples` draws of the noise of each.
    """
    lengths = demos.clips.valid.sum(dim=1).tolist()
    origins = [(n, start) for n, length in enumerate(lengths) for start in range(0, length - 1, every)]
    rows, starts = [n for n, _ in origins], [start for _, start in origins]
    stretches = demos.clips.cut(rows, starts, stretch.length)
    last = demos.labels.shape[1] - 1
    frames = (torch.tensor(starts)[:, None] + torch.arange(stretch.length)).clamp_max(last)
    labels = demos.labels[torch.tensor(rows)[:, None].to(demos.labels.device), frames.to(demos.labels.device)]
    return Latents(
        filtered=collect(model, demos.clips, demos.labels, filtered_states, samples, generator),
        imagined=collect(model, stretches, labels, stretch.states, samples, generator),
    ).used()


def play_latents(
    model: WorldModel,
    episodes: Sequence[Episode],
    segments: int,
    stretch: Stretch,
    rng: np.random.Generator,
    truth: Truth | None = None,
) -> Latents:
    """Latents of random stretches of play, filtered and imagined over the same frames.

    All labels are `UNUSED` unless `truth` knows them.
    """
    if not episodes or segments == 0:
        labels = torch.zeros(0, dtype=torch.int64, device=model.device)
        nothing = Items(torch.zeros(0, model.feature_dim, device=model.device), labels)
        return Latents(nothing, nothing)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    parts = draw_stretches(episodes, segments, stretch.length, rng)
    filtered, imagined = [], []
    clips = embed_clips(model, parts)
    labels = torch.full_like(clips.valid, UNUSED, dtype=torch.int64)
    if truth:
        for row, part in zip(labels, parts, strict=True):
            row[: part.length] = torch.from_numpy(truth(part.episode)[part.start : part.stop].astype(int))
    for group, known in zip(clips.split(64), labels.split(64), strict=True):
        filtered.append(collect(model, group, known, filtered_states, 1, generator))
        imagined.append(collect(model, group, known, stretch.states, 1, generator))
    return Latents(Items.join(*filtered), Items.join(*imagined))


def screen_play(play: Latents, screen: SuccessJudge, below: float) -> Latents:
    """Negatives where `screen`, trained on demonstrations alone, scores the filtered frame less than `below`.

    The other frames are dropped: play contains open drawers. Labels that are known already stay.
    """
    if (play.filtered.labels != UNUSED).any():
        return play.used()
    with torch.no_grad():
        negative = screen.probability(play.filtered.features) < below
    labels = torch.where(negative, NEGATIVE, UNUSED)
    return Latents(Items(play.filtered.features, labels), Items(play.imagined.features, labels)).used()


def collect(
    model: WorldModel, clips: Clips, labels: Tensor, states_of: StatesOf, samples: int, generator: torch.Generator
) -> Items:
    """Features of all valid frames of clips (N, T), `samples` times with fresh noise; labels (N, T)."""
    features = []
    for _ in range(samples):
        for group in clips.split(64):
            noise = gumbel_noise(model.rssm, *group.valid.shape, generator=generator)
            features.append(states_of(model, group, noise).features[group.valid])
    return Items(torch.cat(features), labels[clips.valid].repeat(samples))


@torch.no_grad()
def dreamt_success(
    model: WorldModel,
    classifier: SuccessJudge,
    clips: Clips,
    context: int,
    chunk: int,
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """Of each clip (N,): share of its dreams under its own actions that are called a success after any chunk.

    The first `context` frames are filtered.
    """
    found = []
    for _ in range(samples):
        noise = gumbel_noise(model.rssm, *clips.valid.shape, generator=generator)
        success = classifier.probability(imagined_states(model, clips, noise, context).features) > classifier.threshold
        found.append((success & clips.valid)[:, context - 1 + chunk :: chunk].any(dim=1))
    return torch.stack(found).float().mean(dim=0)


@dataclass(frozen=True)
class Batches:
    """Optimiser steps of an epoch."""

    screen: int
    classifier: int


@dataclass(frozen=True)
class RewardData:
    """Latents for training and the held-out ones, demonstrations and play apart; play is not yet labelled."""

    demos: Latents
    demos_held: Latents
    play: Latents
    play_held: Latents
    held_out: Demonstrations

    def batches(self, config: RewardConfig) -> Batches:
        """Batches of an epoch: about a pass over the items, and the same for every seed."""
        demos = len(self.demos.both().labels) + len(self.demos_held.both().labels)
        play = 2 * config.play_segments * (config.context + config.horizon) * bool(self.screening(config))
        share = (1 - config.held_out) / config.batch_size
        return Batches(math.ceil(share * demos), math.ceil(share * (demos + play)))

    def screening(self, config: RewardConfig) -> int:
        """Epochs of the classifier that screens play."""
        return config.epochs if len(self.play.filtered.labels) else 0


def make_data(
    model: WorldModel,
    demonstrations: Sequence[Episode],
    play: Sequence[Episode],
    config: RewardConfig,
    truth: Truth | None = None,
) -> RewardData:
    """Encode everything, with some demonstrations and stretches of play held out."""
    unmarked = [episode.name for episode in demonstrations if not episode.success.any()]
    if unmarked:
        print(f"reward: left out, no success mark in them: demonstrations {', '.join(unmarked)}")
    demonstrations = [episode for episode in demonstrations if episode.success.any()]
    if len(demonstrations) < 2:
        raise DiwaError(
            "the reward needs two or more demonstrations with a success mark, one is held out to choose the "
            f"threshold; there are {len(demonstrations)}: mark success while recording"
        )

    def operator(episode: Episode) -> np.ndarray:
        return demonstration_labels(episode, model.spec.rate, config.margin)

    rng, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    order = rng.permutation(len(demonstrations))
    n_held = min(max(1, round(config.held_out * len(order))), len(order) - 1)
    held, train = (
        encode_demonstrations(model, [demonstrations[i] for i in some], truth or operator)
        for some in np.split(order, [n_held])
    )
    stretch = Stretch(config.context, config.horizon)
    demos, demos_held = (
        demonstration_latents(model, some, stretch, config.imagined_every, config.latent_samples, generator)
        for some in (train, held)
    )
    n_play_held = round(config.held_out * config.play_segments)
    play_train, play_held = (
        play_latents(model, play, segments, stretch, rng, truth)
        for segments in (config.play_segments - n_play_held, n_play_held)
    )
    return RewardData(demos, demos_held, play_train, play_held, held)


class ItemBank:
    """The items of one run, or of R runs one behind the other, from which batches of both classes are drawn."""

    def __init__(self, items: Sequence[Items]):
        self.features = torch.cat([each.features for each in items])
        labels, sizes = [each.labels for each in items], [len(each.labels) for each in items]
        first = np.cumsum([0, *sizes])
        of_class = {
            label: [(own == label).nonzero()[:, 0] + int(start) for own, start in zip(labels, first, strict=False)]
            for label in (POSITIVE, NEGATIVE)
        }
        for positive, negative in zip(of_class[POSITIVE], of_class[NEGATIVE], strict=True):
            if not len(positive) or not len(negative):
                raise DiwaError(
                    f"demonstrations give {len(positive)} successes and {len(negative)} failures, both are needed: "
                    "mark success at least 2 s after the start and hold still for 1 s after it"
                )
        self._rows = {label: pad_sequence(found, batch_first=True) for label, found in of_class.items()}
        self._sizes = {
            label: torch.tensor([len(each) for each in found], device=self.features.device)
            for label, found in of_class.items()
        }

    def draw(self, label: int, draws: Streams, batches: int, count: int) -> Tensor:
        """(..., batches, count) rows of `features` with this label, with replacement."""
        size = self._sizes[label].view(*draws.leading, 1)
        drawn = (draws.uniform(batches * count) * size).long().clamp_max(size - 1)
        table = self._rows[label] if draws.leading else self._rows[label][0]
        return table.gather(-1, drawn).unflatten(-1, (batches, count))


def train_epochs(
    group: Sequence[Member],
    name: str,
    net: RewardClassifier,
    adam: torch.optim.Optimizer,
    items: ItemBank,
    draws: Streams,
    batches: int,
    until: int,
) -> None:
    """Train `net` on items until the epoch `until` of the group; batches hold `positive_share` of successes."""
    config: RewardConfig = group[0].run.config
    n_positive = round(config.batch_size * config.positive_share)
    labels = torch.zeros(*draws.leading, config.batch_size, dtype=torch.int64, device=draws.device)
    labels[..., :n_positive] = POSITIVE

    def learn(features: Tensor) -> Tensor:
        loss = net.loss(features, labels, config.temperature)
        step(adam, loss)
        return loss.detach()

    captured = CapturedEach(learn)
    for epoch in lockstep(group, until, "epochs"):
        positive = items.draw(POSITIVE, draws, batches, n_positive)
        negative = items.draw(NEGATIVE, draws, batches, config.batch_size - n_positive)
        total = torch.zeros(draws.leading, device=draws.device)
        for chosen in torch.cat([positive, negative], dim=-1).unbind(-2):
            total += captured(items.features[chosen]) / batches
        for member, value in zip(group, total.reshape(-1).cpu(), strict=True):
            member.run.require_finite(name, value)
            member.run.log(epoch, {name: value})
