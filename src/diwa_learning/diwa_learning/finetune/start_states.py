"""Where dreams start: recorded frames, filtered by the world model (docs/method.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_learning.reward.classifier import SuccessClassifier
from diwa_learning.world_model.latents import Segment, last_states
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import State


@dataclass(frozen=True)
class StartConfig:
    """Which recorded frames dreams start from."""

    count: int = 2000
    """Start states encoded before training."""
    context: int = 1
    """Frames filtered for each, the start's own included; with 1 they are single frames, as deployment begins."""
    first_share: float = 0.5
    """Share taken from the first `first_frames` frames of demonstrations: where deployment starts."""
    first_frames: int = 4
    """How many frames of a demonstration count as its first; the earliest is the one that has its context."""
    play_share: float = 0.1
    """Share taken from frames of play; the rest are any frames of demonstrations."""


def start_states(
    model: WorldModel,
    classifier: SuccessClassifier,
    demonstrations: Sequence[Episode],
    play: Sequence[Episode],
    config: StartConfig,
    seed: int,
) -> State:
    """Frames of demonstrations and play, filtered from the zero state; those already a success are dropped.

    The share for play falls to demonstrations when there is none.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    n_first = round(config.count * config.first_share)
    n_play = round(config.count * config.play_share) if play else 0
    frames = [
        *draw_frames(demonstrations, n_first, rng, config.context - 1, config.context - 1 + config.first_frames),
        *draw_frames(play, n_play, rng),
        *draw_frames(demonstrations, config.count - n_first - n_play, rng),
    ]
    parts = [Segment(episode, max(0, index + 1 - config.context), index + 1) for episode, index in frames]
    noise = model.rssm.noise(len(parts), config.context, rng=generator)
    states = last_states(model, parts, noise)
    with torch.no_grad():
        keep = ~classifier.is_success(classifier.probability(states.features))
    if not keep.any():
        raise DiwaError(
            f"the classifier calls all {len(frames)} start frames a success: train it longer, or on more demonstrations"
        )
    return states[keep]


def draw_frames(
    episodes: Sequence[Episode], count: int, rng: np.random.Generator, first: int = 0, stop: int | None = None
) -> list[tuple[Episode, int]]:
    """`count` random (episode, frame), evenly over all, or over those from `first` to `stop` (exclusive) of each."""
    lengths = np.array([max(0, min(len(e) if stop is None else stop, len(e)) - first) for e in episodes])
    if count == 0 or lengths.sum() == 0:
        return []
    flat = rng.integers(lengths.sum(), size=count)
    which = np.searchsorted(np.cumsum(lengths), flat, side="right")
    index = flat - (np.cumsum(lengths) - lengths)[which] + first
    return [(episodes[w], int(t)) for w, t in zip(which, index, strict=True)]
