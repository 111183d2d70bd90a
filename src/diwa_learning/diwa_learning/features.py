"""Model states of recorded frames: filtered, imagined open loop, or from a single frame.

The one place where trainers turn recordings into features. Filtering starts from the zero state and the null
action at a clip's first frame, as deployment does; z is always sampled, from noise that is passed in or drawn
from a given generator, so that the same seed gives the same features. N clips, T frames, E embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diwa_data.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_learning.rssm import RSSM, State, shift_actions
from diwa_learning.sequences import model_state
from diwa_learning.world_model import WorldModel


@dataclass(frozen=True)
class Frame:
    """One frame of an episode."""

    episode: Episode
    index: int


@dataclass(frozen=True)
class Part:
    """Frames `start` to `stop` (exclusive) of an episode."""

    episode: Episode
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def frames(self) -> list[Frame]:
        return [Frame(self.episode, index) for index in range(self.start, self.stop)]


@dataclass(frozen=True)
class Clips:
    """N parts of recordings as the world model takes them, padded with zeros to T frames."""

    embeds: Tensor
    """(N, T, E) of the frames."""
    actions: Tensor
    """(N, T, A) executed from each frame to the next; the last of a clip leads out of it."""
    valid: Tensor
    """(N, T) bool: false where padded."""

    def split(self, size: int) -> Iterator[Clips]:
        """Groups of at most `size` clips: bounds the memory of what is computed from them."""
        parts = (self.embeds.split(size), self.actions.split(size), self.valid.split(size))
        yield from (Clips(*group) for group in zip(*parts, strict=True))

    def cut(self, clips: Sequence[int], starts: Sequence[int], length: int) -> Clips:
        """Stretches of at most `length` frames: stretch i begins at frame `starts[i]` of clip `clips[i]`."""
        device = self.valid.device
        rows = torch.tensor(clips, device=device)[:, None]
        frames = torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)
        last = self.valid.shape[1] - 1
        valid = self.valid[rows, frames.clamp_max(last)] & (frames <= last)
        frames = frames.clamp_max(last)
        return Clips(self.embeds[rows, frames], self.actions[rows, frames], valid)


def whole(episode: Episode) -> Part:
    """All frames of an episode."""
    return Part(episode, 0, len(episode))


def gumbel_noise(rssm: RSSM, *leading: int, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise (*leading, C, K) for samples of z; drawn on the CPU, so that a seed means one thing."""
    shape = (*leading, rssm.config.categoricals, rssm.config.classes)
    return (-torch.empty(shape).exponential_(generator=generator).log_()).to(rssm.action_in.weight.device)


@torch.no_grad()
def embed_frames(model: WorldModel, frames: Sequence[Frame], batch: int = 128) -> Tensor:
    """Embeddings (N, E) of single frames, `batch` at a time."""
    embeds = []
    for first in range(0, len(frames), batch):
        some = frames[first : first + batch]
        names = some[0].episode.images
        images = {name: np.stack([frame.episode.images[name][frame.index] for frame in some]) for name in names}
        episodes = {frame.episode for frame in some}
        targets = {e: e.target_position(model.spec.action) for e in episodes}
        states = {e: model_state(e.state, e.scene_state, model.config.scene_state) for e in episodes}
        state = np.stack([states[frame.episode][frame.index] for frame in some])
        target = np.stack([targets[frame.episode][frame.index] for frame in some])
        pixels = {name: torch.from_numpy(image).to(model.device) for name, image in images.items()}
        embeds.append(model.embed(pixels, *(torch.from_numpy(part).to(model.device) for part in (state, target))))
    return torch.cat(embeds)


def embed_clips(model: WorldModel, parts: Sequence[Part]) -> Clips:
    """Embed and pad parts of recordings; none may be empty."""
    if not parts:
        raise DiwaError("no recorded frames to encode: the dataset has no episode that is long enough")
    length = max(part.length for part in parts)
    embeds = torch.zeros(len(parts), length, model.embed_dim, device=model.device)
    actions = torch.zeros(len(parts), length, model.rssm.action_dim, device=model.device)
    valid = torch.zeros(len(parts), length, dtype=torch.bool, device=model.device)
    for n, part in enumerate(parts):
        embeds[n, : part.length] = embed_frames(model, part.frames())
        actions[n, : part.length] = torch.from_numpy(np.asarray(part.episode.action[part.start : part.stop]))
        valid[n, : part.length] = True
    return Clips(embeds, actions, valid)


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
    for first in range(0, len(parts), batch):
        clips = embed_clips(model, parts[first : first + batch])
        length = clips.valid.shape[1]
        states = filtered_states(model, clips, noise[first : first + batch, :length])
        found.append(states[torch.arange(len(clips.valid)), clips.valid.sum(1) - 1])
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


def require_one_skill(episodes: Sequence[Episode], where: object) -> str:
    """The skill that all demonstrations share; an error that lists them when there are several or none."""
    skills = sorted({str(episode.attributes.get("skill", "")) for episode in episodes})
    if len(skills) != 1 or not skills[0]:
        found = ", ".join(skills) if any(skills) else "none"
        raise DiwaError(f"{where} must hold demonstrations of one skill, found: {found}. Build one dataset a skill")
    return skills[0]
