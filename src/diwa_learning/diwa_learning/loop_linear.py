"""A linear map inside a loop over time, whose weight gets its gradient after the loop, in one matrix product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LoopLinear:
    """x_t (B, I) -> codes_t + x_t W^T (B, O), for t = 0 to T - 1 in this order.

    Autograd alone would add up T products of B rows each, reading and writing all of W's gradient every time, in the
    precision of autocast; here one product over all B * T rows does it.

    Args:
        weight: (O, I) W.
        codes: (B, T, O) what is added at each step, such as projected inputs or a bias; of the type of the products.
    """

    def __init__(self, weight: Tensor, codes: Tensor):
        self._inputs: list[Tensor] = []
        self._codes = _WeightGradient.apply(codes, weight, self._inputs).unbind(1)
        self._weight = weight.detach().to(codes.dtype).t()

    def __call__(self, x: Tensor) -> Tensor:
        """The next step's result."""
        x, code = x.to(self._weight.dtype), self._codes[len(self._inputs)]
        self._inputs.append(x.detach())
        return torch.addmm(code, x, self._weight)


class _WeightGradient(torch.autograd.Function):
    """`codes` as they are; backward also forms the weight's gradient, as that of the codes is that of the products."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs, ctx.dtype = inputs, weight.dtype
        return codes.view_as(codes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients  # (B, T, O)
        inputs = torch.stack(ctx.inputs, 1)  # (B, T, I)
        return gradient, (gradient.flatten(0, 1).t() @ inputs.flatten(0, 1)).to(ctx.dtype), None
