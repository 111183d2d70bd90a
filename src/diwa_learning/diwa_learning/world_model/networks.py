"""Convolutional encoder and decoder of one camera, and the dense block that everything else uses (DreamerV2)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from diwa_data.errors import DiwaError
from diwa_data.spec import CameraSpec

IMAGE_SIZE = (64, 64)


def dense(inputs: int, outputs: int) -> nn.Sequential:
    """Linear -> LayerNorm -> ELU, (..., inputs) -> (..., outputs)."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.ELU())


def to_network(image: Tensor, middle: float | Tensor = 0.0, scale: float | Tensor = 1.0) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W), channels_last in memory; of autocast's type where it is on.

    Pixels become [-0.5, 0.5], then less `middle`, (3, H, W) or a number of that unit, and divided by `scale`.
    """
    device = image.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    middle, scale = (torch.as_tensor(x, device=image.device) for x in (middle, scale))
    pixels = image.permute(0, 3, 1, 2).to(dtype)  # exact, also in bfloat16
    return pixels.sub_((255.0 * middle + 127.5).to(dtype)).div_((255.0 * scale).to(dtype))


def to_uint8(image: Tensor) -> Tensor:
    """(..., H, W, 3) float in [-0.5, 0.5] -> uint8, the inverse of `to_network` but for the layout."""
    return image.add(0.5).mul_(255.0).round_().clamp_(0, 255).to(torch.uint8)


class ImageEncoder(nn.Module):
    """Four convolutions, kernel 4, stride 2, no padding, ELU: (N, 3, 64, 64) -> (N, 32 * depth)."""

    def __init__(self, depth: int):
        super().__init__()
        channels = (3, depth, 2 * depth, 4 * depth, 8 * depth)
        self.layers = nn.Sequential()
        for inputs, outputs in itertools.pairwise(channels):
            self.layers.extend([nn.Conv2d(inputs, outputs, 4, stride=2), nn.ELU(inplace=True)])

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 64, 64) -> (N, 32 * depth)."""
        assert image.shape[1:] == (3, *IMAGE_SIZE), image.shape
        return self.layers(image).flatten(1)


class ImageDecoder(nn.Module):
    """Four transposed convolutions, kernels 5, 5, 6, 6, stride 2, ELU between: (N, 32 * depth) -> (N, 3, 64, 64)."""

    def __init__(self, depth: int):
        super().__init__()
        channels, kernels = (32 * depth, 4 * depth, 2 * depth, depth, 3), (5, 5, 6, 6)
        self.layers = nn.Sequential()
        for inputs, outputs, kernel in zip(channels, channels[1:], kernels, strict=False):
            self.layers.extend([nn.ConvTranspose2d(inputs, outputs, kernel, stride=2), nn.ELU(inplace=True)])
        del self.layers[-1]  # pixels are unbounded

    def forward(self, code: Tensor) -> Tensor:
        """(N, 32 * depth) -> (N, 3, 64, 64)."""
        first, *rest = self.layers  # on one pixel the first is a matrix product, which runs many times faster as such
        assert isinstance(first, nn.ConvTranspose2d)
        assert first.bias is not None
        image = (code @ first.weight.flatten(1)).unflatten(1, first.weight.shape[1:]) + first.bias[:, None, None]
        image = image.contiguous(memory_format=torch.channels_last)
        for layer in rest:
            image = layer(image)
        assert image.shape[1:] == (3, *IMAGE_SIZE), image.shape
        return image


def require_image_size(cameras: tuple[CameraSpec, ...]) -> None:
    """The convolutions fit 64x64 images only."""
    for camera in cameras:
        if tuple(camera.size) != IMAGE_SIZE:
            raise DiwaError(f"camera {camera.name!r} has size {camera.size}; the world model needs {IMAGE_SIZE}")


RANK_TOLERANCE = 1e-6
"""Share of the largest variance below which a principal component is noise."""


class PrincipalComponents(nn.Module):
    """Projects images on the leading principal components of some frames, each scaled to unit variance.

    A linear view of the whole picture: a lamp or a drawer that covers few pixels is one number in it, as large as
    the arm that covers many.
    """

    basis: Tensor
    """(K, H*W*3) what an image, minus the mean of the frames, is multiplied with."""
    offset: Tensor
    """(K,) the mean's own projection."""

    def __init__(self, count: int, pixels: int):
        super().__init__()
        self.register_buffer("basis", torch.zeros(count, pixels))
        self.register_buffer("offset", torch.zeros(count))

    def fit(self, images: Tensor) -> None:
        """Find the components of images (N, 3, H, W); what N frames cannot tell apart stays zero."""
        flat = _flat(images)
        mean = flat.mean(0)
        centred = flat - mean
        values, vectors = torch.linalg.eigh(centred @ centred.T)  # ascending
        count = min(len(self.basis), len(flat) - 1)
        values, vectors = values[-count:].flip(0), vectors[:, -count:].flip(1)
        # An eigenvalue is N times a component's variance: the first root makes the direction a unit one, the second
        # the projection's variance one.
        scale = torch.where(values > RANK_TOLERANCE * values[0], len(flat) ** 0.5 / values, 0.0)
        self.basis.zero_()
        self.basis[:count] = (centred.T @ vectors * scale).T
        self.offset.copy_(self.basis @ mean)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K), of unit variance over the frames that were fitted."""
        return _flat(images) @ self.basis.T - self.offset


def _flat(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, H*W*3), the order in which images lie in memory."""
    return images.permute(0, 2, 3, 1).flatten(1)
