"""Arithmetic of the world model: operations of a training step, and the device's best (METHOD section 8)."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from diwa_learning.sequences import Batch
from diwa_learning.world_model import WorldModel


@torch.no_grad()
def training_flops(model: WorldModel) -> float:
    """Floating point operations of an update, per frame: three times those of the loss; products alone count."""
    shape, spec, device = (1, model.config.sequence_length), model.spec, model.device
    images = {c.name: torch.zeros(*shape, *c.size, 3, dtype=torch.uint8, device=device) for c in spec.cameras}
    state, target, actions = (
        torch.zeros(*shape, size, device=device) for size in (model.state_dim, 3, spec.action_dim)
    )
    valid = torch.ones(shape, dtype=torch.bool, device=device)
    with FlopCounterMode(display=False) as counter:
        model.loss(Batch(images, state, target, actions, valid))
    return 3 * counter.get_total_flops() / shape[1]


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.bfloat16, size: int = 8192) -> float:
    """Operations per second of the best of several products of two large matrices."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
