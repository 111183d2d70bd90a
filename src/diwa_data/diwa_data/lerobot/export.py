"""Export to LeRobot's dataset format v3.0, from which other people's policies train.

    meta/{info.json, stats.json, tasks.parquet, episodes/chunk-000/file-000.parquet}
    data/chunk-000/file-000.parquet
    videos/<camera>/chunk-000/file-000.mp4         with `video`; otherwise the images are PNG in the parquet
    spec.json, README.md                           ours: the contract, and what the numbers mean

An episode of T ticks gives T rows: row t holds the frame and state at tick t, the action that led to tick t+1, and
whether the skill was done there (`next.success`). The last action holds, as in the dataset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.dataset.dataset import Dataset, Episode, load_dataset, open_episode, without_failures
from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path, folder_size, require_new, write_json
from diwa_data.lerobot.files import (
    CHUNK_SIZE,
    CODEC,
    DATA_MEGABYTES,
    DATA_PATH,
    EPISODES_PATH,
    PIXELS,
    VIDEO_PATH,
    FrameTables,
    ImageStatistics,
    Numbered,
    Video,
    dataset_card,
    import_arrow,
    vector_statistics,
    write_tasks,
)
from diwa_data.lerobot.tables import TARGET
from diwa_data.progress import Bar, progress
from diwa_data.spec import CameraSpec, Spec

FORMAT = "v3.0"
"""LeRobot's `codebase_version`."""
PLAY = "play"
"""Task text of episodes without a skill."""
STATE_NAMES = {
    "position": ("x", "y", "z"),
    "rotation_6d": ("r00", "r10", "r20", "r01", "r11", "r21"),
    "gripper_width": ("gripper_width",),
}
"""Names of the numbers of each part of `spec.state`."""
ACTION_NAMES = ("delta_x", "delta_y", "delta_z", "delta_roll", "delta_pitch", "delta_yaw", "gripper")
"""Names of an action's numbers; the last is missing on a robot without a gripper."""

_BATCH = 512  # frames in memory


@dataclass(frozen=True)
class Export:
    """An export that is done."""

    repo_id: str
    """Name of the dataset on the Hugging Face hub, user/name."""
    episodes: int
    """Number of episodes."""
    frames: int
    """Number of rows in all."""
    tasks: tuple[str, ...]
    """Task texts."""
    size: int
    """Bytes."""
    left_out: int = 0
    """Failed attempts, which nobody shall imitate."""


def export_lerobot(path: Path, out: Path, repo_id: str = "", video: bool = False) -> Export:
    """Write the dataset `path` as the folder `out`, which must not exist; an interrupted export leaves nothing.

    Failed attempts are left out: LeRobot's policies imitate whatever there is.
    `repo_id` goes into the card, by default local/<out's name>. `video` keeps the images as H.264, which is lossy, and
    not as PNG. Raises `DiwaError`.
    """
    out = Path(out)
    repo_id = repo_id or f"local/{out.resolve().name}"
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise DiwaError(f"--repo-id {repo_id!r} must be user/name, of letters, digits, '.', '_' and '-'")
    require_new(out)
    recorded = load_dataset(path, images=False)
    dataset = without_failures(recorded)
    import_arrow()
    with atomic_path(out) as folder:
        done = _write(dataset, folder, repo_id, video)
    return replace(done, left_out=len(recorded.episodes) - done.episodes)


def task_text(episode: Episode) -> str:
    """The task text of an episode, which conditions a policy: the skill in words, or play."""
    return episode.attributes["skill"].replace("_", " ") or PLAY


def feature_table(spec: Spec, video: bool, target: bool = False) -> dict[str, dict[str, Any]]:
    """LeRobot's description of the columns: dtype, shape and names of each. `target`: the published one is there too.

    Its name does not begin with `observation`, or LeRobot's policies would take it in.
    """
    state = [name for part in spec.state for name in STATE_NAMES[part]]
    features = {_image_key(camera.name): _image_feature(camera.size, spec.rate, video) for camera in spec.cameras}
    features |= {
        "observation.state": {"dtype": "float32", "shape": [spec.state_dim], "names": state},
        "action": {"dtype": "float32", "shape": [spec.action_dim], "names": list(ACTION_NAMES[: spec.action_dim])},
    }
    if target:
        places = [*STATE_NAMES["position"], *STATE_NAMES["rotation_6d"]]
        features[TARGET] = {"dtype": "float32", "shape": [len(places)], "names": places}
    scalars = {"next.success": "bool", "timestamp": "float32"}
    scalars |= dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")
    return features | {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in scalars.items()}


def episode_rows(episode: Episode, number: int, first: int, task: int, rate: float) -> dict[str, np.ndarray]:
    """The columns of an episode but for its images; `first` is the index of its first row, `rate` in Hz."""
    ticks = np.arange(len(episode))
    published = {} if episode.target is None else {TARGET: episode.target}
    return published | {
        "observation.state": episode.state,
        "action": episode.action,
        "next.success": np.append(episode.success[1:], episode.success[-1]),
        "timestamp": (ticks / rate).astype(np.float32),
        "frame_index": ticks,
        "episode_index": np.full(len(ticks), number),
        "index": first + ticks,
        "task_index": np.full(len(ticks), task),
    }


def _write(dataset: Dataset, folder: Path, repo_id: str, video: bool) -> Export:
    (folder / "meta").mkdir(parents=True)
    tasks = list(dict.fromkeys(task_text(episode) for episode in dataset.episodes))
    known = all(episode.target is not None for episode in dataset.episodes)
    if not known:
        dataset = replace(dataset, episodes=[replace(episode, target=None) for episode in dataset.episodes])
    features = feature_table(dataset.spec, video, known)
    rows, index = [], 0
    for number, episode in enumerate(dataset.episodes):
        task = tasks.index(task_text(episode))
        rows.append(episode_rows(episode, number, index, task, dataset.spec.rate))
        index += len(episode)
    with progress("export-lerobot", index, "frames") as bar, _Streams(folder, dataset.spec, features) as streams:
        episodes = [_write_episode(dataset, number, rows[number], streams, bar) for number in range(len(rows))]
    statistics = {key: vector_statistics(np.concatenate([row[key] for row in rows])) for key in rows[0]}
    statistics |= {key: images.summary() for key, images in streams.statistics.items()}
    write_json(folder / "meta/stats.json", statistics)
    write_json(folder / "meta/info.json", _info(dataset.spec, features, len(rows), index, len(tasks), video))
    write_tasks(folder / "meta/tasks.parquet", tasks)
    arrow, path = import_arrow(), Numbered(folder, EPISODES_PATH).next_path()
    arrow.parquet.write_table(arrow.Table.from_pylist(episodes), path)
    (folder / "spec.json").write_text(dataset.spec.to_json())
    (folder / "README.md").write_text(dataset_card(repo_id, dataset.spec, tasks, len(rows), index))
    return Export(repo_id, len(rows), index, tuple(tasks), folder_size(folder))


class _Streams(ExitStack):
    """The open files of an export, and the statistics of its images."""

    def __init__(self, folder: Path, spec: Spec, features: dict[str, dict[str, Any]]):
        super().__init__()
        self.keys = {_image_key(camera.name): camera for camera in spec.cameras}
        self.tables = self.enter_context(FrameTables(folder, features))
        self.videos = {
            key: self.enter_context(Video(folder, key, camera.size, spec.rate))
            for key, camera in self.keys.items()
            if features[key]["dtype"] == "video"
        }
        self.statistics = {key: ImageStatistics() for key in self.keys}


def _write_episode(
    dataset: Dataset, number: int, rows: dict[str, np.ndarray], streams: _Streams, bar: Bar
) -> dict[str, Any]:
    """Write an episode's rows and images; its metadata."""
    length = len(rows["index"])
    first = int(rows["index"][0])
    places: dict[str, float] = {**streams.tables.begin_episode()}
    for video in streams.videos.values():
        places |= video.begin_episode(length)
    seen = {key: ImageStatistics() for key in streams.keys}
    start = 0
    for images in _batches(dataset, number, streams.keys):
        block = slice(start, start + len(images[next(iter(images))]))
        for key in images:
            seen[key].add(images[key])
        for key, video in streams.videos.items():
            video.write(images[key])
        streams.tables.write({key: values[block] for key, values in rows.items()} | images)
        bar.advance(block.stop - start)
        start = block.stop
    statistics = {key: vector_statistics(values) for key, values in rows.items()}
    for key in seen:
        streams.statistics[key].merge(seen[key])
        statistics[key] = seen[key].summary()
    return {
        "episode_index": number,
        "tasks": [task_text(dataset.episodes[number])],
        "length": length,
        "dataset_from_index": first,
        "dataset_to_index": first + length,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
        **places,
        **{f"stats/{key}/{name}": value for key, values in statistics.items() for name, value in values.items()},
    }


def _batches(dataset: Dataset, number: int, keys: dict[str, CameraSpec]) -> Iterator[dict[str, np.ndarray]]:
    """The images of an episode's rows, some at a time: feature -> (N, H, W, 3) uint8.

    An iterator, so that an error of who writes them does not pass for one of the dataset.
    """
    with open_episode(dataset.path, dataset.episodes[number].name) as opened:
        episode = opened.episodes[0]
        for start in range(0, len(episode), _BATCH):
            block = slice(start, start + _BATCH)
            yield {key: episode.images[camera.name][block] for key, camera in keys.items()}


def _info(
    spec: Spec, features: dict[str, dict[str, Any]], episodes: int, frames: int, tasks: int, video: bool
) -> dict[str, Any]:
    return {
        "codebase_version": FORMAT,
        "robot_type": spec.robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK_SIZE,
        "data_files_size_in_mb": DATA_MEGABYTES,
        "video_files_size_in_mb": 200,
        "fps": _fps(spec.rate),
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if video else None,
        "features": features,
    }


def _image_key(camera: str) -> str:
    return f"observation.images.{camera}"


def _image_feature(size: tuple[int, int], rate: float, video: bool) -> dict[str, Any]:
    feature = {
        "dtype": "video" if video else "image",
        "shape": [*size, 3],
        "names": ["height", "width", "channels"],
    }
    stream = {"height": size[0], "width": size[1], "codec": CODEC, "pix_fmt": PIXELS, "is_depth_map": False}
    stream |= {"fps": _fps(rate), "channels": 3}
    info = {f"video.{key}": value for key, value in stream.items()} | {"has_audio": False}
    return feature | ({"info": info} if video else {})


def _fps(rate: float) -> int | float:
    """A whole rate as an integer, as LeRobot writes it."""
    return int(rate) if rate == int(rate) else rate
