"""Held-out check: encode a few frames, imagine on under the recorded actions, compare with what was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from diwa_data.files import atomic_path
from diwa_data.images import fitted
from diwa_learning.world_model.model import POSITION, WorldModel
from diwa_learning.world_model.networks import to_uint8
from diwa_learning.world_model.replay import Batch
from diwa_learning.world_model.rssm import State, categorical_kl


@dataclass(frozen=True)
class Strip:
    """Pictures in rows, drawn equally wide."""

    rows: Mapping[str, np.ndarray]
    """Label -> (N, H, W, 3) uint8."""
    columns: Sequence[str] = ()
    """N labels on top, or none."""
    title: str = ""


def draw_filmstrip(path: Path, *strips: Strip) -> None:
    """Write a PNG of strips, one below the other."""
    mosaics = [
        np.concatenate(
            [np.concatenate([fitted(f, width=_width(strip)) for f in row], 1) for row in strip.rows.values()]
        )
        for strip in strips
    ]
    high = [
        len(mosaic) / _width(strip) + 0.5 * bool(strip.columns) for mosaic, strip in zip(mosaics, strips, strict=True)
    ]
    count = max(mosaic.shape[1] / _width(strip) for mosaic, strip in zip(mosaics, strips, strict=True))
    figure = Figure(figsize=(count + 1, sum(high) + 0.15), layout="constrained")
    axes = figure.subplots(len(strips), squeeze=False, height_ratios=high)[:, 0]
    for axis, mosaic, strip in zip(axes, mosaics, strips, strict=True):
        width = _width(strip)
        heights = np.array([round(row.shape[1] * width / row.shape[2]) for row in strip.rows.values()])
        axis.imshow(mosaic, interpolation="nearest")
        axis.xaxis.tick_top()
        axis.set_xticks((np.arange(len(strip.columns)) + 0.5) * width - 0.5, strip.columns)
        axis.set_yticks(np.cumsum(heights) - heights / 2 - 0.5, list(strip.rows))
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(strip.title, loc="left")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _width(strip: Strip) -> int:
    """Pixels of each of its pictures."""
    return max(frames.shape[2] for frames in strip.rows.values())


CONTEXT = 2
"""Frames that are encoded before imagination begins."""
HORIZON = 80
"""Actions imagined."""


@dataclass(frozen=True)
class OpenLoop:
    """Per imagined step, means over clips and cameras; NaN where no clip is as long. T imagined steps."""

    psnr: np.ndarray
    """(T,) dB, imagined against recorded."""
    ssim: np.ndarray
    """(T,) structural similarity, imagined against recorded."""
    still_psnr: np.ndarray
    """(T,) dB of the last encoded frame, repeated: what a model that ignores actions could reach."""
    kl: np.ndarray
    """(T,) nats, KL(posterior || prior) while filtering the same frames."""
    errors: dict[str, np.ndarray]
    """Name -> (T,) error of the decoded state: `position`, metres between imagined and recorded hand, and in the hybrid
    variant each number of the scene state, mean absolute error in its unit. Empty without a decoder."""
    imagined: dict[str, Tensor]
    """Camera -> (B, context + T, H, W, 3) uint8; the context frames are reconstructions."""

    def summary(self) -> dict[str, Any]:
        """Plain numbers for metrics.json."""
        curves = {"psnr": self.psnr, "ssim": self.ssim, "still_psnr": self.still_psnr, "kl": self.kl}
        curves |= {f"{name}_error": error for name, error in self.errors.items()}
        means = {f"open_loop_{name}": round(float(np.nanmean(curve)), 4) for name, curve in curves.items()}
        known = ~np.isnan(self.psnr)
        return {**means, "open_loop_steps": {name: np.round(c[known], 4).tolist() for name, c in curves.items()}}


@torch.no_grad()
def open_loop(model: WorldModel, batch: Batch, seed: int = 0, context: int = CONTEXT) -> OpenLoop:
    """Imagine the frames of `batch` (B, context + T) from its first `context`; torch's generator stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        embeds = model.embed(batch.images, batch.state, batch.target)
        observed = model.rssm.observe(embeds, batch.previous_actions, torch.zeros_like(batch.valid))
        start = observed.states[:, context - 1]
        future = model.rssm.imagine(start, batch.previous_actions[:, context:])
    features = torch.cat([observed.states.features[:, :context], future.features], 1)
    imagined = {name: to_uint8(image) for name, image in model.decode(features).items()}
    kl = categorical_kl(observed.posterior_logits, observed.prior_logits)  # (B, T)
    pairs = [(imagined[name][:, context:], batch.images[name][:, context:]) for name in imagined]
    still = [real[:, context - 1 : context].expand_as(real[:, context:]) for real in batch.images.values()]
    valid = batch.valid[:, context:]
    errors = state_errors(model, future, batch.state[:, context:])
    return OpenLoop(
        psnr=_mean(torch.stack([psnr(a, b) for a, b in pairs]).mean(0), valid),
        ssim=_mean(torch.stack([ssim(a, b) for a, b in pairs]).mean(0), valid),
        still_psnr=_mean(torch.stack([psnr(s, b) for s, (_, b) in zip(still, pairs, strict=True)]).mean(0), valid),
        kl=_mean(kl[:, context:], valid),
        errors={name: _mean(error, valid) for name, error in errors.items()},
        imagined=imagined,
    )


def state_errors(model: WorldModel, imagined: State, state: Tensor) -> dict[str, Tensor]:
    """`OpenLoop.errors` of single frames, (B, T): of what `model` decodes from model states (B, T), given the true."""
    if model.state_decoder is None:
        return {}
    error = model.decode_state(imagined) - state
    scene = model.spec.scene_state if model.config.scene_state else ()
    first = model.spec.state_dim
    numbers = {name: error[..., first + number].abs() for number, name in enumerate(scene)}
    return {"position": error[..., POSITION].norm(dim=-1), **numbers}


@torch.no_grad()
def action_check(model: WorldModel, batch: Batch, seed: int = 0) -> dict[str, float]:
    """Mean KL(posterior || prior) of clips filtered under their own actions, and under wrong ones.

    `recorded` is the lowest if the model uses the action that led to each frame; `late` and `early` shift the actions
    by one step, `shuffled` permutes them in time.
    """
    right, embeds = batch.previous_actions, model.embed(batch.images, batch.state, batch.target)
    kls = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        order = torch.randperm(right.shape[1])
        candidates = {
            "recorded": right,
            "late": torch.cat([right[:, :1], right[:, :-1]], 1),
            "early": torch.cat([right[:, 1:], right[:, -1:]], 1),
            "shuffled": right[:, order],
        }
        for name, actions in candidates.items():
            observed = model.rssm.observe(embeds, actions, torch.zeros_like(batch.valid))
            kl = categorical_kl(observed.posterior_logits, observed.prior_logits)[:, CONTEXT:]
            kls[name] = round(float(kl[batch.valid[:, CONTEXT:]].mean()), 4)
    return kls


def _mean(values: Tensor, valid: Tensor) -> np.ndarray:
    """(B, T) -> (T,) mean over valid rows, NaN where there is none."""
    return ((values * valid).sum(0) / valid.sum(0)).cpu().numpy()


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of (..., H, W, 3) uint8 images -> (...) dB; 60 at most (equal images)."""
    mse = (one.float() - other.float()).square().mean((-3, -2, -1)) / 255.0**2
    return -10.0 * mse.clamp(min=1e-6).log10()


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of (..., H, W, 3) uint8 images -> (...).

    Wang et al. 2004: Gaussian window of 11 pixels and sigma 1.5, no padding, mean over pixels and channels.
    """
    leading = one.shape[:-3]
    x, y = (image.flatten(end_dim=-4).permute(0, 3, 1, 2).float() / 255.0 for image in (one, other))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((1, 2, 3)).unflatten(0, leading)


def _blur(image: Tensor) -> Tensor:
    """Separable Gaussian window over (N, 3, H, W), valid part only."""
    offsets = torch.arange(-5, 6, device=image.device, dtype=image.dtype)
    weights = (-(offsets**2) / (2 * 1.5**2)).exp()
    weights = (weights / weights.sum()).expand(3, 1, 11)
    rows = F.conv2d(image, weights[..., None], groups=3)
    return F.conv2d(rows, weights[:, :, None], groups=3)


def save_filmstrip(
    path: Path, batch: Batch, imagined: dict[str, Tensor], clip: int = 0, columns: int = 12, context: int = CONTEXT
) -> None:
    """Draw one clip, per camera a row of recorded frames above a row of imagined ones, evenly spaced in time."""
    length = int(batch.valid[clip].sum())
    steps = np.unique(np.linspace(0, length - 1, columns).astype(int))
    rows = {
        f"{name}\n{kind}": images[name][clip, steps].cpu().numpy()
        for name in imagined
        for kind, images in (("recorded", batch.images), ("imagined", imagined))
    }
    labels = ["encoded" if step < context else f"+{step - context + 1}" for step in steps]
    draw_filmstrip(path, Strip(rows, labels))
