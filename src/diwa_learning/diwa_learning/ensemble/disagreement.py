"""Ensemble disagreement: where the priors of an ensemble disagree, the world model guesses and dreams are not believed.

Its members have the form of the world model's prior p(z | h) and learn the same from the same recordings, each from
weights and a resample of its own. Where recordings have been they agree; a policy that lives on the model's errors
takes h where they do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_data.errors import DiwaError
from diwa_learning.world_model.rssm import RSSMConfig


@dataclass(frozen=True)
class EnsembleConfig:
    """An ensemble of priors on a world model, and what is usual for it."""

    members: int = 5
    """Priors in the ensemble; at least two."""
    width: int = 256
    """Hidden units of each."""
    updates: int = 1500
    """Optimiser steps of all members together."""
    batch_size: int = 256
    """Frames per step and member."""
    learning_rate: float = 1e-3
    """Learning rate of Adam; falls to 0 linearly."""
    held_out: float = 0.1
    """Share of episodes kept to learn what is usual, at least one."""
    stretches: int = 200
    """Segments of them imagined for it, under the recorded actions."""
    context: int = 8
    """Frames filtered before each."""
    horizon: int = 72
    """Imagined actions of each."""
    log_every: int = 50
    """Updates between log entries."""
    save_every: int = 500
    """Updates between saves of the resumable state."""
    seed: int = 0
    """Seed of weights, resamples and segments."""

    def __post_init__(self) -> None:
        if not 1 <= self.members <= 100:
            raise DiwaError(f"ensemble.members is {self.members}; it must lie in [1, 100]")


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


class Ensemble(nn.Module):
    """M priors D -> W -> C*K as one batched network, with mean and spread of their disagreement on recordings."""

    mean: Tensor
    """Mean disagreement over states imagined under recorded actions, nats per categorical."""
    std: Tensor
    """Its standard deviation."""

    def __init__(self, config: EnsembleConfig, rssm: RSSMConfig):
        super().__init__()
        self.sizes, self.count = (rssm.categoricals, rssm.classes), config.members
        latent, width = rssm.categoricals * rssm.classes, config.width
        each = [(nn.Linear(rssm.recurrent, width), nn.Linear(width, latent)) for _ in range(config.members)]
        first, last = zip(*each, strict=True)
        self.members = nn.Sequential(
            EnsembleLinear(first), EnsembleLayerNorm(config.members, width), nn.ELU(), EnsembleLinear(last)
        )
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def logits(self, h: Tensor) -> Tensor:
        """h (M, B, D), each member's own -> (M, B, C, K)."""
        return self.members(h).unflatten(-1, self.sizes)

    def disagreement(self, h: Tensor) -> Tensor:
        """Recurrent states (B, D) -> (B,): information that the choice of a member has about z, nats per categorical.

        The entropy of the members' mean less their mean entropy; 0 where they agree, log M at the most.
        """
        log = self.logits(h.expand(self.count, *h.shape)).log_softmax(-1)
        mean = log.logsumexp(0) - math.log(self.count)
        return ((log.exp() * log).mean(0) - mean.exp() * mean).sum(-1).mean(-1)

    def deviation(self, h: Tensor) -> Tensor:
        """The disagreement in standard deviations from its mean on recordings."""
        return (self.disagreement(h) - self.mean) / self.std
