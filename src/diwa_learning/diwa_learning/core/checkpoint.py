"""Checkpoints: folders of `weights.safetensors`, `config.json`, `spec.json`, `metrics.json`; nothing is pickled.

A folder is a checkpoint once its weights are there: they are written last, under another name first. `manifest.json`
holds the checksums of all four.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from diwa_data import __version__
from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import atomic_path, read_object, write_json
from diwa_data.manifest import CHECKPOINT_FILES, file_digest, require_format, require_sealed, write_manifest
from diwa_data.spec import Spec, require_same

Phase = Literal["world_model", "ensemble", "policy", "reward", "finetune"]
PHASES: tuple[Phase, ...] = get_args(Phase)
COMMANDS = {
    "world_model": "diwa train-world-model",
    "ensemble": "diwa train-ensemble",
    "policy": "diwa train-policy",
    "reward": "diwa train-reward",
    "finetune": "diwa finetune",
}
WEIGHTS, CONFIG, SPEC, METRICS = CHECKPOINT_FILES
FORMAT = 1
"""Format of checkpoints; those without a number were written before 0.2."""
REMAKE = "make the checkpoint again, or copy it from elsewhere"

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)


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
    """Hash of its own weights."""

    @property
    def skill(self) -> str:
        """The skill that it is for. Raises `DiwaError` if its metrics name none."""
        skill = self.metrics.get("skill")
        if not isinstance(skill, str):
            raise DiwaError(f"{self.path / METRICS} names no skill: {REMAKE}")
        return skill

    def config_as(self, cls: type[T]) -> T:
        """The configuration as the dataclass `cls`."""
        return from_mapping(cls, self.config, f"{self.path / CONFIG}: config")


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

    Raises `DiwaError` when the disk is full; the folder then is not a checkpoint.
    """
    write_checkpoint(Path(path), make_header(phase, config, world_model_hash, inputs), spec, metrics, weights)


def make_header(
    phase: Phase, config: Any, world_model_hash: str | None, inputs: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The content of `config.json`, which says what the folder is, before and after it is finished."""
    return {
        "format": FORMAT,
        "phase": phase,
        "software": f"diwa-ros2 {__version__}, torch {torch.__version__}",
        "world_model": world_model_hash,
        "inputs": dict(inputs or {}),
        "config": dataclasses.asdict(config),
    }


def write_header(path: Path, header: Mapping[str, Any], spec: Spec) -> None:
    """Write `spec.json` and `config.json`."""
    with atomic_path(path / SPEC) as temporary:
        temporary.write_text(spec.to_json() + "\n")
    write_json(path / CONFIG, header)


def write_checkpoint(
    path: Path, header: Mapping[str, Any], spec: Spec, metrics: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Write all files of a checkpoint, its manifest last but one, its weights last."""
    path.mkdir(parents=True, exist_ok=True)
    (path / WEIGHTS).unlink(missing_ok=True)
    write_header(path, header, spec)
    write_json(path / METRICS, dict(metrics))
    data = encode_tensors(weights, {"phase": header["phase"]})
    write_manifest(path, CHECKPOINT_FILES, {WEIGHTS: hashlib.sha256(data).hexdigest()})
    with atomic_path(path / WEIGHTS) as temporary:
        temporary.write_bytes(data)


def read_header(path: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint or unfinished run: phase, software, world_model, inputs, config.

    An ensemble was called guard before 0.2.
    """
    header = read_object(path / CONFIG, f"{REMAKE}, unless {path} is another folder than you meant")
    if header.get("phase") == "guard":
        header["phase"] = "ensemble"
    if isinstance(inputs := header.get("inputs"), dict) and "guard" in inputs:
        inputs["ensemble"] = inputs.pop("guard")
    if "format" in header:
        require_format(header["format"], FORMAT, str(path / CONFIG))
    if header.get("phase") not in PHASES or not isinstance(header.get("config"), dict):
        raise DiwaError(f"{path / CONFIG} is not the configuration of a checkpoint; is this the right folder?")
    return header


def load_checkpoint(
    path: Path,
    phase: Phase,
    spec: Spec | None = None,
    world_model_hash: str | None = None,
    sealed: bool = True,
) -> Checkpoint:
    """Read a finished checkpoint of `phase`.

    Raises `DiwaError` when it is missing, unfinished, damaged, changed since it was written (but with `sealed` false),
    of another phase, of another `spec`, or trained on another world model than `world_model_hash`.
    """
    path = Path(path)
    if not path.is_dir():
        raise DiwaError(f"no checkpoint folder {path}; make one with `{COMMANDS[phase]} --out {path}`")
    header = read_header(path)
    if header["phase"] != phase:
        raise DiwaError(f"{path} is a {header['phase']} checkpoint, but a {phase} checkpoint is needed")
    if not (path / WEIGHTS).is_file():
        raise DiwaError(f"{path} has no {WEIGHTS}: its training is unfinished; run `{COMMANDS[phase]}` again")
    if sealed:
        require_sealed(path, CHECKPOINT_FILES, REMAKE)
    saved_spec = read_spec(path)
    if spec is not None:
        require_same(spec, saved_spec, str(path))
    trained_on = header.get("world_model")
    if world_model_hash is not None and trained_on != world_model_hash:
        raise DiwaError(
            f"{path} was trained on world model {trained_on}, but this one is {world_model_hash}: "
            f"use the world model it was trained on, or run `{COMMANDS[phase]}` again"
        )
    weights = read_weights(path / WEIGHTS, REMAKE)
    metrics = read_object(path / METRICS, REMAKE)
    return Checkpoint(path, phase, weights, header["config"], saved_spec, metrics, trained_on, weights_hash(path))


def read_spec(path: Path) -> Spec:
    """`spec.json` of a checkpoint or unfinished run."""
    return Spec.from_plain(read_object(path / SPEC, REMAKE), str(path / SPEC))


def is_finished(path: Path) -> bool:
    """Whether `path` holds a complete checkpoint."""
    return (Path(path) / WEIGHTS).is_file()


def weights_hash(path: Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the checkpoint's weights file."""
    return file_digest(Path(path) / WEIGHTS)[:16]


def keeps_decoders(path: Path) -> bool:
    """Whether the finished world model in `path` can draw what it imagines."""
    with safe_open(path / WEIGHTS, "pt") as file:
        names = file.keys()
    return any(name.startswith(DECODERS) for name in names)


def seal_checkpoint(path: Path) -> None:
    """Write the manifest of a finished checkpoint again, for files of 0.1 and for such as were changed by hand.

    Raises `DiwaError` when they are not checkpoints.
    """
    load_checkpoint(path, read_header(path)["phase"], sealed=False)
    write_manifest(path, CHECKPOINT_FILES)


DECODERS = ("decoder_in.", "decoders.", "state_decoder.", "component_decoder.")
"""Beginnings of the names of a world model's tensors that draw what it imagines."""
TRAINING_ONLY = (*DECODERS, "critic.")
"""Beginnings of the names of tensors that no robot needs."""
SMALL = 1024
"""Tensors of fewer numbers stay as they are."""
SCALE = ".scale_of_rows"
"""Ends the name of the factors of the rows of an int8 matrix, which stands under the name before it."""


def write_compact(
    checkpoint: Checkpoint, out: Path, world_model_hash: str | None = None, decoders: bool = False
) -> str:
    """Write a checkpoint to the folder `out` for deployment, bound to the world model `world_model_hash`.

    With `decoders` a world model can still dream. Returns the hash of what was written: its numbers are rounded, so it
    is another model than the one it is made of.
    """
    aside = tuple(name for name in TRAINING_ONLY if not (decoders and name in DECODERS))
    header = read_header(checkpoint.path) | {"world_model": world_model_hash, "format": FORMAT}
    metrics = {name: value for name, value in checkpoint.metrics.items() if name != "history"}
    needed = {name: t for name, t in checkpoint.weights.items() if not name.startswith(aside)}
    write_checkpoint(out, header, checkpoint.spec, metrics, compact(needed))
    return weights_hash(out)


def compact(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every matrix as int8 with the scales (rows,) of its rows beside it; other tensors as they are."""
    found = {}
    for name, tensor in weights.items():
        if tensor.ndim < 2 or tensor.numel() < SMALL:
            found[name] = tensor
            continue
        rows = tensor.float().flatten(1)
        scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        found[name] = (rows / scale[:, None]).round().to(torch.int8).view(tensor.shape)
        found[name + SCALE] = scale
    return found


def encode_tensors(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file."""
    return save({name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}, metadata)


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
        raise ValueError(f"the scales of {name} are not one positive number for each of its {len(matrix)} rows")
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
