"""A function of tensors as one CUDA graph: one launch for the thousands of small kernels of a recurrent loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from diwa_data.errors import DiwaError

T = TypeVar("T")


def map_tensors(nest: T, change: Callable[[Tensor], Tensor]) -> T:
    """The same nest with every tensor changed; what is no tensor, dataclass, dict or tuple stays as it is."""
    value: Any = nest
    if isinstance(value, Tensor):
        value = change(value)
    elif isinstance(value, Mapping):
        value = {key: map_tensors(item, change) for key, item in value.items()}
    elif isinstance(value, tuple):
        value = tuple(map_tensors(item, change) for item in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        value = type(value)(**{name: map_tensors(part, change) for name, part in parts.items()})
    return value


def tensors_of(nest: Any) -> list[Tensor]:
    """Every tensor of a nest, always in the same order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(nest, note)
    return found


WARM_UP = 3
"""Plain calls before the capture: libraries choose their kernels, buffers are made."""


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
