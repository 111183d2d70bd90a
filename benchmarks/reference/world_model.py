"""The world model (paper S.2.1, docs/method.md), written plainly: what training at speed is measured against.

Float32, images as contiguous NCHW floats, the whole recurrent step inside the loop over time, AdamW one parameter at a
time. Modules bear the names of `diwa_learning`'s, so that weights can be copied.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_data.spec import Spec
from diwa_learning.world_model.config import WorldModelConfig


class Encoder(nn.Module):
    """(N, 3, 64, 64) -> (N, 32 * depth)."""

    def __init__(self, depth: int):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise((3, depth, 2 * depth, 4 * depth, 8 * depth)):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2), nn.ELU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image).flatten(1)


class Decoder(nn.Module):
    """(N, 32 * depth) -> (N, 3, 64, 64)."""

    def __init__(self, depth: int):
        super().__init__()
        channels = itertools.pairwise((32 * depth, 4 * depth, 2 * depth, depth, 3))
        layers: list[nn.Module] = []
        for (inputs, outputs), kernel in zip(channels, (5, 5, 6, 6), strict=True):
            layers += [nn.ConvTranspose2d(inputs, outputs, kernel, stride=2), nn.ELU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, code: Tensor) -> Tensor:
        return self.layers(code[:, :, None, None])


class RSSM(nn.Module):
    """GRU, prior and posterior."""

    def __init__(self, config: WorldModelConfig, embed_dim: int, action_dim: int):
        super().__init__()
        self.sizes = sizes = config.rssm
        latent, hidden = sizes.categoricals * sizes.classes, sizes.hidden
        self.action_in = nn.Linear(action_dim, hidden)
        self.latent_in = nn.Linear(latent, hidden, bias=False)
        self.input_norm = nn.LayerNorm(hidden)
        self.gru = nn.GRUCell(hidden, sizes.recurrent)
        self.prior_head = nn.Sequential(
            nn.Linear(sizes.recurrent, hidden), nn.LayerNorm(hidden), nn.ELU(), nn.Linear(hidden, latent)
        )
        self.embed_in = nn.Linear(embed_dim, hidden)
        self.recurrent_in = nn.Linear(sizes.recurrent, hidden, bias=False)
        self.posterior_head = nn.Sequential(nn.LayerNorm(hidden), nn.ELU(), nn.Linear(hidden, latent))

    def step(self, h: Tensor, z: Tensor, action: Tensor, embed: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """-> next h, next z, prior and posterior logits (B, C, K)."""
        h = self.gru(F.elu(self.input_norm(self.latent_in(z) + self.action_in(action))), h)
        prior = self.prior_head(h).unflatten(-1, noise.shape[1:])
        posterior = self.posterior_head(self.recurrent_in(h) + self.embed_in(embed)).unflatten(-1, noise.shape[1:])
        hard = F.one_hot((posterior + noise).argmax(-1), self.sizes.classes).float()
        soft = posterior.softmax(-1)
        return h, (hard + soft - soft.detach()).flatten(1), prior, posterior


class PlainWorldModel(nn.Module):
    """Both cameras and the robot state in, both cameras out."""

    def __init__(self, config: WorldModelConfig, spec: Spec):
        super().__init__()
        self.config = config
        self.names = [camera.name for camera in spec.cameras]
        code, latent = 32 * config.depth, config.rssm.categoricals * config.rssm.classes
        self.encoders = nn.ModuleDict({name: Encoder(config.depth) for name in self.names})
        self.fusion = nn.Sequential(nn.Linear(code * len(self.names), code), nn.LayerNorm(code), nn.ELU())
        self.rssm = RSSM(config, code + spec.state_dim, spec.action_dim)
        self.decoder_in = nn.Linear(config.rssm.recurrent + latent, code)
        self.decoders = nn.ModuleDict({name: Decoder(config.depth) for name in self.names})
        for camera in spec.cameras:
            self.register_buffer(f"{camera.name}_mean", torch.zeros(*camera.size, 3))
            self.register_buffer(f"{camera.name}_std", torch.ones(()))
        self.register_buffer("state_mean", torch.zeros(spec.state_dim))
        self.register_buffer("state_std", torch.ones(spec.state_dim))

    def loss(
        self, images: Mapping[str, Tensor], state: Tensor, actions: Tensor, reset: Tensor, noise: Tensor
    ) -> Tensor:
        """beta * KL + half the squared error of all pixels.

        Args:
            images: camera -> (B, T, 64, 64, 3) uint8.
            state: (B, T, S) robot state.
            actions: (B, T, A) that led to each frame.
            reset: (B, T) bool, steps that begin from zero.
            noise: (B, T, C, K) Gumbel noise of the samples.
        """
        sizes, (rows, length) = self.config.rssm, reset.shape
        pixels = {n: images[n].flatten(0, 1).permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5 for n in self.names}
        mean = {n: self.get_buffer(f"{n}_mean").permute(2, 0, 1).contiguous() for n in self.names}
        std = {n: self.get_buffer(f"{n}_std") for n in self.names}
        codes = [self.encoders[n]((pixels[n] - mean[n]) / std[n]) for n in self.names]
        fused = self.fusion(torch.cat(codes, -1)).unflatten(0, (rows, length))
        embeds = torch.cat([fused, (state - self.state_mean) / self.state_std], -1)
        h = state.new_zeros(rows, sizes.recurrent)
        z = state.new_zeros(rows, sizes.categoricals * sizes.classes)
        features, kl = [], state.new_zeros(())
        for t in range(length):
            keep = (~reset[:, t, None]).float()
            h, z, prior, posterior = self.rssm.step(h * keep, z * keep, actions[:, t] * keep, embeds[:, t], noise[:, t])
            features.append(torch.cat([h, z], -1))
            balance = self.config.kl_balance
            kl = kl + balance * divergence(posterior.detach(), prior) / (rows * length)
            kl = kl + (1 - balance) * divergence(posterior, prior.detach()) / (rows * length)
        code = self.decoder_in(torch.stack(features, 1).flatten(0, 1))
        error = state.new_zeros(())
        for n in self.names:
            error = error + (self.decoders[n](code) * std[n] + mean[n] - pixels[n]).square().sum()
        return self.config.beta * kl + 0.5 * error / (rows * length)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of logits (B, C, K), summed over everything, nats."""
    return (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum()


def adamw(model: nn.Module, config: WorldModelConfig) -> torch.optim.AdamW:
    """One parameter at a time."""
    return torch.optim.AdamW(
        model.parameters(),
        config.learning_rate,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        foreach=False,
        fused=False,
    )


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float) -> None:
    """One optimiser step."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=False)
    optimizer.step()
