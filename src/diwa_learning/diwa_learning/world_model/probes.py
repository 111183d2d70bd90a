"""Probes: small networks that read the simulator's state from what a world model knows of a frame. Diagnosis only.

They say where furniture, lamps, objects and the hand are lost: on the way into the embedding, from there into the model
state, or in imagination. Nothing that is trained or deployed sees them, or the state that they read.

Places: `embedding`, of the frame; `filtered`, features of the model state that has seen every frame so far;
`imagined_K`, features imagined for K steps under the recorded actions, after a few frames seen. Each place has a probe
of its own, imagination one for all K, which learns from what it is judged on: what cannot be read is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from diwa_data.dataset.dataset import Episode
from diwa_data.spec import Spec
from diwa_learning.world_model.latents import Clips, Segment, embed_clips, filtered_states, imagined_states
from diwa_learning.world_model.model import POSITION, WorldModel
from diwa_learning.world_model.rssm import gumbel

WIDTH = 256
EPOCHS, BATCH, LEARNING_RATE = 30, 256, 1e-3
STD_FLOOR = 0.3
"""Least spread by which a feature is divided: classes that are hardly ever drawn stay small."""
_PLACE = re.compile(r"(.+)_[xyz]")
_ROTATION = re.compile(r".+_(?:q[xyzw]|r[xyz])")


@dataclass(frozen=True)
class Quantity:
    """Something in the scene that a probe reads: a length, an angle, a lamp or a place."""

    name: str
    columns: tuple[int, ...]
    """Columns of the truth: one number, or the three coordinates of a place."""
    half: float | None
    """Halfway between the values of what has two, as a lamp; None of anything else."""


def truth_names(spec: Spec) -> tuple[str, ...]:
    """Names of the Q numbers that are read: the hand's position and the scene state."""
    return ("hand_x", "hand_y", "hand_z", *spec.scene_state)


def truth_of(segment: Segment) -> np.ndarray:
    """(T, Q) numbers by `truth_names`; the episode must have a scene state."""
    episode, frames = segment.episode, slice(segment.start, segment.stop)
    assert episode.scene_state is not None, f"episode {episode.name} has no scene state"
    return np.concatenate([episode.state[frames, POSITION], episode.scene_state[frames]], 1).astype(np.float32)


def quantities(names: Sequence[str], truth: Tensor) -> list[Quantity]:
    """The quantities among Q numbers of N frames (N, Q); those that never change are left out, as rotations are."""
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        if not _ROTATION.fullmatch(name):
            place = _PLACE.fullmatch(name)
            columns.setdefault(place[1] if place else name, []).append(column)
    found = []
    for name, mine in columns.items():
        values = [truth[:, column].unique() for column in mine]
        if max(map(len, values)) > 1:
            is_lamp = len(mine) == 1 and len(values[0]) == 2
            found.append(Quantity(name, tuple(mine), float(values[0].mean()) if is_lamp else None))
    return found


@dataclass(frozen=True)
class Look:
    """N looks at frames of recordings, all from one place."""

    features: Tensor
    """(N, F)."""
    truth: Tensor
    """(N, Q)."""
    segment: Tensor
    """(N,) number of the segment that the frame is of."""

    def __len__(self) -> int:
        return len(self.truth)

    def where(self, rows: Tensor) -> Look:
        """The looks at these rows, a mask or indices."""
        return Look(self.features[rows], self.truth[rows], self.segment[rows])

    def some(self, count: int, rng: torch.Generator) -> Look:
        """At most `count` of them, at random."""
        return self.where(torch.randperm(len(self), generator=rng)[:count])

    @classmethod
    def join(cls, looks: Iterable[Look]) -> Look:
        """All of them, one after the other."""
        parts = zip(*((look.features, look.truth, look.segment) for look in looks), strict=True)
        return cls(*map(torch.cat, parts))


def pieces(episodes: Sequence[Episode], length: int, most: int) -> list[Segment]:
    """Episodes in pieces of `length` frames, at most `most` of them, spread evenly; short ends are left out."""
    shortest = min(length // 2, min(map(len, episodes)))
    starts = [(episode, start) for episode in episodes for start in range(0, len(episode), length)]
    found = [Segment(episode, start, min(start + length, len(episode))) for episode, start in starts]
    found = [piece for piece in found if len(piece) >= shortest]
    return [found[number] for number in np.unique(np.linspace(0, len(found) - 1, most).round().astype(int))]


def look_at(
    model: WorldModel,
    segments: Sequence[Segment],
    context: int,
    steps: Sequence[int],
    every: int,
    rng: torch.Generator,
    advance: Callable[[int], object] = lambda count: None,
    group: int = 8,
) -> dict[str, Look]:
    """Looks at all frames of `segments`, by place; imagination starts after `context` frames, every so many frames.

    No `imagined_K` where no segment is long enough. `advance` is told of so many segments done.
    """
    found: dict[str, list[Look]] = {}
    for first in range(0, len(segments), group):
        some = segments[first : first + group]
        for place, look in _look_at(model, some, context, steps, every, rng).items():
            found.setdefault(place, []).append(Look(look.features, look.truth, look.segment + first))
        advance(len(some))
    return {place: Look.join(looks) for place, looks in found.items()}


def _look_at(
    model: WorldModel, segments: Sequence[Segment], context: int, steps: Sequence[int], every: int, rng: torch.Generator
) -> dict[str, Look]:
    clips = embed_clips(model, segments)
    count, length = clips.valid.shape
    truth = torch.zeros(count, length, len(truth_names(model.spec)))
    for row, segment in zip(truth, segments, strict=True):
        row[: len(segment)] = torch.from_numpy(truth_of(segment))
    number = torch.arange(count)[:, None].expand(count, length)
    valid = clips.valid.cpu()

    def look(features: Tensor) -> Look:
        return Look(features.cpu()[valid], truth[valid], number[valid])

    filtered = filtered_states(model, clips, noise(model, clips, rng)).features
    found = {"embedding": look(model.rssm.inputs(clips.embeds)), "filtered": look(filtered)}
    starts = [(n, s) for n, each in enumerate(segments) for s in range(0, len(each) - context - min(steps) + 1, every)]
    if starts:
        rows, begin = (torch.tensor(column) for column in zip(*starts, strict=True))
        cut = clips.cut(rows.tolist(), begin.tolist(), context + max(steps))
        imagined = imagined_states(model, cut, noise(model, cut, rng), context).features.cpu()
        for step in steps:
            frame = context - 1 + step
            inside = cut.valid[:, frame].cpu()
            if inside.any():
                at = begin[inside] + frame
                features = imagined[inside, frame]
                found[f"imagined_{step}"] = Look(features, truth[rows[inside], at], rows[inside])
    return found


def noise(model: WorldModel, clips: Clips, rng: torch.Generator) -> Tensor:
    """(N, T, C, K) Gumbel noise for clips (N, T)."""
    sizes = model.config.rssm
    return gumbel(*clips.valid.shape, sizes.categoricals, sizes.classes, device=model.device, rng=rng)


@dataclass(frozen=True)
class Probe:
    """A network of two hidden layers that reads Q standardised numbers from standardised features."""

    network: nn.Module
    mean: Tensor
    std: Tensor
    truth_mean: Tensor
    truth_std: Tensor

    @torch.no_grad()
    def read(self, features: Tensor) -> Tensor:
        """Features (N, F) -> numbers (N, Q) in their own units."""
        return self.network((features - self.mean) / self.std) * self.truth_std + self.truth_mean


def fit_probe(looks: Look, seed: int, advance: Callable[[], object] = lambda: None) -> Probe:
    """A probe of these looks: Adam on the mean squared error; `advance` is told of each of the `EPOCHS`.

    Torch's own generator stays as it was.
    """
    mean, std = looks.features.mean(0), looks.features.std(0).clamp_min(STD_FLOOR)
    truth_mean, truth_std = looks.truth.mean(0), looks.truth.std(0).clamp_min(1e-6)
    inputs, targets = (looks.features - mean) / std, (looks.truth - truth_mean) / truth_std
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, second = nn.Linear(inputs.shape[1], WIDTH), nn.Linear(WIDTH, WIDTH)
        last = nn.Linear(WIDTH, targets.shape[1])
        network = nn.Sequential(first, nn.ELU(), second, nn.ELU(), last)
        optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
        batches = -(-len(inputs) // BATCH)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * batches)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(inputs)).split(BATCH):
                loss = (network(inputs[rows]) - targets[rows]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            advance()
    return Probe(network.eval().requires_grad_(False), mean, std, truth_mean, truth_std)


@dataclass(frozen=True)
class Score:
    """How well a quantity was read from one place."""

    r2: float
    """1 - mean squared error / variance over the frames that the probe learned from: what does not change in the few
    frames that are judged has no variance of its own to be held against."""
    error: float
    """Mean absolute error, of a place the mean distance, in its own unit."""
    right: float | None
    """Share of frames in which a lamp is read right; None for anything else."""


def score(read: Tensor, truth: Tensor, quantity: Quantity, probe: Probe) -> Score:
    """Score the readings (N, Q) of a probe."""
    mine = list(quantity.columns)
    difference = read[:, mine] - truth[:, mine]
    r2 = 1.0 - difference.square().sum(1).mean() / probe.truth_std[mine].square().sum()
    right = None
    if quantity.half is not None:
        right = float(((read[:, mine] > quantity.half) == (truth[:, mine] > quantity.half)).float().mean())
    return Score(float(r2), float(difference.norm(dim=1).mean()), right)
