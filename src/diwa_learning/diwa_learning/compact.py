"""Checkpoints as small as deployment allows: a byte a weight, and nothing that only training needs.

A matrix is stored as whole numbers of -127 .. 127, with a scale for each of its rows. `diwa_learning.tensor_file` reads
such a file as it reads any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diwa_learning.checkpoint import FORMAT, Checkpoint, read_header, weights_hash, write_checkpoint
from diwa_learning.tensor_file import SCALE

TRAINING_ONLY = ("decoder_in.", "decoders.", "state_decoder.", "component_decoder.", "critic.")
"""What tensors begin with that no robot needs."""
SMALL = 1024
"""Tensors of fewer numbers stay as they are."""


def write_compact(checkpoint: Checkpoint, out: Path, world_model_hash: str | None = None) -> str:
    """Write a checkpoint to the folder `out` for deployment, bound to the world model `world_model_hash`.

    Returns the hash of what was written: its numbers are rounded, so it is another model than the one it is made of.
    """
    header = read_header(checkpoint.path) | {"world_model": world_model_hash, "format": FORMAT}
    metrics = {name: value for name, value in checkpoint.metrics.items() if name != "history"}
    needed = {name: t for name, t in checkpoint.weights.items() if not name.startswith(TRAINING_ONLY)}
    write_checkpoint(out, header, checkpoint.spec, metrics, compact(needed))
    return weights_hash(out)


def compact(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every matrix as int8 with the scales (rows,) of its rows beside it; other tensors as they are."""
    found = {}
    for name, tensor in weights.items():
        if tensor.ndim < 2 or tensor.numel() < SMALL:
            found[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        found[name] = (rows / scale[:, None]).round().to(torch.int8).view(tensor.shape)
        found[name + SCALE] = scale
    return found
