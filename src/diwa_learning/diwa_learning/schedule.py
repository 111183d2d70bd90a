"""Learning rates that change during a training."""

from __future__ import annotations

import math

import torch


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Learning rate of `step`: half a cosine from `first` at step 0 to `last` at step `steps` - 1."""
    progress = step / max(steps - 1, 1)
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
