"""World-model training: frames per second of forward, backward and optimiser step, both cameras.

Two rows: the `laptop` preset at depth 16, h 256, 16x16 latents, B = 16, L = 50; and the `paper` preset at the paper's
sizes with B = 8, against the plain float32 implementation in `reference/`, which runs in turn in a process of its own.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from common import Measurement
from reference import world_model as reference

from diwa_data.config import load_section
from diwa_data.spec import Spec
from diwa_learning.core.device import reuse_freed_memory
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel, draw
from diwa_learning.world_model.replay import Batch
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_learning.world_model.train import adamw, matmul_peak, training_flops, update

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


def random_batch(config: WorldModelConfig) -> Batch:
    spec, shape = Spec(), (config.batch_size, config.sequence_length)
    images = {c.name: torch.randint(0, 255, (*shape, *c.size, 3), dtype=torch.uint8) for c in spec.cameras}
    state, actions = torch.randn(*shape, spec.state_dim), torch.rand(*shape, spec.action_dim) * 2 - 1
    return Batch(images, state, state[..., :3], actions, valid=torch.ones(shape, dtype=torch.bool))


def seconds(trainer: Ours | Plain, updates: int = 1) -> float:
    """Of one update, the mean of some."""
    started = time.perf_counter()
    for _ in range(updates):
        trainer.update()
    return (time.perf_counter() - started) / updates


plain: Plain
"""Of the reference's process."""


def begin_plain() -> None:
    global plain
    plain = Plain("paper", batch_size=ROWS)


def plain_seconds() -> float:
    return seconds(plain)


def paper_sizes(rounds: int = 5) -> None:
    ours, frames = Ours("paper", batch_size=ROWS), ROWS * WorldModelConfig().sequence_length
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin_plain) as pool:  # has its own allocator
        times = [(seconds(ours), pool.submit(plain_seconds).result()) for _ in range(rounds + 1)]
    mine, theirs = (statistics.median(side) for side in zip(*times[1:], strict=True))
    floor = matmul_peak(torch.device("cpu"), size=4096) / training_flops(ours.model)
    figures = (frames / mine, "frames/s", 2, frames / theirs, theirs / mine, floor)
    Measurement("world_model_paper_frames_per_s", *figures).print()


def laptop_sizes(updates: int = 20) -> None:
    ours = Ours("laptop", **SIZES)
    seconds(ours, 3)
    frames = SIZES["batch_size"] * SIZES["sequence_length"]
    Measurement("world_model_frames_per_s", frames / seconds(ours, updates), "frames/s", 2000).print()


def main() -> None:
    paper_sizes()
    laptop_sizes()


if __name__ == "__main__":
    main()
