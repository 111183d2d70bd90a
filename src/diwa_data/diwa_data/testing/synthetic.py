"""Real bags of an imaginary robot: a hand on a smooth path before a moving picture, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose
from diwa_data.recording.bag_writer import Storage
from diwa_data.recording.recorder import EpisodeRecorder
from diwa_data.spec import Spec

JOINTS = [*(f"panda_joint{number}" for number in range(1, 8)), "panda_finger_joint1", "panda_finger_joint2"]
READY = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785, 0.02, 0.02])
"""Joints of an arm that is far from all its limits, rad, and fingers, metres."""


def synthetic_pose(time: float) -> Pose:
    """The hand at `time` seconds: slow enough that no action is clipped, gripper down."""
    position = np.array([0.5 + 0.1 * np.sin(time), 0.1 * np.cos(time), 0.3])
    return Pose(position, Rotation.from_euler("xyz", [np.pi, 0.2 * np.sin(0.5 * time), 0.1 * time]))


def synthetic_image(time: float, height: int, width: int) -> np.ndarray:
    """An rgb image (height, width, 3) uint8: a square that moves over a shaded ground."""
    image = np.empty((height, width, 3), np.uint8)
    image[:] = np.linspace(60, 160, height).astype(np.uint8)[:, None, None]
    side, left = height // 4, int((0.5 + 0.4 * np.sin(time)) * width * 0.7)
    image[height // 3 : height // 3 + side, left : left + side] = (200, 40, 40)
    return image


def record_synthetic(
    folder: Path,
    spec: Spec,
    seconds: float,
    labels: dict[str, Any],
    storage: Storage = "mcap",
    success: float | None = None,
    skip: Collection[int] = (),
    noise: bool = False,
) -> Path:
    """Record one episode into `folder` and return its bag.

    Poses, joints and frames at `spec.record_rate`, targets at 60 Hz received 1 ms after they are issued; the gripper
    closes half-way. `success`: time of the success mark; `skip`: numbers of static frames that are lost; `noise`: the
    images are noise, which hardly compresses.
    """
    recorder = EpisodeRecorder(folder, spec, storage, min_free_mb=0)
    with recorder:
        recorder.start(0.0, labels)
        recorder.target(synthetic_pose(0.0), 0.0, 0.0)
        recorder.gripper(1.0, 0.0)
        marked = closed = False
        for frame in range(round(seconds * spec.record_rate)):
            time = frame / spec.record_rate
            _record_robot(recorder, spec, time)
            for number, camera in enumerate(spec.cameras):
                if number > 0 or frame not in skip:
                    image = _noise if noise else synthetic_image
                    recorder.image(camera.name, image(time + number, *camera.record_size), time, time)
            for issued in (time, time + 1 / 60):
                recorder.target(synthetic_pose(issued), issued, issued + 0.001)
            if not closed and time >= seconds / 2:
                closed = True
                recorder.gripper(-1.0, time + 0.001)
            if success is not None and not marked and time >= success:
                marked = True
                recorder.mark("success", time)
        return recorder.stop(seconds)


def _record_robot(recorder: EpisodeRecorder, spec: Spec, time: float) -> None:
    recorder.pose(synthetic_pose(time), time, time)
    recorder.joints(JOINTS, READY, np.zeros(len(JOINTS)), time, time)
    if spec.scene_state:
        recorder.scene_state(np.full(len(spec.scene_state), time), time)


def _noise(time: float, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(round(1000 * time)).integers(0, 256, (height, width, 3), np.uint8)
