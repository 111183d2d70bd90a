"""Tensors on disk: safetensors files, written whole and read with clear errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import atomic_path, parse_json

SCALE = ".scale_of_rows"
"""After the name of an int8 matrix: what its rows are multiplied with (`diwa_learning.core.checkpoint`)."""
M = TypeVar("M", bound=nn.Module)


def encode_tensors(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file."""
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all; raises `DiwaError` when the disk is full."""
    data = encode_tensors(tensors, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def read_weights(path: Path, cure: str) -> dict[str, Tensor]:
    """The weights in a file, matrices of a compact one as float32. Raises `DiwaError`, with `cure`, for a damaged one.

    So are weights with a NaN or an infinity, and scales that do not fit their matrix.
    """
    with damage_as_error(f"{path} is truncated or damaged", cure):
        weights = load_file(path)
        for name in [name for name in weights if name.endswith(SCALE)]:
            matrix = name.removesuffix(SCALE)
            weights[matrix] = _scaled(weights[matrix], weights.pop(name), matrix)
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise DiwaError(f"{path} has a NaN or an infinity in {name}: {cure}")
    return weights


def _scaled(matrix: Tensor, scale: Tensor, name: str) -> Tensor:
    if matrix.dtype != torch.int8 or scale.dtype != torch.float32 or matrix.dim() < 2:
        raise ValueError(f"{name} is {matrix.dtype} with scales of {scale.dtype}")
    if scale.shape != matrix.shape[:1] or not (scale > 0).all():
        raise ValueError(f"the scales of {name} are no positive number for each of its {len(matrix)} rows")
    return matrix.float() * scale.view(-1, *[1] * (matrix.dim() - 1))


def build(make: Callable[[], M], weights: Mapping[str, Tensor], where: Path) -> M:
    """The module that `make` builds, with `weights`. Raises `DiwaError` naming `where` when they do not fit it.

    It is made without memory first: sizes in a damaged configuration may be anything, the weights are on the disk.
    """
    with damage_as_error(f"{where} is damaged", f"the weights do not fit {where / 'config.json'}; make it again"):
        with torch.device("meta"):
            outline = make().state_dict()
        require_fitting(outline, weights, where)
        module = make()
        module.load_state_dict(dict(weights))
        return module


def require_fitting(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], where: Path) -> None:
    """Raise `DiwaError` naming `where` and the tensors of other names or shapes, or of a type that is no number's."""
    wrong = [f"{name} is not there" for name in wanted if name not in found]
    wrong += [f"{name} is unknown" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        theirs, ours = found[name], wanted[name]
        if theirs.shape != ours.shape:
            wrong.append(f"{name} is {tuple(theirs.shape)} and not {tuple(ours.shape)}")
        elif theirs.is_floating_point() != ours.is_floating_point() or theirs.is_complex():
            wrong.append(f"{name} is {theirs.dtype} and not {ours.dtype}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DiwaError(f"the weights in {where} do not fit its config.json: {', '.join(wrong[:3])}{more}")


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
