"""Slow features of the pictures (Wiskott and Sejnowski 2002): the linear ones that change least from frame to frame.

The arm moves in every frame, a drawer or a lamp only now and then. What is slow in a picture is the furniture, which
covers few pixels and which an autoencoder of the pictures is the last to care for.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diwa_learning.world_model.networks import ROUNDING, principal_components

PRINCIPAL = 192
"""Principal components of each camera among which the slow features are sought."""
NOISE = 1e-2
"""Variance of white noise that every principal component, whose variance is 1, is taken to have on top: what hardly
varies is not slow."""


class SlowFeatures(nn.Module):
    """Projects the pictures of all cameras on S features of unit variance and mean 0, the slowest first."""

    offset: Tensor
    """(S,) what the mean pictures give."""
    change: Tensor
    """(S,) standard deviation of the change from one frame to the next; 1 where there is none."""

    def __init__(self, count: int, pixels: Mapping[str, int]):
        """`pixels`: camera -> numbers in a picture, H*W*3."""
        super().__init__()
        self.cameras = list(pixels)
        for camera, number in pixels.items():
            self.register_buffer(f"{camera}_basis", torch.zeros(count, number))
        self.register_buffer("offset", torch.zeros(count))
        self.register_buffer("change", torch.ones(count))

    @torch.no_grad()
    def fit(self, frames: Mapping[str, Tensor], following: Mapping[str, Tensor]) -> None:
        """Find them from N frames, camera -> (N, H, W, 3) uint8, and those that follow each; what N frames cannot tell
        apart stays zero."""
        means, bases, before, after = {}, {}, [], []
        for camera in self.cameras:
            flat = flatten(frames[camera])
            means[camera] = flat.mean(0)
            bases[camera] = principal_components(flat - means[camera], PRINCIPAL)
            before.append((flat - means[camera]) @ bases[camera].T)
            after.append((flatten(following[camera]) - means[camera]) @ bases[camera].T)
        both = torch.cat(before, 1), torch.cat(after, 1)
        directions = slowest(*both, len(self.offset))  # (s, components)
        change = ((both[1] - both[0]) @ directions.T).square().mean(0).sqrt()
        self.change.fill_(1.0)[: len(change)] = torch.where(change > ROUNDING, change, 1.0)
        self.offset.zero_()
        for camera, part in zip(self.cameras, directions.split([len(b) for b in bases.values()], dim=1), strict=True):
            basis = self._basis(camera)
            basis.zero_()
            basis[: len(part)] = part @ bases[camera]
            self.offset.add_(basis @ means[camera])

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Camera -> (N, H, W, 3) uint8 -> (N, S), in float32: a filter must see what the training saw."""
        with torch.autocast(self.offset.device.type, enabled=False):
            projected = [flatten(images[camera]) @ self._basis(camera).T for camera in self.cameras]
            return torch.stack(projected).sum(0) - self.offset

    def _basis(self, camera: str) -> Tensor:
        return self.get_buffer(f"{camera}_basis")


def slowest(before: Tensor, after: Tensor, count: int) -> Tensor:
    """Up to `count` directions (S, D) along which (N, D) and what follows differ least, each of unit variance."""
    change, noise = after - before, NOISE * torch.eye(before.shape[1], device=before.device)
    whiten = torch.linalg.inv(torch.linalg.cholesky(before.T @ before / len(before) + noise))
    _, vectors = torch.linalg.eigh(whiten @ (change.T @ change / len(change) + 2 * noise) @ whiten.T)  # ascending
    return vectors[:, :count].T @ whiten


def flatten(images: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, H*W*3) float32 in [0, 1]."""
    return images.flatten(1).float() / 255.0
