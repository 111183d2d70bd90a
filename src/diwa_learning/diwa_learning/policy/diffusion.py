"""DDPM over action chunks: cosine schedule, noise prediction (paper, appendix S.2.2)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from diwa_learning.policy.base import ChainPolicy, Normal, Trunk

TIME_DIM = 16


def cosine_betas(steps: int, offset: float = 0.008, largest: float = 0.999) -> np.ndarray:
    """beta_k (K,) float64 of the cosine schedule: alpha_bar(u) = cos^2((u + s) / (1 + s) * pi / 2), u in [0, 1]."""
    alpha_bar = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], largest)


def sinusoid(steps: int, dim: int = TIME_DIM) -> Tensor:
    """(K, dim) sinusoidal embedding of the denoising indices 0..K-1: sines first, then cosines."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(dim // 2) / (dim // 2 - 1))
    angles = torch.arange(steps)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class DiffusionPolicy(ChainPolicy):
    """p(a^{k-1} | a^k, s) = N(mu_k(x0(a^k, eps_theta)), sigma_k^2), x0 clipped to [-1, 1].

    mu_k = sqrt(ab_{k-1}) beta_k / (1 - ab_k) x0 + sqrt(alpha_k) (1 - ab_{k-1}) / (1 - ab_k) a^k and
    sigma_k^2 = beta_k (1 - ab_{k-1}) / (1 - ab_k), with ab = alpha_bar and ab_0 = 1 (so sigma_1 = 0).
    """

    takes_ddim = True
    coefficients: Tensor
    positions: Tensor

    def __init__(self, feature_dim: int, width: int, steps: int, chunk: int, action_dim: int):
        super().__init__(steps, chunk, action_dim)
        self.time = nn.Sequential(nn.Linear(TIME_DIM, 2 * TIME_DIM), nn.Mish(), nn.Linear(2 * TIME_DIM, TIME_DIM))
        self.trunk = Trunk(chunk * action_dim + TIME_DIM, feature_dim, width, chunk * action_dim)
        beta = cosine_betas(steps)
        alpha_bar = np.cumprod(1 - beta)
        before = np.append(1.0, alpha_bar[:-1])
        table = [
            np.sqrt(1 / alpha_bar),  # x0 = this * a^k - next * eps
            np.sqrt(1 / alpha_bar - 1),
            np.sqrt(before) * beta / (1 - alpha_bar),  # mean = this * x0 + next * a^k
            np.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar),
            np.sqrt(beta * (1 - before) / (1 - alpha_bar)),  # std
            np.sqrt(alpha_bar),  # a^k = this * a^0 + next * eps
            np.sqrt(1 - alpha_bar),
        ]
        self._table = np.stack(table, 1).tolist()  # numbers of each k, for steps that all rows take at once
        self.register_buffer("coefficients", torch.tensor(np.stack(table), dtype=torch.float32), persistent=False)
        self.register_buffer("positions", sinusoid(steps), persistent=False)

    def project(self, features: Tensor) -> Tensor:
        return self.trunk.project(features)

    def predict_noise(self, projected: Tensor, chunk: Tensor, k: Tensor) -> Tensor:
        """eps_theta (B, H, A) for projected features (B, W), a^k (B, H, A) and k (B,) in 1..K."""
        return self.trunk(projected, self._noisy_inputs(chunk, k)).view_as(chunk)

    def _noisy_inputs(self, chunk: Tensor, k: Tensor) -> Tensor:
        """a^k (B, H, A) and k (B,) as the trunk takes them, (B, H*A + TIME_DIM)."""
        return torch.cat([chunk.flatten(1), self.time(self.positions).index_select(0, k - 1)], dim=1)

    def denoise(self, projected: Tensor, chunk: Tensor, k: Tensor) -> Normal:
        eps = self.predict_noise(projected, chunk, k)
        c = self.coefficients[:, k - 1, None, None]  # (7, B, 1, 1)
        x0 = (c[0] * chunk - c[1] * eps).clamp(-1, 1)
        return Normal(c[2] * x0 + c[3] * chunk, c[4])

    def denoiser(self, features: Tensor) -> Callable[[Tensor, int, int | None], Normal]:
        projected = self.project(features)
        actions = self.chunk * self.action_dim
        codes, weight = self.trunk.fold(self.time(self.positions), actions)
        before, zero = projected[:, None] + codes, self.coefficients.new_zeros(())

        def step(chunk: Tensor, k: int, to: int | None = None) -> Normal:
            flat = chunk.flatten(1)
            a, b, of_x0, of_chunk, _, signal, noise = self._table[k - 1]
            eps = self.trunk.after(torch.addmm(before[:, k - 1], flat, weight)).view_as(chunk)
            x0 = torch.sub(a * chunk, eps, alpha=b).clamp_(-1, 1)
            std = self.coefficients[4, k - 1]
            if to is not None:  # a^to = signal' x0 + noise' eps, with the eps that leads from the clipped x0 to a^k
                *_, signal_to, noise_to = self._table[to - 1] if to else (1.0, 0.0)
                of_chunk, std = noise_to / noise, zero
                of_x0 = signal_to - of_chunk * signal
            return Normal(torch.add(of_chunk * chunk, x0, alpha=of_x0), std)

        return step

    def loss(self, features: Tensor, actions: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of the predicted noise."""
        c = self.coefficients[:, k - 1, None, None]
        noisy = c[5] * actions + c[6] * noise
        error = self.trunk.once(features, self._noisy_inputs(noisy, k)).view_as(noise) - noise
        return error.square().mean()
