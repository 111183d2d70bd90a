"""Checkpoints: folders of `weights.safetensors`, `config.json`, `spec.json`, `metrics.json`; nothing is pickled.

A folder is a checkpoint once its weights are there: they are written last, under another name first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from diwa_data import __version__
from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path
from diwa_data.spec import Spec, require_same
from diwa_learning.world_model import WorldModel
from diwa_learning.world_model_config import WorldModelConfig

Phase = Literal["world_model", "guard", "policy", "reward", "finetune"]
PHASES: tuple[Phase, ...] = get_args(Phase)
COMMANDS = {
    "world_model": "diwa train-world-model",
    "guard": "diwa train-guard",
    "policy": "diwa train-policy",
    "reward": "diwa train-reward",
    "finetune": "diwa finetune",
}
WEIGHTS, CONFIG, SPEC, METRICS = "weights.safetensors", "config.json", "spec.json", "metrics.json"
SCALE = ".scale_of_rows"
"""After the name of an int8 matrix: what its rows are multiplied with (`diwa_learning.compact`)."""

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read."""

    path: Path
    phase: Phase
    weights: dict[str, Tensor]
    """As saved, on the CPU; those of a compact checkpoint as float32."""
    config: dict[str, Any]
    """The phase's whole configuration; `config_as` makes it a dataclass."""
    spec: Spec
    metrics: dict[str, Any]
    world_model_hash: str | None
    """Hash of the world model it was trained on; None for a world model itself."""
    hash: str
    """Of its own weights."""

    def config_as(self, cls: type[T]) -> T:
        """The configuration as the dataclass `cls`."""
        return from_mapping(cls, self.config, str(self.path / CONFIG))


@dataclass(frozen=True)
class LoadedWorldModel:
    """A trained world model in evaluation mode, without gradients."""

    model: WorldModel
    spec: Spec
    hash: str
    """Of its weights; stored by everything that is trained on it."""


def save_checkpoint(
    path: Path,
    phase: Phase,
    weights: Mapping[str, Tensor],
    config: Any,
    spec: Spec,
    metrics: Mapping[str, Any],
    world_model_hash: str | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> None:
    """Write the checkpoint folder `path`; other files in it stay. `config` is the phase's dataclass, `inputs` names
    what it was trained on.

    Raises `DiwaError` when the disk is full; the folder then is no checkpoint.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / WEIGHTS).unlink(missing_ok=True)
    write_header(path, phase, config, spec, world_model_hash, inputs)
    write_json(path / METRICS, dict(metrics))
    write_tensors(path / WEIGHTS, weights, {"phase": phase})


def write_header(
    path: Path, phase: Phase, config: Any, spec: Spec, world_model_hash: str | None, inputs: Mapping[str, Any] | None
) -> None:
    """Write `config.json` and `spec.json`: what the folder is, before and after it is finished."""
    header = {
        "phase": phase,
        "software": f"diwa-ros2 {__version__}, torch {torch.__version__}",
        "world_model": world_model_hash,
        "inputs": dict(inputs or {}),
        "config": dataclasses.asdict(config),
    }
    with atomic_path(path / SPEC) as temporary:
        temporary.write_text(spec.to_json() + "\n")
    write_json(path / CONFIG, header)


def read_header(path: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint or unfinished run: phase, software, world_model, inputs, config."""
    header = read_json(path / CONFIG)
    if not isinstance(header, dict) or header.get("phase") not in PHASES or "config" not in header:
        raise DiwaError(f"{path / CONFIG} is not the configuration of a checkpoint; is this the right folder?")
    return header


def load_checkpoint(
    path: Path, phase: Phase, spec: Spec | None = None, world_model_hash: str | None = None
) -> Checkpoint:
    """Read a finished checkpoint of `phase`.

    Raises `DiwaError` when it is missing, unfinished, damaged, of another phase, of another `spec`, or trained on
    another world model than `world_model_hash`.
    """
    path = Path(path)
    if not path.is_dir():
        raise DiwaError(f"no checkpoint folder {path}; make one with `{COMMANDS[phase]} --out {path}`")
    header = read_header(path)
    if header["phase"] != phase:
        raise DiwaError(f"{path} is a {header['phase']} checkpoint, a {phase} checkpoint is needed")
    if not (path / WEIGHTS).is_file():
        raise DiwaError(f"{path} has no {WEIGHTS}: its training is unfinished; run `{COMMANDS[phase]}` again")
    saved_spec = Spec.from_json(read_text(path / SPEC), str(path / SPEC))
    if spec is not None:
        require_same(spec, saved_spec, str(path))
    trained_on = header.get("world_model")
    if world_model_hash is not None and trained_on != world_model_hash:
        raise DiwaError(
            f"{path} was trained on world model {trained_on}, but this one is {world_model_hash}: "
            f"use the world model it was trained on, or run `{COMMANDS[phase]}` again"
        )
    weights = _load_weights(path / WEIGHTS)
    metrics = read_json(path / METRICS)
    return Checkpoint(path, phase, weights, header["config"], saved_spec, metrics, trained_on, weights_hash(path))


def is_finished(path: Path) -> bool:
    """Whether `path` holds a complete checkpoint."""
    return (Path(path) / WEIGHTS).is_file()


def weights_hash(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the checkpoint's weights file."""
    digest = hashlib.sha256()
    with (Path(path) / WEIGHTS).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def compute_device() -> torch.device:
    """Where training computes: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_world_model(path: Path, device: str | torch.device = "cpu", decodes: bool = True) -> LoadedWorldModel:
    """The world model of a checkpoint folder, ready to use.

    One that was packed for deployment has no decoders: `DiwaError`, unless `decodes` is false.
    """
    checkpoint = load_checkpoint(path, "world_model")
    whole = any(name.startswith("decoder") for name in checkpoint.weights)
    if decodes and not whole:
        raise DiwaError(f"{path} was packed for deployment and cannot dream: give the world model it is made of")
    model = WorldModel(checkpoint.config_as(WorldModelConfig), checkpoint.spec, decodes=whole)
    load_weights(model, checkpoint.weights, checkpoint.path)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # else convolutions reorder every call
    return LoadedWorldModel(model.to(device).eval().requires_grad_(False), checkpoint.spec, checkpoint.hash)


def load_weights(module: torch.nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Load `weights` into `module`; raises `DiwaError` naming `where` when names or shapes differ."""
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise DiwaError(f"the weights in {where} do not fit its config.json: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, whole or not at all; raises `DiwaError` when the disk is full."""
    plain = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(plain, metadata))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; `DiwaError` when it is missing or damaged."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DiwaError(f"{path} is damaged ({error}); make the checkpoint again") from error


def read_text(path: Path) -> str:
    """Text of a checkpoint's file; `DiwaError` when it is missing."""
    if not path.is_file():
        raise DiwaError(f"{path} is missing: {path.parent} is not a checkpoint")
    return path.read_text()


def _load_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DiwaError(f"{path} is truncated or damaged ({error}); make the checkpoint again") from error
    scales = {name.removesuffix(SCALE): weights.pop(name) for name in list(weights) if name.endswith(SCALE)}
    for name, scale in scales.items():
        rows = weights[name]
        weights[name] = rows.float() * scale.view(-1, *[1] * (rows.ndim - 1))
    return weights
