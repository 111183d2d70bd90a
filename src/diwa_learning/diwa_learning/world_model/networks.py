"""Convolutional encoder and decoder of one camera, and the dense block that everything else uses (DreamerV2)."""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class Convolution(nn.Conv2d):
    """A convolution of stride 2 without padding: (N, C, H, W) -> (N, O, h, w), channels_last in memory."""

    def forward(self, image: Tensor) -> Tensor:
        if not _by_onednn(image) or image.shape[-1] > SMALL_MAP:
            return super().forward(image)
        return _SmallConvolution.apply(image, self.weight, self.bias)


class TransposedConvolution(nn.ConvTranspose2d):
    """A transposed convolution of stride 2 without padding: (N, C, h, w) -> (N, O, H, W), channels_last in memory."""

    def forward(self, image: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not _by_onednn(image):
            return super().forward(image, output_size)
        return _TransposedConvolution.apply(image, self.weight, self.bias)


def _by_onednn(image: Tensor) -> bool:
    """Whether PyTorch convolves by oneDNN, whose weak spots the functions below go round."""
    return image.device.type == "cpu" and bool(torch.backends.mkldnn.enabled)


half_under_autocast = torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)

SMALL_MAP = 6
"""Pixels a side up to which matrix products are faster than oneDNN's convolution."""


class _SmallConvolution(torch.autograd.Function):
    """A convolution as one product of the image's patches, and so is the gradient of its weight.

    On small maps oneDNN takes three times as long for that gradient; that of the image it forms as fast.
    """

    @staticmethod
    @half_under_autocast
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        (count, channels, height, width), (outputs, _, size, _) = image.shape, weight.shape
        rows, columns = (height - size) // 2 + 1, (width - size) // 2 + 1
        pixels = image.permute(0, 2, 3, 1).contiguous()
        n, y, x, c = pixels.stride()
        windows = pixels.as_strided((count, rows, columns, size, size, channels), (n, 2 * y, 2 * x, y, x, c))
        patches = windows.reshape(-1, size * size * channels)
        output = _empty(image, outputs, rows, columns)
        flat = output.permute(0, 2, 3, 1).view(-1, outputs)
        torch.addmm(bias, patches, weight.permute(0, 2, 3, 1).flatten(1).t(), out=flat)
        ctx.save_for_backward(image, weight, patches)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image, weight, patches = ctx.saved_tensors
        outputs, channels, size, _ = weight.shape
        flat = gradients[0].permute(0, 2, 3, 1).reshape(-1, outputs)
        of_weight = (flat.t() @ patches).view(outputs, size, size, channels).permute(0, 3, 1, 2)
        return _gradient("image", gradients[0], image, weight), of_weight, flat.sum(0)


class _TransposedConvolution(torch.autograd.Function):
    """A transposed convolution is the gradient of a convolution, and its gradients are convolutions.

    Formed as such they take oneDNN half the time that it needs for what it calls a transposed convolution. With an
    even kernel, a plain convolution to the four pixels of each 2x2 cell of the output is faster still.
    """

    @staticmethod
    @half_under_autocast
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        (_, _, height, width), (_, outputs, size, _) = image.shape, weight.shape
        output = _empty(image, outputs, 2 * (height - 1) + size, 2 * (width - 1) + size)
        if size % 2:
            return _gradient("image", image, output, weight).add_(bias[:, None, None])
        taps = size // 2
        kernel = weight.unflatten(3, (taps, 2)).unflatten(2, (taps, 2)).flip(2, 4)  # (C, O, taps, 2, taps, 2)
        kernel = kernel.permute(3, 5, 1, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
        cells = F.conv2d(image, kernel, bias.repeat(4), padding=taps - 1).permute(0, 2, 3, 1)
        pixels = output.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        pixels.copy_(cells.unflatten(-1, (2, 2, outputs)).transpose(2, 3))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        of_weight = _gradient("weight", image, gradient, weight)
        return F.conv2d(gradient, weight, stride=2), of_weight, gradient.sum((0, 2, 3))


def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    shape = (len(like), channels, height, width)
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


def _gradient(of: Literal["image", "weight"], of_output: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the image or of the weight of a convolution of stride 2, from that of its output."""
    wanted = [of == "image", of == "weight", False]
    stride, padding, dilation = [2, 2], [0, 0], [1, 1]
    found = torch.ops.aten.convolution_backward(
        of_output, image, weight, None, stride, padding, dilation, False, padding, 1, wanted
    )
    return found[wanted.index(True)]


class ImageEncoder(nn.Module):
    """Four convolutions, kernel 4, stride 2, no padding, ELU: (N, 3, H, W) -> (N, `output_dim`).

    An image of 64x64 becomes 32 * depth numbers, the 2x2 pixels that the last convolution leaves of it.
    """

    def __init__(self, depth: int, size: tuple[int, int]):
        super().__init__()
        self.size = size
        channels = (3, depth, 2 * depth, 4 * depth, 8 * depth)
        self.layers = nn.Sequential()
        for inputs, outputs in itertools.pairwise(channels):
            self.layers.extend([Convolution(inputs, outputs, 4, stride=2), nn.ELU(inplace=True)])
        self.output_dim = 8 * depth * math.prod(side // 16 - 2 for side in size)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, `output_dim`)."""
        assert image.shape[1:] == (3, *self.size), image.shape
        return self.layers(image).flatten(1)


class PerCamera(nn.ModuleDict):
    """A module for each camera, by its name. PyTorch refuses the names of its own methods, such as `half`."""

    def add_module(self, name: str, module: nn.Module | None) -> None:
        self._modules[name] = module  # type: ignore[assignment]


class ImageDecoder(nn.Module):
    """Four transposed convolutions, stride 2, ELU between: (N, 32 * depth) -> (N, 3, H, W).

    Kernels are 5, 5, 6, 6 for images of 64x64; the first, which begins from one pixel, grows with the image.
    """

    def __init__(self, depth: int, size: tuple[int, int]):
        super().__init__()
        self.size = size
        first = (size[0] // 8 - 3, size[1] // 8 - 3)
        channels = (32 * depth, 4 * depth, 2 * depth, depth, 3)
        kernels: tuple[int | tuple[int, int], ...] = (first, 5, 6, 6)
        self.layers = nn.Sequential()
        for inputs, outputs, kernel in zip(channels, channels[1:], kernels, strict=False):
            self.layers.extend([TransposedConvolution(inputs, outputs, kernel, stride=2), nn.ELU(inplace=True)])
        del self.layers[-1]  # pixels are unbounded

    def forward(self, code: Tensor) -> Tensor:
        """(N, 32 * depth) -> (N, 3, H, W)."""
        first, *rest = self.layers  # on one pixel the first is a matrix product, which runs many times faster as such
        assert isinstance(first, nn.ConvTranspose2d)
        assert first.bias is not None
        image = (code @ first.weight.flatten(1)).unflatten(1, first.weight.shape[1:]) + first.bias[:, None, None]
        image = image.contiguous(memory_format=torch.channels_last)
        for layer in rest:
            image = layer(image)
        assert image.shape[1:] == (3, *self.size), image.shape
        return image


RANK_TOLERANCE = 1e-6
"""Share of the largest variance below which a principal component is noise."""
ROUNDING = 1e-6
"""Standard deviation of every pixel, which is 0 to 1, below which pictures are all the same."""


def principal_components(centred: Tensor, count: int) -> Tensor:
    """Up to `count` directions (K, D) along which `centred` (N, D) varies most, scaled to unit variance."""
    values, vectors = torch.linalg.eigh(centred @ centred.T)  # ascending
    count = min(count, len(centred) - 1)
    values, vectors = values[-count:].flip(0), vectors[:, -count:].flip(1)
    # An eigenvalue is N times a component's variance: the first root makes the direction a unit one, the second the
    # projection's variance one.
    noise = torch.maximum(RANK_TOLERANCE * values[0], values.new_tensor(ROUNDING**2 * centred.numel()))
    scale = torch.where(values > noise, len(centred) ** 0.5 / values, 0.0)
    return (centred.T @ vectors * scale).T


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
        found = principal_components(centred, len(self.basis))
        self.basis.zero_()
        self.basis[: len(found)] = found
        self.offset.copy_(self.basis @ mean)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, K), of unit variance over the frames that were fitted."""
        return _flat(images) @ self.basis.T - self.offset


def _flat(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, H*W*3), the order in which images lie in memory."""
    return images.permute(0, 2, 3, 1).flatten(1)
