"""The Dream Diffusion MDP: start states, and rollouts of a policy inside the world model (METHOD section 4, eqs. 5-6).

One step of the MDP is a chunk: K denoising steps in a fixed state s, then H prior steps of the world model with the
executed actions. N dreams run in parallel for T chunks; a dream that ends starts anew from another start state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diwa_data.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_data.spec import ActionSpec
from diwa_learning.chain import ChainPolicy, Exploration
from diwa_learning.features import Frame, Part, gumbel_noise, last_states
from diwa_learning.reward import RewardClassifier
from diwa_learning.rssm import State
from diwa_learning.world_model import WorldModel


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


@dataclass(frozen=True)
class DreamConfig:
    """Shape of an iteration's dreams, and their reward."""

    dreams: int = 50
    """N, dreams in parallel."""
    chunks: int = 36
    """T, chunks of each in an iteration."""
    horizon: int = 18
    """Chunks after which a dream is cut: 18 chunks of 4 actions are 72 actions, 9.6 s."""
    reward: Literal["binary", "probability"] = "binary"
    """`binary`: 1 above the classifier's threshold, which ends the dream; `probability`: that, and it goes on."""
    exploration: Exploration = field(default_factory=Exploration)
    """Noise of dreams."""
    starts: StartConfig = field(default_factory=StartConfig)
    """Where they start."""


@dataclass(frozen=True)
class Rollout:
    """One iteration of dreams. F features, K' trained denoising steps."""

    features: Tensor
    """(N, T, F) of the state in which each chunk was chosen."""
    next_features: Tensor
    """(N, T, F) of the state after it, before any reset."""
    chains: Tensor
    """(N, T, K'+1, H, A): a^{K'} .. a^0."""
    reward: Tensor
    """(N, T)."""
    terminated: Tensor
    """(N, T) bool: the dream succeeded; nothing follows."""
    done: Tensor
    """(N, T) bool: succeeded, or cut at the horizon or at the iteration's end."""
    success: Tensor
    """(N, T) bool: the classifier called the state after the chunk a success."""
    age: Tensor
    """(N, T) int64: chunks since the dream's start, 1 for its first."""

    def success_rate(self, horizon: int) -> float:
        """Share of dreams that were a success once, among those begun early enough to last the whole horizon.

        Dreams begun later would count only if they succeed quickly.
        """
        once = torch.zeros_like(self.success[:, 0])
        successes = 0
        complete = self._complete(horizon)
        for t in range(self.success.shape[1]):
            once = (once & (self.age[:, t] > 1)) | self.success[:, t]
            ends = self.terminated[:, t] | (self.age[:, t] == horizon)
            successes += int((once & ends & complete[:, t]).sum())
        return successes / self._begun(horizon)

    def mean_return(self, horizon: int) -> float:
        """Mean sum of rewards of the same dreams."""
        return float((self.reward * self._complete(horizon)).sum()) / self._begun(horizon)

    def _complete(self, horizon: int) -> Tensor:
        chunks = self.age.shape[1]
        return torch.arange(chunks) - self.age + 1 <= chunks - horizon

    def _begun(self, horizon: int) -> int:
        return max(int((self._complete(horizon) & (self.age == 1)).sum()), 1)


def executed(actions: Tensor, spec: ActionSpec) -> Tensor:
    """What the robot executes of raw actions (..., 7): as `ActionSpec.executed`, for tensors."""
    clipped = actions.clamp(-1.0, 1.0)
    gripper = torch.where(clipped[..., 6:] >= 0, 1.0, -1.0)
    return torch.cat([clipped[..., :6], gripper], dim=-1)


class Dream:
    """The MDP: a frozen world model, a frozen classifier and a bank of start states."""

    def __init__(
        self,
        model: WorldModel,
        classifier: RewardClassifier,
        starts: State,
        policy: ChainPolicy,
        trained_steps: int,
        config: DreamConfig,
    ):
        self.model, self.classifier, self.starts, self.config = model, classifier, starts, config
        self.action = model.spec.action
        shape = (config.dreams, config.chunks)
        self._buffer = Rollout(  # written anew in every iteration
            features=torch.zeros(*shape, model.feature_dim),
            next_features=torch.zeros(*shape, model.feature_dim),
            chains=torch.zeros(*shape, trained_steps + 1, policy.chunk, policy.action_dim),
            reward=torch.zeros(shape),
            terminated=torch.zeros(shape, dtype=torch.bool),
            done=torch.zeros(shape, dtype=torch.bool),
            success=torch.zeros(shape, dtype=torch.bool),
            age=torch.zeros(shape, dtype=torch.int64),
        )

    @torch.no_grad()
    def rollout(self, policy: ChainPolicy) -> Rollout:
        """Dream one iteration with `policy`; the result is overwritten by the next call."""
        config, buffer = self.config, self._buffer
        kept = buffer.chains.shape[2]
        state, age = self._draw_starts(config.dreams), torch.zeros(config.dreams, dtype=torch.int64)
        for t in range(config.chunks):
            features = state.features
            sample = policy.explore(features, policy.draw_noise(config.dreams), config.exploration)
            state, age = self.imagine(state, sample.actions), age + 1
            after = state.features
            probability = self.classifier.probability(after)
            success = probability > self.classifier.threshold
            terminated = success if config.reward == "binary" else torch.zeros_like(success)
            done = terminated | (age >= config.horizon) | (t == config.chunks - 1)
            buffer.features[:, t], buffer.next_features[:, t] = features, after
            buffer.chains[:, t] = sample.chains[:, -kept:]
            buffer.reward[:, t] = success if config.reward == "binary" else probability
            buffer.terminated[:, t], buffer.done[:, t] = terminated, done
            buffer.success[:, t], buffer.age[:, t] = success, age
            state, age = self._restart(state, done), age * ~done
        return buffer

    def imagine(self, state: State, actions: Tensor) -> State:
        """The state after a chunk of raw actions (N, H, A), each executed and followed by one prior step."""
        for action in executed(actions, self.action).unbind(dim=1):
            state = self.model.rssm.imagine_step(state, self.model.executed(state, action))
        return state

    def _draw_starts(self, count: int) -> State:
        return self.starts[torch.randint(len(self.starts.h), (count,))]

    def _restart(self, state: State, done: Tensor) -> State:
        fresh = self._draw_starts(len(done))
        both = zip(fresh.parts(), state.parts(), strict=True)
        return State(*(torch.where(done[:, None], new, old) for new, old in both))


def start_states(
    model: WorldModel,
    classifier: RewardClassifier,
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
    parts = [Part(f.episode, max(0, f.index + 1 - config.context), f.index + 1) for f in frames]
    noise = gumbel_noise(model.rssm, len(parts), config.context, generator=generator)
    states = last_states(model, parts, noise)
    with torch.no_grad():
        keep = classifier.probability(states.features) <= classifier.threshold
    if not keep.any():
        raise DiwaError(
            f"the classifier calls all {len(frames)} start frames a success: train it longer, or on more demonstrations"
        )
    return states[keep]


def draw_frames(
    episodes: Sequence[Episode], count: int, rng: np.random.Generator, first: int = 0, stop: int | None = None
) -> list[Frame]:
    """`count` random frames, evenly over all, or over those from `first` to `stop` (exclusive) of each episode."""
    lengths = np.array([max(0, min(len(e) if stop is None else stop, len(e)) - first) for e in episodes])
    if count == 0 or lengths.sum() == 0:
        return []
    flat = rng.integers(lengths.sum(), size=count)
    which = np.searchsorted(np.cumsum(lengths), flat, side="right")
    index = flat - (np.cumsum(lengths) - lengths)[which] + first
    return [Frame(episodes[w], int(t)) for w, t in zip(which, index, strict=True)]
