"""Loading a trained world model from its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.core.tensor_file import build
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel


@dataclass(frozen=True)
class LoadedWorldModel:
    """A trained world model in evaluation mode, without gradients."""

    model: WorldModel
    spec: Spec
    hash: str
    """Of its weights; stored by everything that is trained on it."""


def load_world_model(path: Path, device: str | torch.device = "cpu", decodes: bool = True) -> LoadedWorldModel:
    """The world model of a checkpoint folder, ready to use.

    One that was packed for deployment has no decoders: `DiwaError`, unless `decodes` is false.
    """
    checkpoint = load_checkpoint(path, "world_model")
    whole = any(name.startswith("decoder") for name in checkpoint.weights)
    if decodes and not whole:
        raise DiwaError(f"{path} was packed for deployment and cannot dream: give the world model it is made of")
    config = checkpoint.config_as(WorldModelConfig)
    model = build(lambda: WorldModel(config, checkpoint.spec, decodes=whole), checkpoint.weights, path)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # else convolutions reorder every call
    return LoadedWorldModel(model.to(device).eval().requires_grad_(False), checkpoint.spec, checkpoint.hash)
