"""Data of the success classifier: labelled latents of demonstrations and play, filtered and imagined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diwa_data.dataset.dataset import Episode
from diwa_data.dataset.play_marks import PlayMarks, done_ticks
from diwa_data.errors import DiwaError
from diwa_learning.reward.classifier import (
    NEGATIVE,
    POSITIVE,
    UNUSED,
    RewardConfig,
    demonstration_labels,
    play_labels,
)
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
    recording: Tensor
    """(N, T) int64: number of the recording that a frame is from."""
    tick: Tensor
    """(N, T) int64: number of the frame in that recording."""


def label_clips(
    model: WorldModel, segments: Sequence[Segment], label: Callable[[Episode], np.ndarray], first: int = 0
) -> LabelledClips:
    """Embed segments of recordings, numbered from `first` on; `label` gives (T,) of an episode."""
    clips = embed_clips(model, segments)
    labels = torch.full_like(clips.valid, UNUSED, dtype=torch.int64)
    numbers = {each: number for number, each in enumerate(dict.fromkeys(each.episode for each in segments), first)}
    for row, segment in zip(labels, segments, strict=True):
        row[: len(segment)] = torch.from_numpy(label(segment.episode)[segment.start : segment.stop].astype(int))
    recording = torch.tensor([numbers[each.episode] for each in segments], device=labels.device)
    start = torch.tensor([each.start for each in segments], device=labels.device)
    tick = start[:, None] + torch.arange(labels.shape[1], device=labels.device)
    return LabelledClips(clips.embeds, clips.actions, clips.valid, labels, recording[:, None].expand_as(labels), tick)


@dataclass(frozen=True)
class Items:
    """M latents with labels, filtered ones before imagined ones."""

    features: Tensor
    """(M, F)."""
    labels: Tensor
    """(M,) int64."""
    imagined: Tensor
    """(M,) bool."""
    recording: Tensor
    """(M,) int64: number of the recording among those of demonstrations and failed attempts, or of play."""
    tick: Tensor
    """(M,) int64: number of the frame in the recording."""

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: Tensor) -> Items:
        """Those that a mask or an index (M,) chooses."""
        return Items(*(part[chosen] for part in vars(self).values()))

    def used(self) -> Items:
        """Those with a label."""
        return self.where(self.labels != UNUSED)

    @staticmethod
    def join(*items: Items) -> Items:
        """All of them."""
        joined = Items(*(torch.cat(same) for same in zip(*(vars(each).values() for each in items), strict=True)))
        return joined.where(joined.imagined.int().argsort(stable=True))


def collect(
    model: WorldModel, clips: LabelledClips, generator: torch.Generator, context: int | None = None, samples: int = 1
) -> Items:
    """Latents of all frames, `samples` times with fresh noise.

    Filtered, or imagined after 1 to `context` frames, a number drawn for each group of clips.
    """
    features, length = [], clips.valid.shape[1]
    for group in list(clips.split(GROUP)) * samples:
        noise = model.rssm.noise(*group.valid.shape, rng=generator)
        seen = int(torch.randint(1, context + 1, (), generator=generator)) if context else length
        features.append(imagined_states(model, group, noise, seen).features[group.valid])
    labels, recording, tick = (
        part[clips.valid].repeat(samples) for part in (clips.labels, clips.recording, clips.tick)
    )
    return Items(torch.cat(features), labels, torch.full_like(labels, bool(context), dtype=torch.bool), recording, tick)


def demonstration_items(
    model: WorldModel, demos: LabelledClips, config: RewardConfig, generator: torch.Generator
) -> Items:
    """Latents of demonstrations: filtered, and imagined from every `imagined_every`-th frame."""
    lengths = demos.valid.sum(1).tolist()
    origins = [(n, start) for n, length in enumerate(lengths) for start in range(0, length - 1, config.imagined_every)]
    rows, starts = [n for n, _ in origins], [start for _, start in origins]
    pieces = demos.cut(rows, starts, config.context + config.horizon)
    filtered = collect(model, demos, generator, samples=config.latent_samples)
    return Items.join(filtered, collect(model, pieces, generator, config.context, config.latent_samples))


def play_items(model: WorldModel, clips: LabelledClips, config: RewardConfig, generator: torch.Generator) -> Items:
    """Latents of segments of play, filtered and imagined over the same frames, in the same order."""
    contexts = (None, config.context)
    return Items.join(*(collect(model, group, generator, c) for group in clips.split(GROUP) for c in contexts))


def frame_items(model: WorldModel, clips: LabelledClips) -> Items:
    """Items of a frame classifier: the images of single frames (`WorldModel.pictures`)."""
    labels, recording, tick = (part[clips.valid] for part in (clips.labels, clips.recording, clips.tick))
    imagined = torch.zeros_like(labels, dtype=torch.bool)
    return Items(model.pictures(clips.embeds[clips.valid]), labels, imagined, recording, tick)


@dataclass(frozen=True)
class RewardData:
    """Latents for training and held-out ones; frames whose label nobody knows are still `UNUSED`."""

    demos: Items
    """Latents of demonstrations and failed attempts."""
    demos_held: Items
    play: Items | None
    play_held: Items | None
    held: LabelledClips
    """The held-out demonstrations whole."""
    failed_held: LabelledClips | None
    """The held-out failed attempts."""
    play_clips_held: LabelledClips | None
    """The clips of `play_held`."""
    frames: Items
    """Frames of the demonstrations and failed attempts that are trained on, without any memory."""
    frames_held: Items
    frames_play: Items | None
    """Frames of play whose label is known."""


def make_data(
    model: WorldModel,
    demonstrations: Sequence[Episode],
    play: Sequence[Episode],
    config: RewardConfig,
    truth: Truth | None = None,
    skill: str = "",
    marks: PlayMarks | None = None,
) -> RewardData:
    """Encode everything, with some demonstrations, failed attempts and recordings of play held out.

    `marks` say when the skill is done in play.
    """
    failed = [episode for episode in demonstrations if episode.outcome == "fail"]
    unmarked = [e.name for e in demonstrations if e.outcome != "fail" and not e.success.any()]
    if unmarked:
        print(f"reward: left out, without a success mark: demonstrations {', '.join(unmarked)}")
    demonstrations = [episode for episode in demonstrations if episode.outcome != "fail" and episode.success.any()]
    if len(demonstrations) < 2:
        raise DiwaError(
            "the reward needs two or more demonstrations with a success mark, because one is held out to choose the "
            f"threshold; there are {len(demonstrations)}: mark success while recording"
        )
    rng, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)

    def clips(segments: Sequence[Segment], label: Truth, first: int = 0) -> LabelledClips | None:
        return label_clips(model, segments, truth or label, first) if segments else None

    def items(some: LabelledClips | None) -> list[Items]:
        return [] if some is None else [demonstration_items(model, some, config, generator)]

    def frames(*some: LabelledClips | None) -> Items:
        return Items.join(*(frame_items(model, each) for each in some if each))

    def marked(episode: Episode) -> np.ndarray:
        return demonstration_labels(episode, model.spec.rate, config.margin)

    def known(episode: Episode) -> np.ndarray:
        if marks and episode.name in marks:
            done = done_ticks(marks[episode.name], episode.received - episode.received[0])
            return np.where(done, POSITIVE, NEGATIVE)
        return play_labels(episode, skill, model.spec.rate, config.margin)

    held, train = (clips([*map(whole, some)], marked) for some in hold_out(demonstrations, config.held_out, rng))
    failed_held, failed_train = (
        clips([*map(whole, some)], marked, len(demonstrations)) for some in hold_out(failed, config.held_out, rng)
    )
    if failed:
        print(f"reward: {len(failed)} failed attempts are failures")
    play_held, play_train = (
        clips(draw_segments(some, count, config.context + config.horizon, rng) if some and count else [], known)
        for some, count in zip(hold_out(play, config.held_out, rng), play_segments(config), strict=True)
    )
    assert held is not None
    assert train is not None
    return RewardData(
        demos=Items.join(*items(train), *items(failed_train)),
        demos_held=Items.join(*items(held), *items(failed_held)),
        play=play_items(model, play_train, config, generator) if play_train else None,
        play_held=play_items(model, play_held, config, generator) if play_held else None,
        held=held,
        failed_held=failed_held,
        play_clips_held=play_held,
        frames=frames(train, failed_train),
        frames_held=frames(held, failed_held),
        frames_play=frames(play_train).used() if play_train else None,
    )


def play_segments(config: RewardConfig) -> tuple[int, int]:
    """How many segments of play are held out, and how many are trained on."""
    held = round(config.held_out * config.play_segments)
    return held, config.play_segments - held


def hold_out(episodes: Sequence[Episode], share: float, rng: np.random.Generator) -> list[list[Episode]]:
    """The held-out episodes, at least one of several, and the others; of a single one nothing is held out."""
    order = rng.permutation(len(episodes))
    count = max(0, min(max(1, round(share * len(order))), len(order) - 1))
    return [[episodes[i] for i in some] for some in np.split(order, [count])]
