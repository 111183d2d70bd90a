"""Model states of frames: recorded ones, filtered or imagined open loop, and those of robots, filtered tick by tick.

The one place where trainers turn recordings into features; deployment, evaluation and DPPO filter by the same step.
Filtering starts from the zero state and the null action; z is always sampled, from noise that is passed in, so that
the same seed gives the same features. N clips or robots, T frames, E embedding size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.replay import model_state
from diwa_learning.world_model.rssm import State, shift_actions

C = TypeVar("C", bound="Clips")


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop` (exclusive) of an episode."""

    episode: Episode
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Clips:
    """N segments of recordings as the world model takes them, padded with zeros to T frames."""

    embeds: Tensor
    """(N, T, E) embeddings of the frames."""
    actions: Tensor
    """(N, T, A) executed from each frame to the next; the last of a clip leads out of it."""
    valid: Tensor
    """(N, T) bool: false where padded."""

    def split(self: C, size: int) -> Iterator[C]:
        """Groups of at most `size` clips: bounds the memory of what is computed from them."""
        groups = (part.split(size) for part in vars(self).values())
        yield from (type(self)(*group) for group in zip(*groups, strict=True))

    def cut(self: C, clips: Sequence[int], starts: Sequence[int], length: int) -> C:
        """Pieces of at most `length` frames: piece i begins at frame `starts[i]` of clip `clips[i]`."""
        device, last = self.valid.device, self.valid.shape[1] - 1
        rows = torch.tensor(clips, device=device)[:, None]
        frames = torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)
        pieces = type(self)(*(part[rows, frames.clamp_max(last)] for part in vars(self).values()))
        return replace(pieces, valid=pieces.valid & (frames <= last))


def whole(episode: Episode) -> Segment:
    """All frames of an episode."""
    return Segment(episode, 0, len(episode))


def draw_segments(episodes: Sequence[Episode], count: int, length: int, rng: np.random.Generator) -> list[Segment]:
    """`count` segments of `length` frames (shorter where an episode is), starting anywhere with equal chance."""
    room = np.array([max(1, len(episode) - length + 1) for episode in episodes])
    segments = []
    for which in rng.choice(len(episodes), size=count, p=room / room.sum()):
        start = int(rng.integers(room[which]))
        segments.append(Segment(episodes[which], start, min(start + length, len(episodes[which]))))
    return segments


def embed_clips(model: WorldModel, segments: Sequence[Segment]) -> Clips:
    """Embed and pad segments of recordings; none may be empty. Frames that several share are embedded once."""
    if not segments:
        raise DiwaError("no recorded frames to encode: the dataset has no episode that is long enough")
    shape, device = (len(segments), max(map(len, segments))), model.device
    embeds = torch.zeros(*shape, model.embed_dim, device=device)
    actions = torch.zeros(*shape, model.rssm.action_dim, device=device)
    valid = torch.zeros(shape, dtype=torch.bool, device=device)
    of_episode: dict[Episode, list[int]] = defaultdict(list)
    for n, segment in enumerate(segments):
        actions[n, : len(segment)] = torch.from_numpy(np.asarray(segment.episode.action[segment.start : segment.stop]))
        valid[n, : len(segment)] = True
        of_episode[segment.episode].append(n)
    for episode, rows in of_episode.items():
        frames = np.unique(np.concatenate([np.arange(segments[n].start, segments[n].stop) for n in rows]))
        found = embed_frames(model, episode, frames)
        for n in rows:
            first = int(np.searchsorted(frames, segments[n].start))
            embeds[n, : len(segments[n])] = found[first : first + len(segments[n])]
    return Clips(embeds, actions, valid)


@torch.no_grad()
def embed_frames(model: WorldModel, episode: Episode, frames: np.ndarray, batch: int = 128) -> Tensor:
    """Embeddings (N, E) of the frames of an episode with these indices (N,), `batch` at a time."""
    states = model_state(episode.state, episode.scene_state, model.config.scene_state)
    targets = episode.targets(model.spec.action)
    embeds = []
    for first in range(0, len(frames), batch):
        some = frames[first : first + batch]
        pixels = {name: torch.from_numpy(images[some]).to(model.device) for name, images in episode.images.items()}
        state, target = (torch.from_numpy(each[some]).to(model.device) for each in (states, targets))
        embeds.append(model.embed(pixels, state, target))
    return torch.cat(embeds)


@torch.no_grad()
def filtered_states(model: WorldModel, clips: Clips, noise: Tensor) -> State:
    """Posterior states (N, T, ...) from the zero state; noise (N, T, C, K) Gumbel."""
    previous = shift_actions(clips.actions, model.null_action)
    return model.rssm.observe(clips.embeds, previous, torch.zeros_like(clips.valid), noise).states


@torch.no_grad()
def last_states(model: WorldModel, segments: Sequence[Segment], noise: Tensor, batch: int = 256) -> State:
    """Posterior states (N, ...) of the last frame of each segment, filtered from its first; noise (N, T, C, K)."""
    found = []
    clips = embed_clips(model, segments)
    for group, drawn in zip(clips.split(batch), noise[:, : clips.valid.shape[1]].split(batch), strict=True):
        states = filtered_states(model, group, drawn)
        found.append(states[torch.arange(len(group.valid)), group.valid.sum(1) - 1])
    return State.cat(found)


@torch.no_grad()
def imagined_states(model: WorldModel, clips: Clips, noise: Tensor, context: int = 1) -> State:
    """States (N, T, ...) under the recorded actions when `context` frames are seen; noise as `filtered_states`.

    Up to index context - 1 filtered, as deployment begins; index t above it is the state imagined for frame t.
    """
    seen = Clips(*(part[:, :context] for part in (clips.embeds, clips.actions, clips.valid)))
    states = filtered_states(model, seen, noise[:, :context])
    if context >= clips.valid.shape[1]:
        return states
    later = model.rssm.imagine(states[:, -1], clips.actions[:, context - 1 : -1], noise[:, context:])
    return State.cat([states, later], dim=1)


@torch.no_grad()
def filter_frame(
    model: WorldModel,
    before: State,
    images: Mapping[str, Tensor],
    model_state: Tensor,
    target: Tensor,
    executed: Tensor,
    noise: Tensor,
) -> tuple[State, Tensor]:
    """Take in frames of N robots, camera -> (N, H, W, 3), after the state `before` (N, ...), at first the zero state.

    Returns the state and the frames' embeddings (N, E). Beside the frames stand the `model_state` (N, S) and the
    published `target` (N, 9), to which `executed` (N, A) led, at first the null action: as in recordings. noise
    (N, C, K) Gumbel.
    """
    embeds = model.embed(images, model_state, target)
    return model.rssm.filter(before, executed, embeds, noise), embeds
