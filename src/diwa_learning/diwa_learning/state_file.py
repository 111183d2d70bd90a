"""The resumable state of a training on disk: nested plain values and tensors in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from diwa_data.errors import damage_as_error
from diwa_data.json_files import parse_json
from diwa_learning.tensor_file import write_tensors


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
    write_tensors(path, tensors, {"tree": tree, "sha256": _digest(tree, tensors)})


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; tuples come back as lists. Raises `DiwaError` when the file is damaged.

    A run that 0.1 began has no checksum in its state, and goes on.
    """
    cure = f"delete {path.parent} to start again"
    with damage_as_error(f"{path} is damaged", cure):
        with safe_open(path, framework="pt") as file:
            found = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        tree, digest = found.pop("tree"), found.pop("sha256", None)
        if found or digest not in (None, _digest(tree, tensors)):
            raise ValueError("its checksum is another")
        return _decoded(parse_json(tree, str(path), cure), tensors)


def _decoded(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    def decode(node: Any) -> Any:
        if isinstance(node, dict):
            return tensors[node["tensor"]] if "tensor" in node else {key: decode(item) for key, item in node["items"]}
        return [decode(item) for item in node] if isinstance(node, list) else node

    return decode(tree)


def _digest(tree: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
