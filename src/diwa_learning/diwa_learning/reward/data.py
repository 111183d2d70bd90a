"""Data of the success classifier: labelled latents of demonstrations and play, filtered and imagined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_learning.reward.classifier import NEGATIVE, UNUSED, RewardConfig, SuccessClassifier, demonstration_labels
from diwa_learning.world_model.latents import (
    Clips,
    Segment,
    draw_segments,
    embed_clips,
    imagined_states,
    whole,
)
from diwa_learning.world_model.model import WorldModel

GROUP = 64
"""Clips whose states are computed at a time."""

Truth = Callable[[Episode], np.ndarray]
"""Episode -> (T,) bool: frames in which the skill is done, where something better than an operator knows."""


@dataclass(frozen=True)
class LabelledClips(Clips):
    """Clips with a label for each frame."""

    labels: Tensor
    """(N, T) int64."""


def label_clips(
    model: WorldModel, segments: Sequence[Segment], label: Callable[[Episode], np.ndarray] | None
) -> LabelledClips:
    """Embed segments of recordings; `label` gives (T,) of an episode, without it all frames are `UNUSED`."""
    clips = embed_clips(model, segments)
    labels = torch.full_like(clips.valid, UNUSED, dtype=torch.int64)
    if label:
        for row, segment in zip(labels, segments, strict=True):
            row[: len(segment)] = torch.from_numpy(label(segment.episode)[segment.start : segment.stop].astype(int))
    return LabelledClips(clips.embeds, clips.actions, clips.valid, labels)


@dataclass(frozen=True)
class Items:
    """M labelled latents, filtered ones before imagined ones."""

    features: Tensor
    """(M, F)."""
    labels: Tensor
    """(M,) int64."""
    imagined: Tensor
    """(M,) bool."""

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: Tensor) -> Items:
        """Those that a mask or an index (M,) chooses."""
        return Items(self.features[chosen], self.labels[chosen], self.imagined[chosen])

    def used(self) -> Items:
        """Those with a label."""
        return self.where(self.labels != UNUSED)

    @staticmethod
    def join(*items: Items) -> Items:
        """All of them."""
        features, labels, imagined = (torch.cat(same) for same in zip(*(vars(i).values() for i in items), strict=True))
        return Items(features, labels, imagined).where(imagined.int().argsort(stable=True))


def collect(
    model: WorldModel, clips: LabelledClips, generator: torch.Generator, context: int | None = None, samples: int = 1
) -> Items:
    """Latents of all frames, `samples` times with fresh noise: filtered, or imagined after `context` frames."""
    features, length = [], clips.valid.shape[1]
    for group in list(clips.split(GROUP)) * samples:
        noise = model.rssm.noise(*group.valid.shape, rng=generator)
        features.append(imagined_states(model, group, noise, context or length).features[group.valid])
    labels = clips.labels[clips.valid].repeat(samples)
    return Items(torch.cat(features), labels, torch.full_like(labels, context is not None, dtype=torch.bool))


def demonstration_items(
    model: WorldModel, demos: LabelledClips, config: RewardConfig, generator: torch.Generator
) -> Items:
    """Labelled latents of demonstrations: filtered, and imagined from every `imagined_every`-th frame."""
    lengths = demos.valid.sum(1).tolist()
    origins = [(n, start) for n, length in enumerate(lengths) for start in range(0, length - 1, config.imagined_every)]
    rows, starts = [n for n, _ in origins], [start for _, start in origins]
    pieces = demos.cut(rows, starts, config.context + config.horizon)
    filtered = collect(model, demos, generator, samples=config.latent_samples)
    return Items.join(filtered, collect(model, pieces, generator, config.context, config.latent_samples)).used()


def play_items(
    model: WorldModel,
    episodes: Sequence[Episode],
    segments: int,
    config: RewardConfig,
    rng: np.random.Generator,
    truth: Truth | None = None,
) -> Items:
    """Latents of random segments of play, filtered and imagined over the same frames, in the same order.

    All labels are `UNUSED` unless `truth` knows them.
    """
    if not episodes or segments == 0:
        nothing = torch.zeros(0, dtype=torch.int64, device=model.device)
        return Items(torch.zeros(0, model.feature_dim, device=model.device), nothing, nothing.bool())
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    clips = label_clips(model, draw_segments(episodes, segments, config.context + config.horizon, rng), truth)
    contexts = (None, config.context)
    return Items.join(*(collect(model, group, generator, c) for group in clips.split(GROUP) for c in contexts))


@torch.no_grad()
def screen_play(play: Items, screen: SuccessClassifier, below: float) -> Items:
    """Negatives where `screen`, trained on demonstrations alone, scores the filtered frame less than `below`.

    The other frames are dropped: play contains open drawers. Labels that are known already stay.
    """
    if (play.labels != UNUSED).any():
        return play.used()
    negative = screen.probability(play.where(~play.imagined).features) < below
    return replace(play, labels=torch.where(negative, NEGATIVE, UNUSED).repeat(2)).used()


@dataclass(frozen=True)
class RewardData:
    """Latents for training and the held-out ones, demonstrations and play apart; play is not yet labelled."""

    demos: Items
    demos_held: Items
    play: Items
    play_held: Items
    held_out: Clips
    """The held-out demonstrations."""


def make_data(
    model: WorldModel,
    demonstrations: Sequence[Episode],
    play: Sequence[Episode],
    config: RewardConfig,
    truth: Truth | None = None,
) -> RewardData:
    """Encode everything, with some demonstrations, failed attempts and segments of play held out."""
    failed = [episode for episode in demonstrations if episode.outcome == "fail"]
    unmarked = [e.name for e in demonstrations if e.outcome != "fail" and not e.success.any()]
    if unmarked:
        print(f"reward: left out, no success mark in them: demonstrations {', '.join(unmarked)}")
    demonstrations = [episode for episode in demonstrations if episode.success.any()]
    if len(demonstrations) < 2:
        raise DiwaError(
            "the reward needs two or more demonstrations with a success mark, one is held out to choose the "
            f"threshold; there are {len(demonstrations)}: mark success while recording"
        )
    label = truth or (lambda episode: demonstration_labels(episode, model.spec.rate, config.margin))
    rng, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    held, train = (
        label_clips(model, list(map(whole, some)), label) for some in hold_out(demonstrations, config.held_out, rng)
    )
    demos, demos_held = (demonstration_items(model, clips, config, generator) for clips in (train, held))
    n_play_held = round(config.held_out * config.play_segments)
    play_train, play_held = (
        play_items(model, play, segments, config, rng, truth)
        for segments in (config.play_segments - n_play_held, n_play_held)
    )
    if failed:  # negatives, like the beginnings of demonstrations; drawn last, so that without them all is as before
        print(f"reward: {len(failed)} failed attempts are negatives")
        apart = [list(map(whole, some)) for some in hold_out(failed, config.held_out, rng)]
        failed_held, failed_train = (
            [demonstration_items(model, label_clips(model, some, label), config, generator)] if some else []
            for some in apart
        )
        demos, demos_held = Items.join(demos, *failed_train), Items.join(demos_held, *failed_held)
    return RewardData(demos, demos_held, play_train, play_held, held)


def hold_out(episodes: Sequence[Episode], share: float, rng: np.random.Generator) -> list[list[Episode]]:
    """The held-out episodes, at least one of several, and the others, which are at least one."""
    order = rng.permutation(len(episodes))
    count = min(max(1, round(share * len(order))), len(order) - 1)
    return [[episodes[i] for i in some] for some in np.split(order, [count])]
