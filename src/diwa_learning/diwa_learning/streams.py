"""Random numbers of one run or of a stack of runs: each from a generator of its own, the same alone as in a stack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


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
