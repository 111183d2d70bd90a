"""A unimodal Gaussian over action chunks: the same trunk, a chain of one step (paper, Table S.6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diwa_learning.policy.base import ChainPolicy, Normal, Trunk

STD_RANGE = (0.01, 1.0)


class GaussianPolicy(ChainPolicy):
    """pi(a | s) = N(tanh(f(s)), diag(std)^2); one learned std per action and dimension, independent of s.

    The chain has one step, whatever `steps` says.
    """

    def __init__(self, feature_dim: int, width: int, steps: int, chunk: int, action_dim: int):
        super().__init__(1, chunk, action_dim)
        self.trunk = Trunk(0, feature_dim, width, chunk * action_dim)
        self.log_std = nn.Parameter(torch.full((chunk, action_dim), math.log(0.3)))

    def project(self, features: Tensor) -> Tensor:
        return self.trunk.project(features)

    def denoise(self, projected: Tensor, chunk: Tensor, k: Tensor) -> Normal:
        """The action's distribution; a^1 (`chunk`) carries no information and is ignored."""
        mean = torch.tanh(self.trunk(projected, projected[:, :0])).view_as(chunk)
        return Normal(mean, self.log_std.exp().clamp(*STD_RANGE).expand_as(mean))

    def loss(self, features: Tensor, actions: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        """Negative log-likelihood, mean over batch and elements; there is no step or noise to choose."""
        normal = self.denoise(self.project(features), actions, k)
        z = (actions - normal.mean) / normal.std
        return (0.5 * z**2 + normal.std.log()).mean() + 0.5 * math.log(2 * math.pi)
