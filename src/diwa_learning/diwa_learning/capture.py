"""A function of tensors as one CUDA graph: one launch for the thousands of small kernels of a recurrent loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

from diwa_data.errors import DiwaError
from diwa_learning.nests import map_tensors, tensors_of

WARM_UP = 3
"""Plain calls before the capture: libraries choose their kernels, buffers are made."""

T = TypeVar("T")


class Captured(Generic[T]):
    """`function`, called with tensors like `examples` (tensors, or nests of them); on the CPU just that call.

    On a GPU inputs are copied into buffers, the first calls run plainly on a stream of their own, the next one is
    captured, and that and all later ones replay the graph: every call runs `function` once, so it may have side
    effects on tensors, such as gradients. It must not wait for the device (`.item()`, `nonzero`, copies to or from
    the CPU). Its random numbers come from the default generator. What it returns is overwritten by the next call.

    Raises `DiwaError` for inputs of another shape or type than the examples, which a graph cannot take.
    """

    def __init__(self, function: Callable[..., T], *examples: Any):
        self._function = function
        self._on_gpu = any(tensor.is_cuda for tensor in tensors_of(examples))
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output: Any = None
        self._inputs = examples
        if self._on_gpu:
            self._inputs = map_tensors(examples, torch.clone)
            self._stream = torch.cuda.Stream()

    def __call__(self, *inputs: Any) -> T:
        """The function's result."""
        if not self._on_gpu:
            return self._function(*inputs)
        self._fill(inputs)
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._plain()
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._output = self._function(*self._inputs)
        self._graph.replay()
        return self._output

    def _fill(self, inputs: tuple[Any, ...]) -> None:
        """Copy `inputs` into the buffers that the graph reads."""
        buffers, given = tensors_of(self._inputs), tensors_of(inputs)
        wanted, found = ([(tuple(t.shape), t.dtype) for t in tensors] for tensors in (buffers, given))
        if wanted != found:
            raise DiwaError(f"captured for tensors {wanted}, called with {found}: capture another function for those")
        for buffer, tensor in zip(buffers, given, strict=True):
            buffer.copy_(tensor, non_blocking=True)

    def _plain(self) -> T:
        """Run on the side stream, in order with the current one."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            output = self._function(*self._inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return output


class CapturedEach(Generic[T]):
    """`Captured` for inputs of several shapes: a graph for each, made when it first comes."""

    def __init__(self, function: Callable[..., T]):
        self._function = function
        self._captured: dict[Any, Captured[T]] = {}

    def __call__(self, *inputs: Any) -> T:
        """The function's result; overwritten by the next call with inputs of these shapes."""
        shapes = tuple(tensor.shape for tensor in tensors_of(inputs))
        if shapes not in self._captured:
            self._captured[shapes] = Captured(self._function, *inputs)
        return self._captured[shapes](*inputs)
