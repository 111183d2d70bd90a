"""When a skill counts as done: once the classifier has been sure for several control ticks running.

One sure tick is not enough: among many, one is wrong. Dreams, evaluation and deployment count by the same function.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

SUCCESS_TICKS = 3
"""Ticks running that the classifier must be sure, 0.4 s at 7.5 Hz."""


def run_length(sure: Any, before: Any) -> Any:
    """Ticks running that the classifier has been sure of success: one more than `before` where it is, otherwise 0.

    Of one robot or of many: two numbers, or arrays or tensors of one shape; `sure` is true or false.
    """
    return (before + 1) * sure


def run_lengths(sure: Tensor, before: Tensor) -> Tensor:
    """Run lengths (..., T) at each tick of verdicts `sure` (..., T) that continue runs of length `before` (...)."""
    lengths = []
    for verdict in sure.unbind(-1):
        before = run_length(verdict, before)
        lengths.append(before)
    return torch.stack(lengths, -1)


def done_tick(sure: Iterable[bool], ticks: int) -> int | None:
    """Index of the tick at which the verdicts have been `sure` for `ticks` ticks running; None if they never are."""
    length = 0
    for tick, verdict in enumerate(sure):
        length = run_length(bool(verdict), length)
        if 0 < ticks <= length:
            return tick
    return None
