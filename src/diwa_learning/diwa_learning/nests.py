"""Nests of tensors: dataclasses, dicts and tuples of them, such as a batch or a model state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

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
