"""The folder of a LeRobot dataset: its features and where each episode's rows and frames lie, in formats v2 and v3.

v2 has a table and videos for each episode; v3 packs many episodes into each, and notes in `meta/episodes` where.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import read_bytes, read_object
from diwa_data.lerobot.files import import_arrow

INFO = "meta/info.json"
CURE = "download the dataset again, or write it again with LeRobot"
_VERSIONS = (2, 3)
_IMAGES = ("video", "image")
_STANDARD = ("timestamp", "frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class Feature:
    """One column of a dataset, or one of its cameras."""

    name: str
    dtype: str
    """float32, int64, bool, string, ...; `video` and `image` are cameras."""
    shape: tuple[int, ...]
    names: tuple[str, ...]
    """Names of its numbers; empty if it gives none, or not one for each."""

    @property
    def is_image(self) -> bool:
        return self.dtype in _IMAGES

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of a camera's frames, pixels."""
        height, width = self.shape[1:] if self.shape[0] == 3 != self.shape[2] else self.shape[:2]
        return height, width

    def __str__(self) -> str:
        if self.is_image:
            return f"{self.name}: {self.dtype} {'x'.join(map(str, self.image_size))}"
        return f"{self.name}: {self.dtype} {list(self.shape)} {' '.join(self.names)}".rstrip()


@dataclass(frozen=True)
class Place:
    """Where an episode's frames lie in a video."""

    file: str
    """Path in the folder."""
    start: float
    """Seconds from the video's start to the first of them."""


@dataclass(frozen=True)
class SourceEpisode:
    """One episode of a dataset."""

    number: int
    length: int
    """Frames, and rows."""
    task: str
    """Its task text; empty if there is none."""
    table: str
    """Path in the folder of the parquet file with its rows, among those of others."""
    videos: dict[str, Place]
    """Feature -> where its frames lie."""


@dataclass(frozen=True)
class LeRobotFolder:
    """A dataset in LeRobot's format, of which only the descriptions have been read."""

    path: Path
    version: str
    """LeRobot's `codebase_version`, such as v3.0."""
    fps: float
    """Frames and rows per second."""
    robot: str
    """Robot type as it was recorded; may be empty."""
    features: dict[str, Feature]
    """Columns and cameras by name, without LeRobot's own: times and indices."""
    episodes: tuple[SourceEpisode, ...]

    def list_features(self) -> str:
        """The features on one line, for errors."""
        return ", ".join(
            f"{name} [{' '.join(feature.names)}]" if feature.names and not feature.is_image else name
            for name, feature in self.features.items()
        )


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a dataset in LeRobot's format, of any version."""
    return (Path(path) / INFO).is_file()


def read_lerobot(path: Path) -> LeRobotFolder:
    """Read a folder's descriptions. Raises `DiwaError` if it is none, damaged, or of a format that is not read."""
    path = Path(path)
    if not is_lerobot(path):
        raise DiwaError(f"{path} is not a LeRobot dataset: it has no {INFO}")
    info = read_object(path / INFO, CURE)
    version = str(info.get("codebase_version"))
    found = re.fullmatch(r"v?(\d+)\.\d+", version)
    if not found or int(found[1]) not in _VERSIONS:
        raise DiwaError(f"{path} is in LeRobot's format {version}; v2.0 to v3.0 are read: convert it with LeRobot")
    with damage_as_error(f"{path / INFO} is damaged", CURE):
        features = {name: _feature(name, about) for name, about in info["features"].items()}
        fps = float(info["fps"])
        if not 0 < fps < math.inf:
            raise ValueError(f"fps is {info['fps']}")
        robot = info.get("robot_type")
    cameras = [name for name, feature in features.items() if feature.dtype == "video"]
    with damage_as_error(f"{path}: its list of episodes is damaged", CURE):
        packed = (path / "meta/episodes").is_dir()
        episodes = list(_packed(path, info, cameras) if packed else _one_by_one(path, info, cameras))
    if not episodes:
        raise DiwaError(f"{path} has no episode: name another dataset")
    kept = {name: feature for name, feature in features.items() if name not in _STANDARD}
    return LeRobotFolder(path, version, fps, str(robot or ""), kept, tuple(episodes))


def needed_files(episodes: Sequence[SourceEpisode], cameras: Sequence[str]) -> list[str]:
    """Paths in the folder of what holds the rows of some episodes, and their frames of the features `cameras`."""
    files = dict.fromkeys(episode.table for episode in episodes)
    for name in cameras:
        files |= dict.fromkeys(episode.videos[name].file for episode in episodes if name in episode.videos)
    return list(files)


def require_files(folder: LeRobotFolder, files: Sequence[str]) -> None:
    """Raise `DiwaError` if one of these files is missing."""
    missing = [file for file in files if not (folder.path / file).is_file()]
    if missing:
        others = f", and {len(missing) - 1} other files" if missing[1:] else ""
        raise DiwaError(f"{folder.path / missing[0]} is missing{others}: {CURE}")


def _feature(name: str, about: dict[str, Any]) -> Feature:
    shape = tuple(int(side) for side in about["shape"]) or (1,)
    names = about.get("names") or ()
    if isinstance(names, dict):  # {"motors": [...]}, {"axes": [...]}, or {"x": 0, "y": 1}
        inner = list(names.values())
        names = inner[0] if len(inner) == 1 and isinstance(inner[0], list) else list(names)
    named = tuple(map(str, names)) if len(names) == math.prod(shape) else ()
    feature = Feature(name, str(about["dtype"]), shape, named)
    if feature.is_image and len(shape) != 3:
        raise ValueError(f"{name} is {feature.dtype}, but has shape {list(shape)}")
    return feature


def _one_by_one(path: Path, info: dict[str, Any], cameras: Sequence[str]) -> Iterator[SourceEpisode]:
    """Episodes of v2: one file for each, listed in a file of JSON lines."""
    text = read_bytes(path / "meta/episodes.jsonl", CURE).decode()
    for line in filter(None, text.splitlines()):
        row = json.loads(line)
        number = int(row["episode_index"])
        names = {"episode_chunk": number // int(info["chunks_size"]), "episode_index": number}
        videos = {key: Place(_inside(info["video_path"], video_key=key, **names), 0.0) for key in cameras}
        yield SourceEpisode(number, int(row["length"]), _task(row), _inside(info["data_path"], **names), videos)


def _packed(path: Path, info: dict[str, Any], cameras: Sequence[str]) -> Iterator[SourceEpisode]:
    """Episodes of v3: many in each file, listed in parquet files."""
    parquet = import_arrow().parquet
    place = ("chunk_index", "file_index")
    wanted = ["episode_index", "length", "tasks", *(f"data/{key}" for key in place)]
    wanted += [f"videos/{key}/{name}" for key in cameras for name in (*place, "from_timestamp")]
    for file in sorted((path / "meta/episodes").glob("*/*.parquet")):
        opened = parquet.ParquetFile(file)
        table = opened.read([name for name in wanted if name in opened.schema_arrow.names])
        for row in table.to_pylist():
            videos = {}
            for key in cameras:
                names = {name: int(row[f"videos/{key}/{name}"]) for name in place}
                start = float(row[f"videos/{key}/from_timestamp"])
                videos[key] = Place(_inside(info["video_path"], video_key=key, **names), start)
            data = _inside(info["data_path"], **{name: int(row[f"data/{name}"]) for name in place})
            yield SourceEpisode(int(row["episode_index"]), int(row["length"]), _task(row), data, videos)


def _task(row: dict[str, Any]) -> str:
    tasks = row.get("tasks")
    if isinstance(tasks, str):
        return tasks
    return str(tasks[0]) if tasks else ""


def _inside(template: str, **names: Any) -> str:
    """The path that a template gives. Raises `ValueError` if it leads out of the folder."""
    file = template.format(**names)
    if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
        raise ValueError(f"{file} leads out of the folder")
    return file
