"""A dataset into memory as training takes it: synthetic play, two cameras, one hour unless `--hours` says otherwise.

Frames per second, and the peak resident memory beside the size of the pixels; target: 4 h in 20 s and 3 GiB.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np
from common import Measurement

from diwa_data.spec import Spec

EPISODE = 450
"""Frames: a minute."""
TARGET = 108_000 / 20
"""Frames per second."""


def write(path: Path, frames: int) -> None:
    """Pictures of smooth shapes with the noise of a camera, stored as `diwa build-dataset` does."""
    spec, rng = Spec(), np.random.default_rng(0)
    slope = np.linspace(0, 200, 64)[:, None, None] + np.arange(EPISODE).reshape(-1, 1, 1, 1) % 50
    pictures = (slope + rng.integers(0, 3, (EPISODE, 64, 64, 3))).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file.attrs["spec"] = spec.to_json()
        for number in range(frames // EPISODE):
            group = file.create_group(f"episodes/{number:06d}")
            for camera in spec.cameras:
                shape = (8, *camera.size, 3)
                group.create_dataset(camera.name, data=np.roll(pictures, number, 2), chunks=shape, compression="lzf")
            group["state"] = rng.normal(size=(EPISODE, spec.state_dim)).astype(np.float32)
            group["action"] = rng.uniform(-1, 1, (EPISODE, spec.action_dim)).astype(np.float32)
            group["success"], group["stamp"] = np.zeros(EPISODE, bool), np.arange(EPISODE) / spec.rate
            group["received"] = group["stamp"][:]
            group.attrs["labels"] = json.dumps({})


def load(path: Path) -> tuple[float, float, float]:
    """Seconds to the first batch, peak resident GiB, GiB of pixels."""
    from diwa_learning.core.device import peak_memory
    from diwa_learning.world_model.replay import ReplayBuffer, split_held_out
    from diwa_learning.world_model.train import load_datasets

    rng, started = np.random.default_rng(0), time.perf_counter()
    datasets = load_datasets([path])
    training, held_out = split_held_out(datasets, 0.05, rng)
    replays = [ReplayBuffer(episodes, datasets[0].spec, 50) for episodes in (training, held_out)]
    for replay in replays:
        replay.sample(50, rng)
    elapsed = time.perf_counter() - started
    pixels = sum(image.nbytes for episode in datasets[0].episodes for image in episode.images.values())
    return elapsed, peak_memory(), pixels / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    frames = round(parser.parse_args().hours * 3600 * 7.5 / EPISODE) * EPISODE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "play.h5")
        write(path, frames)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:  # its memory is the loading's alone
            elapsed, memory, pixels = pool.submit(load, path).result()
    Measurement("dataset_load_frames_per_s", frames / elapsed, "frames/s", TARGET).print()
    Measurement("dataset_load_gib", memory, "GiB", pixels + 0.5, floor=pixels).print()


if __name__ == "__main__":
    main()
