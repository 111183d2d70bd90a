"""Play on one core: physics, both 200x200 cameras at 30 Hz, bag writing with zstd. Simulated over wall seconds."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from common import Measurement

from diwa_data.recording.recorder import EpisodeRecorder, RecordConfig
from diwa_sim.operator.record import record_episode
from diwa_sim.table import SimulatedPanda


def main(seconds: float = 60.0) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    robot = SimulatedPanda()
    with tempfile.TemporaryDirectory() as folder, EpisodeRecorder(Path(folder), robot.spec) as recorder:
        record_episode(robot, recorder, 0, RecordConfig(episode_seconds=2.0))  # the first images set up OpenGL
        started = time.perf_counter()
        recorded = record_episode(robot, recorder, 1, RecordConfig(episode_seconds=seconds))
        Measurement("simulation_x_realtime", recorded / (time.perf_counter() - started), "x", 6).print()


if __name__ == "__main__":
    main()
