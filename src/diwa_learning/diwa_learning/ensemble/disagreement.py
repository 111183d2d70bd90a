"""Ensemble disagreement: where the members of an ensemble disagree, the world model guesses and is not believed.

Each member is a dynamics of its own: from a model state and the action that is executed in it, it predicts the next
frame's embedding, by a network that shares nothing with the world model's recurrent part. Each learns from weights and
a resample of whole episodes of its own. What they predict is what is seen, not the model's own idea of it, so that
members cannot agree by all knowing nothing. Where recordings have been they agree; a policy that lives on the
model's errors goes where they do not, and imagination that drifts off goes there by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_data.errors import DiwaError
from diwa_learning.world_model.rssm import PLACE, RSSM, State, place_code


@dataclass(frozen=True)
class EnsembleConfig:
    """An ensemble of dynamics on a world model's states, and the measurement of its usual disagreement."""

    members: int = 5
    """Number of dynamics networks in the ensemble, at least two."""
    width: int = 256
    """Hidden units of each network."""
    updates: int = 1000
    """Optimiser steps, each for all members together."""
    batch_size: int = 256
    """Transitions in each step, for each member."""
    learning_rate: float = 1e-3
    """Learning rate of Adam at the start; it falls linearly to 0."""
    held_out: float = 0.1
    """Share of episodes kept to measure the usual disagreement; at least one episode."""
    stretches: int = 200
    """Segments of the held-out episodes that are imagined for this, under the recorded actions."""
    context: int = 8
    """Frames that are filtered before each segment is imagined."""
    horizon: int = 72
    """Actions imagined in each segment."""
    log_every: int = 50
    """Updates between log entries."""
    save_every: int = 500
    """Updates between saves of the resumable state."""
    seed: int = 0
    """Seed of weights, resamples and segments."""

    def __post_init__(self) -> None:
        if not 1 <= self.members <= 100:
            raise DiwaError(f"ensemble.members is {self.members}; it must lie in [1, 100]")


STD_FLOOR = 1e-3
"""Least standard deviation by which a number of the embeddings is divided."""


class EnsembleLinear(nn.Module):
    """M linear layers I -> O as one: (M, B, I) -> (M, B, O)."""

    def __init__(self, layers: Sequence[nn.Linear]):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight.mT)


class EnsembleLayerNorm(nn.Module):
    """M layer norms as one: (M, B, I) -> (M, B, I)."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(count, width)), nn.Parameter(torch.zeros(count, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias[:, None], F.layer_norm(x, x.shape[-1:]), self.weight[:, None])


@dataclass(frozen=True)
class Transitions:
    """Model states (B, ...), the executed actions taken in them, and the targets that these led to."""

    state: State
    """(B, ...)."""
    action: Tensor
    """(B, A)."""
    target: Tensor
    """(B, P): where the action put the commanded position; P is 0 in a model that is not told it."""

    @property
    def inputs(self) -> Tensor:
        """(B, I): what a member sees."""
        return torch.cat([self.state.features, self.action, place_code(self.target[..., PLACE])], -1)

    @staticmethod
    def within(states: State, actions: Tensor, chosen: Tensor) -> Transitions:
        """The steps in states (N, T, ...) and actions (N, T, A) whose next frame is `chosen` (N, T - 1) bool."""
        return Transitions(states[:, :-1][chosen], actions[:, :-1][chosen], states.target[:, 1:][chosen])


class Ensemble(nn.Module):
    """M dynamics I -> W -> E as one batched network, with mean and spread of their disagreement on recordings.

    They predict the next frame's embedding, each number of it in its standard deviations on recordings.
    """

    usual: Tensor
    """(2, E) mean and standard deviation of each number of the embeddings."""
    mean: Tensor
    """Mean disagreement over transitions imagined under recorded actions."""
    std: Tensor
    """Its standard deviation."""

    def __init__(self, config: EnsembleConfig, rssm: RSSM):
        super().__init__()
        self.count = config.members
        inputs = rssm.feature_dim + rssm.action_dim + place_code(torch.zeros(rssm.target_dim)[PLACE]).shape[-1]
        shapes = (inputs, config.width), (config.width, rssm.embed_dim)
        first, last = ([nn.Linear(*shape) for _ in range(config.members)] for shape in shapes)
        self.members = nn.Sequential(
            EnsembleLinear(first), EnsembleLayerNorm(config.members, config.width), nn.ELU(), EnsembleLinear(last)
        )
        self.register_buffer("usual", torch.zeros(2, rssm.embed_dim))
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def set_statistics(self, embeds: Tensor) -> None:
        """Count embeddings in the standard deviations of these (B, E)."""
        self.usual.copy_(torch.stack([embeds.mean(0), embeds.std(0).clamp_min(STD_FLOOR)]))

    def loss(self, inputs: Tensor, embeds: Tensor) -> Tensor:
        """Mean squared error (M,) of each member on its own `Transitions.inputs` (M, B, I) and embeddings (M, B, E)."""
        mean, std = self.usual
        return (self.members(inputs) - (embeds - mean) / std).square().mean((1, 2))

    def disagreement(self, transitions: Transitions) -> Tensor:
        """(B,): variance of the members' predictions, mean over the embedding's numbers (Sekar et al. 2020, Eq. 2).

        As a share of the variance that recordings have: 0 where they agree, 1 where they differ as frames do.
        """
        inputs = transitions.inputs
        predicted = self.members(inputs.expand(self.count, *inputs.shape))  # (M, B, E)
        return (predicted - predicted.mean(0)).square().mean((0, 2))

    def deviation(self, transitions: Transitions) -> Tensor:
        """The disagreement (B,) in standard deviations from its mean on recordings."""
        return (self.disagreement(transitions) - self.mean) / self.std
