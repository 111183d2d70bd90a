"""How cost grows with the amount of data, with sequences and with cameras: the preset `laptop`, a tick at paper sizes.

What is compared takes turns in one process. Minutes of play: seconds until a dataset is in memory, and milliseconds of
a training step, the drawing of its batch included. Sequences: frames per second of training with two and four times as
many, and as long. Cameras: frames per second of training, and the mean control tick, of which every fourth samples a
chunk in 20 denoising steps.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Measurement
from dataset_load import EPISODE, write
from scipy.spatial.transform import Rotation
from turns import Work, in_turn
from world_model import random_batch

from diwa_data.config import load_section
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.spec import CameraSpec, Spec
from diwa_learning.agent import Agent
from diwa_learning.core.device import reuse_freed_memory
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.reward.classifier import RewardClassifier
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.draws import draw
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.replay import Batch, ReplayBuffer
from diwa_learning.world_model.train import adamw, load_datasets, update

LAPTOP = load_section(WorldModelConfig, "world_model", "laptop")
MINUTES = (10, 20, 40)
FACTORS = (1, 2, 4)
TICKS = 40
"""Ticks that are timed together, ten of which sample a chunk."""
CAMERAS = ("static", "gripper", "side")


def training(config: WorldModelConfig, spec: Spec, next_batch: Callable[[], Batch]) -> Work:
    """Updates of a fresh world model."""
    model = WorldModel(config, spec)
    optimizer = adamw(model, config)

    def step() -> None:
        batch = next_batch()
        model.loss(batch, draw(batch.valid, config)).total.backward()
        update(model, optimizer, config.gradient_clip)

    return step


def on_random_batch(config: WorldModelConfig, spec: Spec) -> Work:
    """Updates on one batch."""
    batch = random_batch(config, spec)
    return training(config, spec, lambda: batch)


def on_dataset(path: Path) -> tuple[Work, float]:
    """Updates on a dataset, and the seconds until it was in memory."""
    started = time.perf_counter()
    (dataset,) = load_datasets([path])
    replay = ReplayBuffer(dataset.episodes, dataset.spec, LAPTOP.sequence_length)
    elapsed, rng = time.perf_counter() - started, np.random.default_rng(0)
    return training(LAPTOP, dataset.spec, lambda: replay.sample(LAPTOP.batch_size, rng)), elapsed


def ticks(spec: Spec) -> Work:
    """Control ticks at the paper's sizes."""
    model = WorldModel(WorldModelConfig(), spec).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    policy = make_policy(PolicyNetConfig(), model.feature_dim, spec.action_dim)
    agent = Agent(model, policy, RewardClassifier(model.feature_dim, 512), spec)
    images = {c.name: np.zeros((*c.record_size, 3), np.uint8) for c in spec.cameras}
    pose = Pose(np.zeros(3), Rotation.identity())
    observation = Observation(images, pose, pose, 0.08, 0.0, 0.0)

    def run() -> None:
        for _ in range(TICKS):
            agent.act(observation, spec.action.null)

    return run


def medians(works: list[Work], rounds: int) -> list[float]:
    return [statistics.median(times) for times in in_turn(works, rounds)]


def by_frames() -> None:
    with tempfile.TemporaryDirectory() as folder:
        works = []
        for minutes in MINUTES:
            path = Path(folder, f"{minutes}.h5")
            write(path, minutes * EPISODE)
            work, seconds = on_dataset(path)
            works.append(work)
            Measurement(f"growth_minutes_{minutes}_load_s", seconds, "s").print()
        for minutes, seconds in zip(MINUTES, medians(works, 10), strict=True):
            Measurement(f"growth_minutes_{minutes}_step_ms", 1e3 * seconds, "ms").print()


def by_sequences() -> None:
    for name in ("batch_size", "sequence_length"):
        values = [factor * getattr(LAPTOP, name) for factor in FACTORS]
        configs = [dataclasses.replace(LAPTOP, **{name: value}) for value in values]
        found = medians([on_random_batch(config, Spec()) for config in configs], 7)
        for config, value, seconds in zip(configs, values, found, strict=True):
            rate = config.batch_size * config.sequence_length / seconds
            Measurement(f"growth_{name}_{value}_frames_per_s", rate, "frames/s").print()


def by_cameras() -> None:
    specs = [dataclasses.replace(Spec(), cameras=tuple(map(CameraSpec, CAMERAS[:n]))) for n in (1, 2, 3)]
    frames = LAPTOP.batch_size * LAPTOP.sequence_length
    for spec, seconds in zip(specs, medians([on_random_batch(LAPTOP, spec) for spec in specs], 10), strict=True):
        Measurement(f"growth_cameras_{len(spec.cameras)}_frames_per_s", frames / seconds, "frames/s").print()
    for spec, seconds in zip(specs, medians([ticks(spec) for spec in specs], 5), strict=True):
        Measurement(f"growth_cameras_{len(spec.cameras)}_tick_ms", 1e3 * seconds / TICKS, "ms").print()


def main() -> None:
    reuse_freed_memory()
    torch.manual_seed(0)
    by_frames()
    by_sequences()
    by_cameras()


if __name__ == "__main__":
    main()
