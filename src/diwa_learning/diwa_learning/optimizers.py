"""Optimisers and their steps, for one run or a stack of them, inside CUDA graphs or outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def adam(network: nn.Module, rate: float) -> torch.optim.Adam:
    """Adam whose steps can be part of a CUDA graph."""
    parameters = list(network.parameters())
    return torch.optim.Adam(parameters, rate, fused=True, capturable=parameters[0].is_cuda)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step on a loss, a scalar or one of each run: no run's gradient reaches another."""
    optimizer.zero_grad(set_to_none=True)
    loss.sum().backward()
    optimizer.step()


def gradients(network: nn.Module, loss: Tensor) -> Tensor:
    """Leave the gradients of a loss in tensors that stay where they are, so that several graphs can share them.

    Returns the loss without its gradient.
    """
    network.zero_grad(set_to_none=False)
    loss.sum().backward()
    return loss.detach()
