"""Bags to a 7.5 Hz dataset on all cores, as `diwa build-dataset` does it. Recorded over wall seconds."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from common import Measurement

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset
from diwa_data.recording.recorder import RecordConfig
from diwa_sim.operator.record import record


def main(minutes: float = 8.0) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bags = record(Path(folder, "bags"), RecordConfig(minutes=minutes, episode_seconds=60.0))
        started = time.perf_counter()
        build_dataset(bags, Path(folder, "play.h5"), DatasetConfig())
        value = 60 * minutes / (time.perf_counter() - started)
    Measurement("dataset_build_x_realtime", value, "x", 60).print()


if __name__ == "__main__":
    main()
