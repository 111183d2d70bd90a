"""World-model training at fixed sizes: depth 16, h 256, 16x16 latents, B = 16, L = 50, both cameras.

Frames per second of forward, backward and optimiser step, as the `laptop` preset runs it.
"""

from __future__ import annotations

import dataclasses
import time

import torch
from common import Measurement

from diwa_data.config import load_section
from diwa_data.spec import Spec
from diwa_learning.rssm import RSSMConfig
from diwa_learning.sequences import Batch
from diwa_learning.train_world_model import adamw, update
from diwa_learning.training import reuse_freed_memory
from diwa_learning.world_model import WorldModel
from diwa_learning.world_model_config import WorldModelConfig

SIZES = {
    "depth": 16,
    "rssm": RSSMConfig(recurrent=256, categoricals=16, classes=16, hidden=256),
    "batch_size": 16,
    "sequence_length": 50,
}


def main(updates: int = 20) -> None:
    reuse_freed_memory()  # as every training run does
    torch.manual_seed(0)
    config = dataclasses.replace(load_section(WorldModelConfig, "world_model", "laptop"), **SIZES)
    spec = Spec()
    model = WorldModel(config, spec)
    optimizer = adamw(model, config)
    shape = (config.batch_size, config.sequence_length)
    images = {c.name: torch.randint(0, 255, (*shape, *c.size, 3), dtype=torch.uint8) for c in spec.cameras}
    state, actions = torch.randn(*shape, spec.state_dim), torch.rand(*shape, spec.action_dim) * 2 - 1
    batch = Batch(images, state, state[..., :3], actions, valid=torch.ones(shape, dtype=torch.bool))
    for step in range(updates + 3):
        if step == 3:
            started = time.perf_counter()
        update(model, optimizer, model.loss(batch), config.gradient_clip)
    frames = updates * config.batch_size * config.sequence_length
    Measurement("world_model_frames_per_s", frames / (time.perf_counter() - started), "frames/s", 2000).print()


if __name__ == "__main__":
    main()
