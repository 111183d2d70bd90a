"""A small folder in CALVIN's format, for tests: every key, index and file as CALVIN documents them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diwa_data.calvin.format import ANNOTATIONS, EPISODES, frame_path

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
