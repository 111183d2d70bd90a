"""The Dream Diffusion MDP: rollouts of a policy inside the world model (METHOD section 4, eqs. 5-6).

One step of the MDP is a chunk: K denoising steps in a fixed state s, then H prior steps of the world model with the
executed actions. N dreams run in parallel for T chunks; a dream that ends starts anew from another start state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from diwa_data.spec import ActionSpec
from diwa_learning.core.capture import CapturedEach
from diwa_learning.core.device import Precision, is_half
from diwa_learning.core.stacking import Streams
from diwa_learning.ensemble.disagreement import Guard
from diwa_learning.finetune.start_states import StartConfig
from diwa_learning.policy.base import ChainPolicy, Exploration
from diwa_learning.reward.classifier import SuccessJudge
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import RSSM, State


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
    penalty: float = 0.0
    """Taken off a chunk's reward for each standard deviation by which the guard deviates after it; 0 = off."""
    precision: Precision = "float32"
    """Arithmetic of the world model's matrix products; h, logits, policy and classifier are always float32. `auto`:
    bfloat16 where the processor or GPU multiplies it."""
    exploration: Exploration = field(default_factory=Exploration)
    """Noise of dreams."""
    starts: StartConfig = field(default_factory=StartConfig)
    """Where they start."""


@dataclass(frozen=True)
class Rollout:
    """One iteration of dreams. F features, K' trained denoising steps; a stack has R runs before N."""

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
    deviation: Tensor
    """(N, T) of the guard in the state after the chunk, standard deviations (`Guard.deviation`); 0 without one."""

    def success_rate(self, horizon: int) -> Tensor:
        """Share of dreams that were a success once, among those begun early enough to last the whole horizon.

        Dreams begun later would count only if they succeed quickly.
        """
        once = torch.zeros_like(self.success[..., 0])
        ended = torch.zeros_like(self.success)
        for t in range(self.success.shape[-1]):
            once = (once & (self.age[..., t] > 1)) | self.success[..., t]
            ended[..., t] = once & (self.terminated[..., t] | (self.age[..., t] == horizon))
        return (ended & self._complete(horizon)).sum((-2, -1)) / self._begun(horizon)

    def mean_return(self, horizon: int) -> Tensor:
        """Mean sum of rewards of the same dreams."""
        return (self.reward * self._complete(horizon)).sum((-2, -1)) / self._begun(horizon)

    def _complete(self, horizon: int) -> Tensor:
        chunks = self.age.shape[-1]
        return torch.arange(chunks, device=self.age.device) - self.age + 1 <= chunks - horizon

    def _begun(self, horizon: int) -> Tensor:
        return (self._complete(horizon) & (self.age == 1)).sum((-2, -1)).clamp_min(1)


def empty_rollout(
    leading: tuple[int, ...], feature_dim: int, policy: ChainPolicy, trained_steps: int, device: torch.device
) -> Rollout:
    """Zeros for dreams of shape `leading`: (N, T), or (R, N, T)."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(*leading, *shape, dtype=dtype, device=device)

    return Rollout(
        features=zeros(feature_dim),
        next_features=zeros(feature_dim),
        chains=zeros(trained_steps + 1, policy.chunk, policy.action_dim),
        reward=zeros(),
        terminated=zeros(dtype=torch.bool),
        done=zeros(dtype=torch.bool),
        success=zeros(dtype=torch.bool),
        age=zeros(dtype=torch.int64),
        deviation=zeros(),
    )


def with_bfloat16_weights(rssm: RSSM) -> RSSM:
    """A copy for autocast, which would otherwise cast the weights of a frozen model anew in every step."""
    half = copy.deepcopy(rssm)
    for part in half.modules():
        if isinstance(part, nn.Linear | nn.GRUCell):
            part.to(torch.bfloat16)
    return half


def executed(actions: Tensor, spec: ActionSpec) -> Tensor:
    """What the robot executes of raw actions (..., 7): as `ActionSpec.executed`, for tensors."""
    clipped = actions.clamp(-1.0, 1.0)
    gripper = torch.where(clipped[..., 6:] >= 0, 1.0, -1.0)
    return torch.cat([clipped[..., :6], gripper], dim=-1)


@dataclass(frozen=True)
class Step:
    """What a chunk came to in every dream."""

    chains: Tensor
    """(N, K'+1, H, A), with R runs before N."""
    state: State
    """(R x N, ...) after it."""
    probability: Tensor
    """(N,) of success, with R runs before N."""
    deviation: Tensor
    """(N,) of the guard, with R runs before N; 0 without one."""


class Dream:
    """The MDP: a frozen world model, a frozen classifier and a bank of start states.

    With R runs stacked there are R classifiers and banks, and R x N dreams; the world model takes them as one batch.
    """

    def __init__(
        self,
        model: WorldModel,
        classifier: SuccessJudge,
        starts: Sequence[State],
        trained_steps: int,
        config: DreamConfig,
        draws: Streams,
        guard: Guard | None = None,
    ):
        self.model, self.classifier, self.config, self.draws = model, classifier, config, draws
        self.guard = guard
        self.trained_steps = trained_steps
        half = is_half(config.precision, model.device)
        self._autocast = torch.autocast(model.device.type, torch.bfloat16, half)
        self._rssm = with_bfloat16_weights(model.rssm) if half else model.rssm
        self.action = model.spec.action
        self.starts = State.cat(starts)
        """The banks of all runs, one behind the other."""
        sizes = torch.tensor([len(bank.h) for bank in starts], device=draws.device)
        self._size = sizes.view(*draws.leading, 1)
        self._first = (sizes.cumsum(0) - sizes).view(*draws.leading, 1)
        self._buffer: Rollout | None = None
        self._policy: ChainPolicy | None = None
        self._step: Callable[..., Step]

    @torch.no_grad()
    def rollout(self, policy: ChainPolicy) -> Rollout:
        """Dream one iteration with `policy`; the result is overwritten by the next call."""
        config, draws = self.config, self.draws
        dreams = (*draws.leading, config.dreams)
        if self._buffer is None:
            shape = (*dreams, config.chunks)
            self._buffer = empty_rollout(shape, self.model.feature_dim, policy, self.trained_steps, draws.device)
        buffer = self._buffer
        if self._policy is not policy:
            self._policy, self._step = policy, CapturedEach(partial(self.step, policy))
        sizes = self._rssm.config
        state, age = self._draw_starts(), torch.zeros(dreams, dtype=torch.int64, device=draws.device)
        for t in range(config.chunks):
            noise = draws.normal(config.dreams, policy.steps + 1, policy.chunk, policy.action_dim)
            gumbel = draws.gumbel(policy.chunk, config.dreams, sizes.categoricals, sizes.classes)
            step, age = self._step(state, noise, gumbel), age + 1
            success = self.classifier.is_success(step.probability)
            terminated = success if config.reward == "binary" else torch.zeros_like(success)
            done = terminated | (age >= config.horizon) | (t == config.chunks - 1)
            buffer.features[..., t, :] = state.features.view(*dreams, -1)
            buffer.next_features[..., t, :] = step.state.features.view(*dreams, -1)
            buffer.chains[..., t, :, :, :] = step.chains
            reward = success.float() if config.reward == "binary" else step.probability
            buffer.reward[..., t] = reward - config.penalty * step.deviation.clamp_min(0)
            buffer.terminated[..., t], buffer.done[..., t] = terminated, done
            buffer.success[..., t], buffer.age[..., t], buffer.deviation[..., t] = success, age, step.deviation
            state, age = self._restart(step.state, done), age * ~done
        return buffer

    def step(self, policy: ChainPolicy, state: State, noise: Tensor, gumbel: Tensor) -> Step:
        """One chunk of every dream: states (R x N, ...), noise (N, K+1, H, A) and gumbel (H, N, C, K) of each run."""
        dreams = noise.shape[:-3]
        sample = policy.explore(state.features.view(*dreams, -1), noise, self.config.exploration)
        after = self.imagine(state, sample.actions.flatten(0, -3), gumbel)
        probability = self.classifier.probability(after.features.view(*dreams, -1))
        deviation = self.guard.deviation(after.h).view(dreams) if self.guard else torch.zeros_like(probability)
        return Step(sample.chains[..., -self.trained_steps - 1 :, :, :], after, probability, deviation)

    def imagine(self, state: State, actions: Tensor, gumbel: Tensor) -> State:
        """The states (M, ...) after chunks of raw actions (M, H, A), each executed and followed by one prior step."""
        each = zip(executed(actions, self.action).unbind(dim=1), gumbel.unbind(-4), strict=True)
        for action, noise in each:
            action = self.model.executed(state, action)
            with self._autocast:
                state = self._rssm.imagine_step(state, action, noise.reshape(-1, *noise.shape[-2:]))
        return state

    def _draw_starts(self) -> State:
        """A start (R x N, ...) for every dream."""
        drawn = (self.draws.uniform(self.config.dreams) * self._size).long().clamp_max(self._size - 1)
        return self.starts[(self._first + drawn).flatten()]

    def _restart(self, state: State, done: Tensor) -> State:
        both = zip(self._draw_starts().parts(), state.parts(), strict=True)
        return State(*(torch.where(done.flatten()[:, None], new, old) for new, old in both))
