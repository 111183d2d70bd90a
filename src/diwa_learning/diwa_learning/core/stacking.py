"""Several networks of one form as one: parameters with a leading axis R of runs, one batched product for all.

A layer with weights (O, I) maps (..., I) to (..., O); stacked to (R, O, I) it maps (R, ..., I) to (R, ..., O), each run
by its own weights. Code that counts its axes from the end serves one run and a stack of them alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

M = TypeVar("M", bound=nn.Module)


class Linear(nn.Linear):
    """A linear layer that can be stacked."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """A layer norm that can be stacked; then it maps (R, B, I) to (R, B, I)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dim() == 1:
            return super().forward(x)
        normalised = functional.layer_norm(x, x.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias[:, None], normalised, self.weight[:, None])


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., I), weight (O, I), bias (O,) -> (..., O); the same run by run with weight (R, O, I), bias (R, O).

    Stacked, x is (R, ..., I), or (B, I) that all runs share.
    """
    if weight.dim() == 2:
        return functional.linear(x, weight, bias)
    inner = x.expand(len(weight), *x.shape[-2:]) if x.dim() < 3 else x
    flat = inner.flatten(1, -2)  # (R, B, I)
    product = torch.bmm(flat, weight.mT) if bias is None else torch.baddbmm(bias[:, None], flat, weight.mT)
    return product.unflatten(1, inner.shape[1:-1])


def rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows `index` (..., M) of x (..., C, *): (..., M, *); stacked, each run's index counts in its own rows."""
    if index.dim() == 1:
        return x.index_select(0, index)
    offset = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + offset).flatten()).unflatten(0, index.shape)


def join(tensors: Sequence[Tensor]) -> Tensor:
    """(R, ...) of the tensors of R runs; a single one is returned as it is."""
    return torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0]


def stack(modules: Sequence[M]) -> M:
    """One module with the parameters and buffers of all, each (R, ...); a single one is returned as it is.

    What a state_dict leaves out is the same in all, and stays as it is.
    """
    if len(modules) == 1:
        return modules[0]
    stacked = copy.deepcopy(modules[0])
    saved = stacked.state_dict().keys()
    for name, inner in stacked.named_modules():
        others = [module.get_submodule(name) for module in modules]
        for key, value in inner.named_parameters(recurse=False):
            together = torch.stack([other.get_parameter(key).detach() for other in others])
            setattr(inner, key, nn.Parameter(together, value.requires_grad))
        for key, _ in inner.named_buffers(recurse=False):
            if f"{name}.{key}".lstrip(".") in saved:
                setattr(inner, key, torch.stack([other.get_buffer(key) for other in others]))
    return stacked


class Slice:
    """Run `index` of a stacked module or of the optimiser of one, with the state_dict that it has alone."""

    def __init__(self, stacked: nn.Module | torch.optim.Optimizer, index: int):
        self._stacked, self._index = stacked, index

    def state_dict(self) -> dict[str, Any]:
        if isinstance(self._stacked, nn.Module):
            return {name: tensor[self._index] for name, tensor in self._stacked.state_dict().items()}
        state = self._stacked.state_dict()
        return {**state, "state": {key: self._of_run(value) for key, value in state["state"].items()}}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Runs of one stack have done the same number of steps."""
        if isinstance(self._stacked, nn.Module):
            for name, tensor in self._stacked.state_dict().items():
                tensor[self._index].copy_(state[name])
            return
        for parameter, saved in zip(self._parameters(), state["state"].values(), strict=False):
            mine = self._stacked.state[parameter]
            for key, value in saved.items():
                if value.dim() == 0:
                    mine[key] = value.to(parameter.device)
                    continue
                mine.setdefault(key, torch.zeros_like(parameter))[self._index].copy_(value)

    def _parameters(self) -> Iterator[Tensor]:
        assert isinstance(self._stacked, torch.optim.Optimizer)
        for group in self._stacked.param_groups:
            yield from group["params"]

    def _of_run(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: value[self._index] if value.dim() else value for key, value in state.items()}


class Stream:
    """The generator of one run, with torch's state_dict protocol."""

    def __init__(self, seed: int, device: torch.device | str = "cpu"):
        self.generator = torch.Generator(device).manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.generator.set_state(state["state"])


class Streams:
    """Draws for all runs at once: (*shape) for one run, (R, *shape) for a stack of R."""

    def __init__(self, streams: Sequence[Stream]):
        self._generators = [stream.generator for stream in streams]
        self.leading = (len(streams),) if len(streams) > 1 else ()
        """() or (R,): what stands before the shape of every draw."""
        self.device = self._generators[0].device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return self._fill(shape, lambda row, generator: row.normal_(generator=generator))

    def gumbel(self, *shape: int) -> Tensor:
        """Standard Gumbel."""
        return self.uniform(*shape).log_().neg_().log_().neg_()  # seven times as fast as from exponential draws

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1)."""
        return self._fill(shape, lambda row, generator: row.uniform_(generator=generator))

    def permutation(self, count: int) -> Tensor:
        """(..., count) int64: 0 .. count - 1 in random order."""
        drawn = [torch.randperm(count, generator=g, device=self.device) for g in self._generators]
        return torch.stack(drawn) if self.leading else drawn[0]

    def _fill(self, shape: tuple[int, ...], draw: Callable[[Tensor, torch.Generator], Any]) -> Tensor:
        drawn = torch.empty(*self.leading, *shape, device=self.device)
        for row, generator in zip(drawn if self.leading else [drawn], self._generators, strict=True):
            draw(row, generator)
        return drawn
