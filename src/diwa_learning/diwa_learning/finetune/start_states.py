"""Where dreams start: short segments of recordings, filtered by the world model (docs/method.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from diwa_data.config import require_at_least
from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_learning.reward.classifier import SuccessClassifier
from diwa_learning.world_model.latents import Segment, last_states
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import State


@dataclass(frozen=True)
class StartConfig:
    """Choice of the recorded segments after which dreams start."""

    count: int = 2000
    """Number of start states to encode before training."""
    context: int = 8
    """Most frames in a segment; all lengths from 1 on are equally likely.
    Deployment begins with a single frame, and its filter has soon seen more."""
    first_share: float = 0.5
    """Share of dreams that begin within the first `first_frames` frames of a demonstration, as deployment does."""
    first_frames: int = 4
    """Number of frames of a demonstration that count as its first."""
    play_share: float = 0.1
    """Share of dreams that begin in play; the rest begin at any frame of a demonstration."""
    chain_share: float = 0.0
    """Share of dreams that begin in play with the hand where demonstrations began.
    These are the scenes that a skill meets when it follows another."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "count", "context", "first_frames")
        shares = (self.first_share, self.play_share, self.chain_share)
        if not all(share >= 0 for share in shares) or sum(shares) > 1 + 1e-9:
            raise DiwaError(f"shares of starts are {', '.join(map(str, shares))}: they must be 0 or more, together 1")


def start_states(
    model: WorldModel,
    classifier: SuccessClassifier,
    demonstrations: Sequence[Episode],
    play: Sequence[Episode],
    config: StartConfig,
    seed: int,
) -> State:
    """States after segments of demonstrations and play, each filtered from the zero state.

    Those of which the classifier is sure are dropped. The shares for play fall to demonstrations when there is none.
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    n_first = round(config.count * config.first_share)
    n_play = round(config.count * config.play_share) if play else 0
    first = draw_frames(demonstrations, n_first, rng, config.first_frames)
    chain = draw_chain_frames(play, demonstrations, round(config.count * config.chain_share), rng)
    n_rest = config.count - n_first - n_play - len(chain)
    last = [*draw_frames(play, n_play, rng), *draw_frames(demonstrations, n_rest, rng)]
    first += chain
    lengths = iter(rng.integers(1, config.context, size=len(first) + len(last), endpoint=True).tolist())
    parts = [
        *(Segment(episode, t, min(t + next(lengths), len(episode))) for episode, t in first),
        *(Segment(episode, max(0, t + 1 - next(lengths)), t + 1) for episode, t in last),
    ]
    noise = model.rssm.noise(len(parts), config.context, rng=generator)
    states = last_states(model, parts, noise)
    with torch.no_grad():
        keep = ~classifier.is_success(classifier.probability(states.features))
    if not keep.any():
        raise DiwaError(
            f"the classifier calls all {len(parts)} start frames a success: train it longer, or on more demonstrations"
        )
    return states[keep]


def draw_frames(
    episodes: Sequence[Episode], count: int, rng: np.random.Generator, stop: int | None = None
) -> list[tuple[Episode, int]]:
    """`count` random (episode, frame), evenly over all frames, or over those before `stop` of each."""
    lengths = np.array([len(e) if stop is None else min(stop, len(e)) for e in episodes])
    if count == 0 or lengths.sum() == 0:
        return []
    flat = rng.integers(lengths.sum(), size=count)
    which = np.searchsorted(np.cumsum(lengths), flat, side="right")
    index = flat - (np.cumsum(lengths) - lengths)[which]
    return [(episodes[w], int(t)) for w, t in zip(which, index, strict=True)]


def draw_chain_frames(
    play: Sequence[Episode], demonstrations: Sequence[Episode], count: int, rng: np.random.Generator
) -> list[tuple[Episode, int]]:
    """`count` random (episode, frame) of play in which the hand is in the box of the demonstrations' first positions.

    None if there is no such frame. No label says what was done before: play is one skill after the other, so that
    all scenes are in it which skills leave; a hand above the table is what a move to the start makes of any other.
    """
    if count == 0 or not play:
        return []
    begun = np.array([episode.state[0, :3] for episode in demonstrations])
    low, high = begun.min(axis=0), begun.max(axis=0)
    inside = [((e.state[:, :3] >= low) & (e.state[:, :3] <= high)).all(axis=1) for e in play]  # (T,) each
    frames = [(e, int(t)) for e, within in zip(play, inside, strict=True) for t in np.flatnonzero(within)]
    return [frames[i] for i in rng.integers(len(frames), size=count)] if frames else []
