"""Scripted play through ROS 2: what is lost, the true rates, CPU and memory of every node.

Needs the built and sourced workspace: `python benchmarks/ros_recording.py --minutes 10`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from processes import node_pid, summary, usage

from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags

NODES = ("recorder", "teleop", "sim_robot", "operator")
SETTLE = 15.0  # seconds after the start that are not measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--storage", default="mcap", choices=["mcap", "sqlite3"])
    parser.add_argument("--robot-file", default="", help="robot file of the simulated robot, with its cameras")
    parser.add_argument("--out", type=Path, default=Path("docs/results/ros_recording.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        nodes = record(Path(folder), arguments.minutes, arguments.storage, arguments.robot_file)
        (bag,) = find_bags([Path(folder)])
        result = {"minutes": arguments.minutes, "storage": arguments.storage, **judge(bag), "nodes": nodes}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def record(folder: Path, minutes: float, storage: str, robot_file: str) -> dict[str, dict[str, float]]:
    """Record one episode of play; CPU (share of a core) and memory (MB) of every node while it ran."""
    seconds = 60 * minutes
    values = {"device": "scripted", "robot": "sim", "bag_dir": folder, "storage": storage, "episodes": 1}
    values |= {"episode_seconds": seconds} | ({"robot_file": robot_file} if robot_file else {})
    words = [f"{name}:={value}" for name, value in values.items()]
    command = ["ros2", "launch", "diwa_data", "teleop_record.launch.py", *words]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as launch:
        try:
            time.sleep(SETTLE)
            pids = {name: node_pid(name, launch.pid) for name in NODES}
            samples = {name: [] for name in NODES}
            while time.sleep(5.0) is None and all(Path(f"/proc/{pid}").exists() for pid in pids.values()):
                for name, pid in pids.items():
                    samples[name].append((time.monotonic(), *usage(pid)))
            launch.wait(60)
        finally:
            if launch.poll() is None:
                os.killpg(launch.pid, signal.SIGKILL)
    return {name: summary(np.array(rows[:-1])) for name, rows in samples.items()}


def judge(path: Path) -> dict[str, object]:
    """Counts of a bag's messages; frames of the simulated robot are published on five topics at once."""
    with Bag(path) as bag:
        topics, spec = bag.sidecar.topics, bag.spec
        images = [messages.image_topic(camera.name) for camera in spec.cameras]
        counts = [
            topics[t].count for t in (*images, messages.CURRENT_POSE, messages.JOINT_STATES, messages.SCENE_STATE)
        ]
        stamps = np.array([sample.stamp for _, sample in bag.messages(images[:1])])
    return {
        "frames": counts,
        "frames_lost": max(counts) - min(counts),
        "frames_missing_at_30_hz": topics[images[0]].missing(spec.record_rate),
        "largest_gap_between_stamps_ms": round(1e3 * float(np.diff(stamps).max()), 1),
        "rates": {topic: round(values.rate, 3) for topic, values in topics.items() if values.rate > 10},
        "largest_gaps_ms": {topic: round(1e3 * topics[topic].largest_gap, 1) for topic in images},
    }


if __name__ == "__main__":
    main()
