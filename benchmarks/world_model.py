"""World-model training: frames per second of forward, backward and optimiser step, both cameras.

Two rows: the `laptop` preset at depth 16, h 256, 16x16 latents, B = 16, L = 50; and the `paper` preset at the paper's
sizes with B = 8, against the plain float32 implementation in `reference/`, which runs in turn in a process of its own
and frees memory as ours does.
"""

from __future__ import annotations

import dataclasses
import statistics
from typing import Any

import torch
from common import Measurement
from reference import world_model as reference
from turns import Apart, Work, compare, in_turn

from diwa_data.config import load_section
from diwa_data.spec import Spec
from diwa_learning.core.device import is_half, reuse_freed_memory
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.draws import draw
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.replay import Batch
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_learning.world_model.train import adamw, matmul_peak, training_flops, update

SPEC = Spec()
SIZES: dict[str, Any] = {
    "depth": 16,
    "rssm": RSSMConfig(recurrent=256, categoricals=16, classes=16, hidden=256),
    "batch_size": 16,
    "sequence_length": 50,
}
ROWS = 8
"""Sequences of a batch at the paper's sizes, where it has 50: a step then takes seconds."""


class Ours:
    """Updates of `diwa_learning`."""

    def __init__(self, preset: str, **sizes: Any):
        reuse_freed_memory()  # as every training run does
        torch.manual_seed(0)
        self.config = dataclasses.replace(load_section(WorldModelConfig, "world_model", preset), **sizes)
        self.batch, self.model = random_batch(self.config), WorldModel(self.config, Spec())
        self.optimizer = adamw(self.model, self.config)

    def update(self) -> None:
        self.model.loss(self.batch, draw(self.batch.valid, self.config)).total.backward()
        update(self.model, self.optimizer, self.config.gradient_clip)


class Plain:
    """Updates of the reference."""

    def __init__(self, preset: str, **sizes: Any):
        torch.manual_seed(0)
        self.config = dataclasses.replace(load_section(WorldModelConfig, "world_model", preset), **sizes)
        self.batch, self.model = random_batch(self.config), reference.PlainWorldModel(self.config, Spec())
        self.optimizer = reference.adamw(self.model, self.config)

    def update(self) -> None:
        draws = draw(self.batch.valid, self.config)
        parts = (self.batch.images, self.batch.state, self.batch.previous_actions, draws.reset, draws.noise)
        reference.update(self.model, self.optimizer, self.model.loss(*parts), self.config.gradient_clip)


def random_batch(config: WorldModelConfig, spec: Spec = SPEC) -> Batch:
    shape = (config.batch_size, config.sequence_length)
    images = {c.name: torch.randint(0, 255, (*shape, *c.size, 3), dtype=torch.uint8) for c in spec.cameras}
    state, actions = torch.randn(*shape, spec.state_dim), torch.rand(*shape, spec.action_dim) * 2 - 1
    return Batch(images, state, state[..., :9], actions, valid=torch.ones(shape, dtype=torch.bool))


def plain() -> Work:
    return Plain("paper", batch_size=ROWS).update


def floor(model: WorldModel) -> float:
    """Frames per second at the peak of a large matrix product of the type of the model's products."""
    device = torch.device("cpu")
    dtype = torch.bfloat16 if is_half(model.config.precision, device) else torch.float32
    return matmul_peak(device, dtype, size=4096) / training_flops(model)


def paper_sizes(rounds: int = 5) -> None:
    ours, frames = Ours("paper", batch_size=ROWS), ROWS * WorldModelConfig().sequence_length
    name, best = "world_model_paper_frames_per_s", floor(ours.model)
    with Apart(plain) as other:
        compare(name, ours.update, other, rounds, frames, "frames/s", target=2, floor=best)


def laptop_sizes(updates: int = 20) -> None:
    ours = Ours("laptop", **SIZES)
    frames, (times,) = SIZES["batch_size"] * SIZES["sequence_length"], in_turn([ours.update], updates)
    rate, best = frames / statistics.median(times), floor(ours.model)
    Measurement("world_model_frames_per_s", rate, "frames/s", 2000, floor=best).print()


def main() -> None:
    paper_sizes()
    laptop_sizes()


if __name__ == "__main__":
    main()
