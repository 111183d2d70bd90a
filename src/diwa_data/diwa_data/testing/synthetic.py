"""Recordings of an imaginary robot, for tests and benchmarks: bags of a hand on a smooth path before a moving picture,
and folders in CALVIN's format.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.calvin.format import ANNOTATIONS, EPISODES, frame_path
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
    fail: float | None = None,
    skip: Collection[int] = (),
    noise: bool = False,
) -> Path:
    """Record one episode into `folder` and return its bag.

    Poses, joints and frames at `spec.record_rate`, targets at 60 Hz received 1 ms after they are issued; a gripper, if
    the spec has one, closes half-way. `success`, `fail`: times of these marks; `skip`: numbers of static frames that
    are lost; `noise`: the images are noise, which hardly compresses.
    """
    recorder = EpisodeRecorder(folder, spec, storage, min_free_mb=0)
    with recorder:
        recorder.start(0.0, labels)
        recorder.target(synthetic_pose(0.0), 0.0, 0.0)
        closed = not spec.action.gripper
        marks = {name: at for name, at in (("success", success), ("fail", fail)) if at is not None}
        if spec.action.gripper:
            recorder.gripper(1.0, 0.0)
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
            for name in [name for name, at in marks.items() if time >= at]:
                recorder.mark(name, time)
                del marks[name]
        return recorder.stop(seconds)


def _record_robot(recorder: EpisodeRecorder, spec: Spec, time: float) -> None:
    recorder.pose(synthetic_pose(time), time, time)
    if spec.action.gripper:
        recorder.joints(JOINTS, READY, np.zeros(len(JOINTS)), time, time)
    if spec.scene_state:
        recorder.scene_state(np.full(len(spec.scene_state), time), time)


def _noise(time: float, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(round(1000 * time)).integers(0, 256, (height, width, 3), np.uint8)


LED_AT = 20
"""Frame of an episode at which the green light goes on."""


DRAWER_STEP = 0.01
"""Metres by which the drawer opens per frame, up to 0.22."""


def robot_observation(frame: int) -> np.ndarray:
    """(15,) float64 at `frame` of an episode: the hand rises, and its roll passes pi."""
    roll = (np.pi - 0.1 + 0.01 * frame + np.pi) % (2 * np.pi) - np.pi
    gripper = 1.0 if frame < 10 else -1.0
    hand = [0.02 + 0.001 * frame, -0.23, 0.5 + 0.004 * frame, roll, -0.03, 1.5]
    return np.array([*hand, 0.04 + 0.04 * (gripper > 0), *np.linspace(-1, 1, 7), gripper])


def scene_observation(frame: int) -> np.ndarray:
    """(24,) float64 at `frame` of an episode."""
    scene = np.zeros(24)
    scene[0], scene[1], scene[5] = 0.28, min(DRAWER_STEP * frame, 0.22), float(frame >= LED_AT)
    for block in range(3):
        scene[6 + 6 * block : 12 + 6 * block] = [0.1 * block, -0.1, 0.46, 0, 0, 1.5]
    return scene


def write_calvin(
    folder: Path, lengths: Sequence[int], segments: Sequence[tuple[str, int, int]] = (), first: int = 0
) -> Path:
    """Write episodes of these lengths, frames numbered from `first`, and annotations (task, first, end); `folder`."""
    folder.mkdir(parents=True)
    ends = first + np.cumsum(lengths)
    np.save(folder / EPISODES, np.stack([ends - lengths, ends - 1], axis=1))
    for length, end in zip(lengths, ends, strict=True):
        for frame in range(length):
            write_frame(frame_path(folder, int(end) - length + frame), frame)
    if segments:
        path = folder / ANNOTATIONS[0]
        path.parent.mkdir()
        tasks = [task for task, _, _ in segments]
        language = {
            "ann": [f"please {task.replace('_', ' ')}" for task in tasks],
            "task": tasks,
            "emb": np.zeros((len(tasks), 1, 384), np.float32),
        }
        info = {"episodes": [], "indx": [(np.int64(begin), np.int64(end)) for _, begin, end in segments]}
        np.save(path, np.array({"language": language, "info": info}, object))
    return folder


def write_frame(path: Path, frame: int) -> None:
    """Write one frame; its absolute action is the pose of the next frame, as in CALVIN's recordings."""
    now, then = robot_observation(frame), robot_observation(frame + 1)
    turn = (then[3:6] - now[3:6] + np.pi) % (2 * np.pi) - np.pi
    relative = np.concatenate([np.clip((then[:3] - now[:3]) * 50, -1, 1), np.clip(turn * 20, -1, 1), then[14:]])
    rows, columns = np.mgrid[:200, :200]
    image = np.stack([rows, columns, np.full_like(rows, (40 + 5 * frame) % 256)], axis=-1).astype(np.uint8)
    np.savez_compressed(
        path,
        actions=np.concatenate([then[:6], then[14:]]),
        rel_actions=relative,
        robot_obs=now,
        scene_obs=scene_observation(frame),
        rgb_static=image,
        rgb_gripper=image[:84, :84],
        rgb_tactile=np.zeros((160, 120, 6), np.uint8),
        depth_static=np.ones((200, 200), np.float32),
        depth_gripper=np.ones((84, 84), np.float32),
        depth_tactile=np.zeros((160, 120, 2), np.float32),
    )
