"""Random numbers of a world model's loss, drawn apart from it: several processes share one batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.rssm import gumbel


@dataclass(frozen=True)
class Draws:
    """Random numbers and weights of a loss on B sequences of T frames.

    Rows are independent, so that several processes can share one batch.
    """

    weight: Tensor
    """(B, T) share of each frame in a mean over all valid frames of the batch; 0 where padded."""
    reset: Tensor
    """(B, T) bool: h, z and the previous action are zeroed before this step."""
    noise: Tensor
    """(B, T, C, K) Gumbel noise of the posterior samples."""
    frames: Tensor
    """(B, N) different frames of each sequence to decode; valid ones before padded ones; N = T is all of them."""
    imagined_weight: Tensor
    """(B, S * I) as `weight`, over the frames 1 to S * I alone; imagination takes I steps from every I-th frame."""
    imagined_noise: Tensor
    """(B, S, I, C, K) Gumbel noise of the prior samples; S = 0 without imagination."""


def draw(valid: Tensor, config: WorldModelConfig) -> Draws:
    """Draw from torch's global generator of the device of `valid` (B, T) bool; sizes depend on shapes alone."""
    (rows, length), device = valid.shape, valid.device
    latent = (config.rssm.categoricals, config.rssm.classes)
    steps = config.imagined_steps
    starts = len(range(0, length - steps, steps)) if steps else 0
    count = max(1, round(config.decode_fraction * length))
    keys = torch.rand(rows, length, device=device).masked_fill(~valid, 2.0)
    return Draws(
        weight=_shares(valid),
        reset=torch.rand(rows, length, device=device) < config.reset_probability,
        noise=gumbel(rows, length, *latent, device=device),
        frames=keys.argsort(1)[:, :count],
        imagined_weight=_shares(valid[:, 1 : 1 + starts * steps]),
        imagined_noise=gumbel(rows, starts, steps, *latent, device=device),
    )


def _shares(valid: Tensor) -> Tensor:
    return valid / valid.sum().clamp(min=1)
