"""The resumable state of a training on disk: nested plain values and tensors in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from diwa_data.errors import DiwaError
from diwa_learning import checkpoint


def save_state(path: Path, state: Any) -> None:
    """Write nested dicts, lists, numbers, texts and tensors as one safetensors file; the structure is JSON in it."""
    tensors: dict[str, Tensor] = {}

    def encode(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[name := str(len(tensors))] = value
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {"items": [[key, encode(item)] for key, item in value.items()]}
        return [encode(item) for item in value] if isinstance(value, list | tuple) else value

    tree = json.dumps(encode(state))
    checkpoint.write_tensors(path, tensors, {"tree": tree})


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; tuples come back as lists. Raises `DiwaError` when the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tree = json.loads(file.metadata()["tree"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError) as error:
        raise DiwaError(f"{path} is damaged ({error}); delete the folder to start again") from error

    def decode(node: Any) -> Any:
        if isinstance(node, dict):
            return tensors[node["tensor"]] if "tensor" in node else {key: decode(item) for key, item in node["items"]}
        return [decode(item) for item in node] if isinstance(node, list) else node

    return decode(tree)
