"""Model states of recorded frames: filtered, imagined open loop, or from a single frame.

The one place where trainers turn recordings into features. Filtering starts from the zero state and the null
action at a clip's first frame, as deployment does; z is always sampled, from noise that is passed in or drawn
from a given generator, so that the same seed gives the same features. N clips, T frames, E embedding size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.replay import model_state
from diwa_learning.world_model.rssm import RSSM, State, shift_actions

C = TypeVar("C", bound="Clips")


@dataclass(frozen=True)
class Part:
    """Frames `start` to `stop` (exclusive) of an episode."""

    episode: Episode
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Clips:
    """N parts of recordings as the world model takes them, padded with zeros to T frames."""

    embeds: Tensor
    """(N, T, E) of the frames."""
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


def whole(episode: Episode) -> Part:
    """All frames of an episode."""
    return Part(episode, 0, len(episode))


def gumbel_noise(rssm: RSSM, *leading: int, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise (*leading, C, K) for samples of z; drawn on the CPU, so that a seed means one thing."""
    shape = (*leading, rssm.config.categoricals, rssm.config.classes)
    return (-torch.empty(shape).exponential_(generator=generator).log_()).to(rssm.action_in.weight.device)


def embed_clips(model: WorldModel, parts: Sequence[Part]) -> Clips:
    """Embed and pad parts of recordings; none may be empty. Frames that several parts share are embedded once."""
    if not parts:
        raise DiwaError("no recorded frames to encode: the dataset has no episode that is long enough")
    length = max(part.length for part in parts)
    embeds = torch.zeros(len(parts), length, model.embed_dim, device=model.device)
    actions = torch.zeros(len(parts), length, model.rssm.action_dim, device=model.device)
    valid = torch.zeros(len(parts), length, dtype=torch.bool, device=model.device)
    of_episode: dict[Episode, list[int]] = defaultdict(list)
    for n, part in enumerate(parts):
        actions[n, : part.length] = torch.from_numpy(np.asarray(part.episode.action[part.start : part.stop]))
        valid[n, : part.length] = True
        of_episode[part.episode].append(n)
    for episode, rows in of_episode.items():
        seen = np.concatenate([np.arange(parts[n].start, parts[n].stop) for n in rows])
        frames, where = np.unique(seen, return_inverse=True)
        found = embed_frames(model, episode, frames)[torch.from_numpy(where).to(model.device)]
        for n, embed in zip(rows, found.split([parts[n].length for n in rows]), strict=True):
            embeds[n, : len(embed)] = embed
    return Clips(embeds, actions, valid)


@torch.no_grad()
def embed_frames(model: WorldModel, episode: Episode, frames: np.ndarray, batch: int = 128) -> Tensor:
    """Embeddings (N, E) of the frames of an episode with these indices (N,), `batch` at a time."""
    states = model_state(episode.state, episode.scene_state, model.config.scene_state)
    targets = episode.target_position(model.spec.action)
    embeds = []
    for first in range(0, len(frames), batch):
        some = frames[first : first + batch]
        pixels = {name: torch.from_numpy(images[some]).to(model.device) for name, images in episode.images.items()}
        state, target = (torch.from_numpy(each[some]).to(model.device) for each in (states, targets))
        embeds.append(model.embed(pixels, state, target))
    return torch.cat(embeds)


@torch.no_grad()
def filtered_states(model: WorldModel, clips: Clips, noise: Tensor) -> State:
    """Posterior states (N, T, ...) from the zero state; `noise` (N, T, C, K) from `gumbel_noise`."""
    previous = shift_actions(clips.actions, model.null_action)
    reset = torch.zeros_like(clips.valid)
    return model.rssm.observe(clips.embeds, previous, reset, noise).states


@torch.no_grad()
def last_states(model: WorldModel, parts: Sequence[Part], noise: Tensor, batch: int = 256) -> State:
    """Posterior states (N, ...) of the last frame of each part, filtered from its first; noise (N, T, C, K)."""
    found = []
    clips = embed_clips(model, parts)
    for group, drawn in zip(clips.split(batch), noise[:, : clips.valid.shape[1]].split(batch), strict=True):
        states = filtered_states(model, group, drawn)
        found.append(states[torch.arange(len(group.valid)), group.valid.sum(1) - 1])
    return State.cat(found)


@torch.no_grad()
def imagined_states(model: WorldModel, clips: Clips, noise: Tensor, context: int = 1) -> State:
    """States (N, T, ...) under the recorded actions when `context` frames are seen; noise as `filtered_states`.

    Up to index context - 1 filtered, as deployment begins; index t above it is the state imagined for frame t.
    """
    length = clips.valid.shape[1]
    context = min(context, length)
    seen = Clips(clips.embeds[:, :context], clips.actions[:, :context], clips.valid[:, :context])
    states = filtered_states(model, seen, noise[:, :context])
    if context == length:
        return states
    later = model.rssm.imagine(states[:, -1], clips.actions[:, context - 1 : -1], noise[:, context:])
    return State.cat([states, later], dim=1)


def draw_stretches(episodes: Sequence[Episode], count: int, length: int, rng: np.random.Generator) -> list[Part]:
    """`count` stretches of `length` frames (shorter where an episode is), starting anywhere with equal chance."""
    room = np.array([max(1, len(episode) - length + 1) for episode in episodes])
    parts = []
    for which in rng.choice(len(episodes), size=count, p=room / room.sum()):
        start = int(rng.integers(room[which]))
        parts.append(Part(episodes[which], start, min(start + length, len(episodes[which]))))
    return parts
