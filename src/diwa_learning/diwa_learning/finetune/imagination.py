"""The Dream Diffusion MDP: rollouts of a policy inside the world model (paper, Eq. 4 to 6).

One step of the MDP is a chunk: K denoising steps in a fixed state s, then H prior steps of the world model with the
executed actions. N dreams run in parallel for T chunks; a dream that ends starts anew from another start state.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from diwa_learning.core.device import Precision, compiled, is_half
from diwa_learning.ensemble.disagreement import Ensemble, Transitions
from diwa_learning.finetune.start_states import StartConfig
from diwa_learning.policy.base import ChainPolicy, Exploration
from diwa_learning.reward.classifier import SuccessClassifier
from diwa_learning.reward.done import run_lengths
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import RSSM, State


@dataclass(frozen=True)
class DreamConfig:
    """Number, length and reward of an iteration's dreams."""

    dreams: int = 50
    """N, the number of dreams in parallel."""
    chunks: int = 36
    """T, the chunks in each dream and iteration."""
    horizon: int = 18
    """Chunks after which a dream is cut: 18 chunks of 4 actions are 72 actions, or 9.6 s."""
    reward: Literal["binary", "probability"] = "binary"
    """`binary`: a chunk in which the skill is done earns 1 and ends the dream.
    `probability`: a chunk earns the mean probability of success of its states, and the dream continues."""
    penalty: float = 0.0
    """Reward lost for each standard deviation by which the ensemble's disagreement exceeds its mean; 0 = off."""
    precision: Precision = "float32"
    """Precision of the world model's matrix products; h, logits, policy and classifier are always float32.
    With `auto` it is bfloat16 where the processor or GPU supports that in hardware."""
    exploration: Exploration = field(default_factory=Exploration)
    """Noise of the dreams."""
    starts: StartConfig = field(default_factory=StartConfig)
    """Start states of the dreams."""


@dataclass(frozen=True)
class Rollout:
    """One iteration of dreams, or of episodes in environments. F features."""

    features: Tensor
    """(N, T, F) of the state in which each chunk was chosen."""
    next_features: Tensor
    """(N, T, F) of the state after it, before any reset."""
    chains: Tensor
    """(N, T, K+1, H, A): a^K .. a^0."""
    reward: Tensor
    """(N, T)."""
    terminated: Tensor
    """(N, T) bool: the dream succeeded; nothing follows."""
    done: Tensor
    """(N, T) bool: succeeded, or cut at the horizon or at the iteration's end."""
    success: Tensor
    """(N, T) bool: the skill was done at one of the chunk's ticks (`reward/done.py`)."""
    age: Tensor
    """(N, T) int64: chunks since the dream's start, 1 for its first."""
    deviation: Tensor
    """(N, T) ensemble disagreement over the chunk's last step, in standard deviations (`Ensemble.deviation`), or 0."""

    @staticmethod
    def stack(chunks: Sequence[Rollout]) -> Rollout:
        """The rollout of T chunks, each without the axis T."""
        parts = zip(*(vars(chunk).values() for chunk in chunks), strict=True)
        return Rollout(*(torch.stack(part, dim=1) for part in parts))

    def summary(self, where: str, horizon: int) -> dict[str, float]:
        """The figures to log of dreams, or of an `environment`, that are cut after `horizon` chunks."""
        return {
            f"{where}_success": float(self.success_rate(horizon)),
            f"{where}_return": float(self.mean_return(horizon)),
            "deviation": float(self.deviation.mean()),
        }

    def success_rate(self, horizon: int) -> Tensor:
        """Share of dreams that were a success once, among those begun early enough to last the whole horizon.

        Dreams begun later would count only if they succeed quickly.
        """
        once, ended = torch.zeros_like(self.success[:, 0]), torch.zeros_like(self.success)
        for t in range(self.success.shape[1]):
            once = (once & (self.age[:, t] > 1)) | self.success[:, t]
            ended[:, t] = once & (self.terminated[:, t] | (self.age[:, t] == horizon))
        return (ended & self._complete(horizon)).sum() / self._begun(horizon)

    def mean_return(self, horizon: int) -> Tensor:
        """Mean sum of rewards of the same dreams."""
        return (self.reward * self._complete(horizon)).sum() / self._begun(horizon)

    def _complete(self, horizon: int) -> Tensor:
        chunks = self.age.shape[1]
        return torch.arange(chunks, device=self.age.device) - self.age + 1 <= chunks - horizon

    def _begun(self, horizon: int) -> Tensor:
        return (self._complete(horizon) & (self.age == 1)).sum().clamp_min(1)


def with_bfloat16_weights(rssm: RSSM) -> RSSM:
    """A copy for autocast, which would otherwise cast the weights of a frozen model again in every step."""
    half = copy.deepcopy(rssm)
    for part in half.modules():
        if isinstance(part, nn.Linear | nn.GRUCell):
            part.to(torch.bfloat16)
    return half


@dataclass(frozen=True)
class Step:
    """One chunk of every dream."""

    chains: Tensor
    """(N, K+1, H, A)."""
    state: State
    """(N, ...) after it."""
    probability: Tensor
    """(N,) of success, mean over its H states."""
    done: Tensor
    """(N,) bool: the skill was done at one of its ticks."""
    run_length: Tensor
    """(N,) int64: ticks running that the classifier has been sure after it."""
    deviation: Tensor
    """(N,) of the ensemble over its last step; 0 without one."""


class Dream:
    """The MDP: a frozen world model, a frozen classifier and a bank of start states; `rng` draws all its noise."""

    def __init__(
        self,
        model: WorldModel,
        classifier: SuccessClassifier,
        starts: State,
        config: DreamConfig,
        rng: torch.Generator,
        ensemble: Ensemble | None = None,
    ):
        self.model, self.classifier, self.starts, self.ensemble = model, classifier, starts, ensemble
        self.config, self.rng = config, rng
        self._half = is_half(config.precision, model.device)
        self._rssm = with_bfloat16_weights(model.rssm) if self._half else model.rssm
        self._step = compiled(self.step, model.device)

    @torch.no_grad()
    def rollout(self, policy: ChainPolicy) -> Rollout:
        """Dream one iteration with `policy`."""
        config, rng = self.config, self.rng
        state, age = self._draw_starts(), torch.zeros(config.dreams, dtype=torch.int64, device=rng.device)
        running, chunks = torch.zeros_like(age), []
        for t in range(config.chunks):
            noise = policy.draw_noise(config.dreams, rng)
            gumbel = self._rssm.noise(policy.chunk, config.dreams, rng=rng)
            step, age = self._step(policy, state, running, noise, gumbel), age + 1
            success = step.done.clone()  # a compiled step overwrites its results
            terminated = success if config.reward == "binary" else torch.zeros_like(success)
            done = terminated | (age >= config.horizon) | (t == config.chunks - 1)
            reward = success.float() if config.reward == "binary" else step.probability.clone()
            chunk = Rollout(
                features=state.features,
                next_features=step.state.features,
                chains=step.chains.clone(),
                reward=reward - config.penalty * step.deviation.clamp_min(0),
                terminated=terminated,
                done=done,
                success=success,
                age=age,
                deviation=step.deviation.clone(),
            )
            chunks.append(chunk)
            state, age, running = self._restart(step.state, done), age * ~done, step.run_length * ~done
        return Rollout.stack(chunks)

    def step(self, policy: ChainPolicy, state: State, running: Tensor, noise: Tensor, gumbel: Tensor) -> Step:
        """One chunk of every dream: states (N, ...), run lengths (N,), noise (N, K+1, H, A), gumbel (H, N, C, K)."""
        sample = policy.explore(state.features, noise, self.config.exploration)
        states = self.imagine(state, sample.actions, gumbel)
        probability = self.classifier.probability(states.features)  # (N, H)
        lengths = run_lengths(self.classifier.is_success(probability), running)
        done, after, mean = (lengths >= self.classifier.success_ticks).any(1), states[:, -1], probability.mean(1)
        before = states[:, -2] if policy.chunk > 1 else state
        return Step(
            sample.chains, after, mean, done, lengths[:, -1], self.deviation(before, sample.actions[:, -1], after)
        )

    def deviation(self, before: State, raw: Tensor, after: State) -> Tensor:
        """The ensemble's (N,) over the step from `before` (N, ...) to `after` by a raw action (N, A); 0 without one."""
        if self.ensemble is None:
            return torch.zeros_like(before.h[:, 0])
        action = self.model.executed(before, self.model.spec.action.executed(raw))
        return self.ensemble.deviation(Transitions(before, action, after.target))

    def imagine(self, state: State, actions: Tensor, gumbel: Tensor) -> State:
        """The states (N, H, ...) after each of H raw actions (N, H, A), all executed by a prior step."""
        states = []
        for raw, noise in zip(actions.unbind(1), gumbel, strict=True):
            action = self.model.executed(state, self.model.spec.action.executed(raw))
            with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._half):
                state = self._rssm.imagine_step(state, action, noise)
            states.append(state)
        return State.stack(states, 1)

    def _draw_starts(self) -> State:
        """A start (N, ...) for every dream."""
        count = len(self.starts.h)
        drawn = torch.rand(self.config.dreams, generator=self.rng, device=self.rng.device) * count
        return self.starts[drawn.long().clamp_max(count - 1)]

    def _restart(self, state: State, done: Tensor) -> State:
        both = zip(self._draw_starts().parts(), state.parts(), strict=True)
        return State(*(torch.where(done[:, None], new, old) for new, old in both))
