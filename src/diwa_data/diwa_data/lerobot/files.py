"""The files of a LeRobot dataset: tables and videos of frames, statistics, and the card of the Hugging Face hub."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import imageio_ffmpeg
import numpy as np

from diwa_data.errors import DiwaError, how_to_install
from diwa_data.files import json_text
from diwa_data.spec import Spec

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
CHUNK_SIZE = 1000
"""Files in a folder."""
DATA_MEGABYTES = 100
"""Size at which a parquet file is full."""
VIDEO_SECONDS = 1000.0
"""Length at which a video is full. LeRobot compares times as float32 to 0.1 ms: past 1024 s it refuses some frames."""
CODEC, PIXELS = "h264", "yuv444p"
"""Halved colour resolution (4:2:0) would double the error in videos of 64 pixels, and save 6 % of their size."""


class Numbered:
    """Files of one kind, numbered in folders of `CHUNK_SIZE`."""

    def __init__(self, folder: Path, template: str, **names: str):
        self._folder, self._template, self._names, self._next = folder, template, names, 0

    def next_path(self) -> Path:
        """The path of the next file; its folder is made."""
        self._next += 1
        path = self._folder / self._template.format(**self.place(), **self._names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def place(self) -> dict[str, int]:
        """Numbers of the last file."""
        return dict(zip(("chunk_index", "file_index"), divmod(self._next - 1, CHUNK_SIZE), strict=True))


class FrameTables(Numbered):
    """The parquet files of the frames. A context: leaving it ends the last file."""

    def __init__(self, folder: Path, features: dict[str, dict[str, Any]]):
        """`features`: LeRobot's, by name; those of dtype `video` have no column."""
        super().__init__(folder, DATA_PATH)
        self._columns = {key: feature for key, feature in features.items() if feature["dtype"] != "video"}
        self._schema = _schema(self._columns)
        self._path = folder
        self._writer: Any = None

    def begin_episode(self) -> dict[str, int]:
        """Where its rows will lie: columns of the episode's metadata."""
        if self._writer is None or self._path.stat().st_size >= DATA_MEGABYTES * 1e6:
            self.__exit__()
            self._path = self.next_path()
            self._writer = import_arrow().parquet.ParquetWriter(self._path, self._schema, compression="snappy")
        return {f"data/{name}": number for name, number in self.place().items()}

    def write(self, rows: dict[str, np.ndarray]) -> None:
        """Append N rows: feature -> (N,) or (N, D) numbers, or (N, H, W, 3) uint8 images, kept as PNG."""
        arrow = import_arrow()
        columns = [_column(rows[key], self._schema.field(key).type) for key in self._columns]
        self._writer.write_table(arrow.Table.from_arrays(columns, schema=self._schema))

    def __enter__(self) -> FrameTables:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()


class Video(Numbered):
    """The mp4 files of one camera. A context: leaving it ends the last file, or gives it up after an error."""

    def __init__(self, folder: Path, key: str, size: tuple[int, int], rate: float):
        """`key`: the feature's name; `size`: height and width; `rate`: frames per second, Hz."""
        super().__init__(folder, VIDEO_PATH, video_key=key)
        self._key, self._size, self._rate = key, size, rate
        self._frames = 0
        self._encoder: subprocess.Popen[bytes] | None = None

    def begin_episode(self, frames: int) -> dict[str, float]:
        """Where its `frames` will lie: columns of the episode's metadata."""
        if self._encoder is None or (self._frames + frames) / self._rate > VIDEO_SECONDS:
            self._end()
            self._frames = 0
            self._encoder = subprocess.Popen(
                _encoding(self.next_path(), self._size, self._rate),
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the exporter
            )
        start, self._frames = self._frames, self._frames + frames
        times = {"from_timestamp": start / self._rate, "to_timestamp": self._frames / self._rate}
        return {f"videos/{self._key}/{name}": value for name, value in (self.place() | times).items()}

    def write(self, images: np.ndarray) -> None:
        """Append (N, H, W, 3) uint8. Raises `OSError` with the encoder's words if it has stopped."""
        assert self._encoder is not None
        assert self._encoder.stdin is not None
        try:
            self._encoder.stdin.write(np.ascontiguousarray(images).data)
        except BrokenPipeError:
            self._end()
            raise

    def __enter__(self) -> Video:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if kind is None:
            self._end()
        elif self._encoder is not None:
            self._encoder.kill()
            self._encoder.communicate()

    def _end(self) -> None:
        if self._encoder is None:
            return
        words = list(filter(None, self._encoder.communicate()[1].decode(errors="replace").split("\n")))
        status, self._encoder = self._encoder.returncode, None
        if status or words:  # it is told to print errors only
            raise OSError(f"ffmpeg ended with status {status} while writing {self._key}: {'; '.join(words)}")


def write_tasks(path: Path, tasks: list[str]) -> None:
    """Task texts and their numbers, in the form from which pandas restores the texts as the index."""
    arrow = import_arrow()
    text: dict[str, Any] = {"name": "task", "field_name": "task", "metadata": None}
    text |= {"pandas_type": "unicode", "numpy_type": "object"}
    number = text | {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": [number, text], "pandas_version": "2.0.0"}
    columns = {"task_index": arrow.array(range(len(tasks)), arrow.int64()), "task": arrow.array(tasks, arrow.string())}
    table = arrow.table(columns).replace_schema_metadata({"pandas": json_text(pandas)})
    import_arrow().parquet.write_table(table, path)


def import_arrow() -> Any:
    """The optional package, with its modules. Raises `DiwaError` with the cure where it is not installed."""
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise DiwaError(f"LeRobot's format needs pyarrow: {how_to_install('lerobot')}") from error
    return pyarrow


def find_ffmpeg() -> str:
    """Path of the ffmpeg that comes with imageio-ffmpeg. Raises `DiwaError` if there is none."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise DiwaError(f"no ffmpeg for videos ({error}): pip install imageio-ffmpeg") from error


def _schema(columns: dict[str, dict[str, Any]]) -> Any:
    """Arrow types of the columns, and the same in the words of the `datasets` library, which decodes images by them."""
    arrow, fields = import_arrow(), []
    words: dict[str, dict[str, Any]] = {}
    for key, feature in columns.items():
        if feature["dtype"] == "image":
            kind, words[key] = arrow.struct({"bytes": arrow.binary(), "path": arrow.string()}), {"_type": "Image"}
        else:
            kind = arrow.bool_() if feature["dtype"] == "bool" else getattr(arrow, feature["dtype"])()
            words[key] = {"dtype": feature["dtype"], "_type": "Value"}
            (length,) = feature["shape"]
            if length > 1:
                kind = arrow.list_(kind, length)
                words[key] = {"feature": words[key], "length": length, "_type": "Sequence"}
        fields.append(arrow.field(key, kind))
    return arrow.schema(fields, {"huggingface": json_text({"info": {"features": words}})})


def _column(values: np.ndarray, kind: Any) -> Any:
    arrow = import_arrow()
    if values.ndim == 4:
        files = [cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes() for image in values]
        return arrow.array([{"bytes": file, "path": None} for file in files], kind)
    if values.ndim == 2:
        return arrow.FixedSizeListArray.from_arrays(arrow.array(values.ravel(), kind.value_type), values.shape[1])
    return arrow.array(values, kind)


def _encoding(path: Path, size: tuple[int, int], rate: float) -> list[str]:
    """ffmpeg's command: raw rgb frames to H.264; every second one is a key frame, as in LeRobot, for random access."""
    source = f"-f rawvideo -pix_fmt rgb24 -video_size {size[1]}x{size[0]} -framerate {exact(rate)} -i pipe:0"
    codec = f"-c:v libx264 -pix_fmt {PIXELS} -crf 18 -preset medium -g 2 -bf 0 -threads 1 -movflags +faststart"
    return [find_ffmpeg(), "-loglevel", "error", "-y", *source.split(), *codec.split(), str(path)]


def exact(rate: float) -> Fraction:
    """A rate in Hz as the fraction that it was meant to be: 15/2, 30/7."""
    return Fraction(rate).limit_denominator(1001)


QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

_LEVELS = np.arange(256) / 255


def vector_statistics(values: np.ndarray) -> dict[str, Any]:
    """Statistics of (N, D) or (N,) numbers, each a list of D, or 1; `count` is [N]. Quantiles interpolate."""
    values = values.reshape(len(values), -1).astype(np.float64)
    statistics = {name: getattr(values, name)(axis=0) for name in ("min", "max", "mean", "std")}
    statistics |= dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0), strict=True))
    return {key: value.tolist() for key, value in statistics.items()} | {"count": [len(values)]}


class ImageStatistics:
    """Exact statistics of the pixels of a camera, scaled to [0, 1]: it counts the 256 levels of each channel."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._images = 0

    def add(self, images: np.ndarray) -> None:
        """Count the pixels of (N, H, W, 3) uint8."""
        self._images += len(images)
        for channel in range(3):
            self._counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)

    def merge(self, other: ImageStatistics) -> None:
        """Count the images of `other` too."""
        self._images += other._images
        self._counts += other._counts

    def summary(self) -> dict[str, Any]:
        """Nested lists (3, 1, 1) a statistic; `count` is the number of images. A quantile is a level that occurs."""
        pixels = self._counts[0].sum()
        below = self._counts.cumsum(axis=1)  # (3, 256) pixels at or below each level
        mean = self._counts @ _LEVELS / pixels  # (3,)
        variance = (self._counts * (_LEVELS - mean[:, None]) ** 2).sum(axis=1) / pixels
        statistics = {
            "min": _LEVELS[(below > 0).argmax(axis=1)],
            "max": _LEVELS[(below == pixels).argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(variance),
        }
        statistics |= {key: _LEVELS[(below >= share * pixels).argmax(axis=1)] for key, share in QUANTILES.items()}
        return {key: value.reshape(3, 1, 1).tolist() for key, value in statistics.items()} | {"count": [self._images]}


_CARD = """\
---
task_categories:
- robotics
tags:
- LeRobot
configs:
- config_name: default
  data_files: data/*/*.parquet
---
# {repo_id}

{episodes} episodes, {frames} frames at {rate:g} Hz, of the robot `{robot}`: {tasks}.

```python
from lerobot.datasets.lerobot_dataset import LeRobotDataset

dataset = LeRobotDataset("{repo_id}")  # root="this folder" before it is uploaded
```

| feature | |
|---|---|
{images}
| `observation.state` | {state}; metres, base frame |
| `action` | in [-1, 1]: position delta / {max_pos:g} m, rotation delta / {max_rot:g} rad ({rotation}){gripper}; \
base frame; leads to the next frame |
| `next.success` | the skill is done in the next frame, by the operator's mark |

The last action of each episode holds: no operator chose it. `timestamp` counts control ticks. `spec.json` is the
full contract of the recordings. Written by DiWA on ROS 2 from its HDF5 dataset.
"""


def dataset_card(repo_id: str, spec: Spec, tasks: Sequence[str], episodes: int, frames: int) -> str:
    """Markdown with the hub's header."""
    images = [
        f"| `observation.images.{camera.name}` | {camera.size[0]}x{camera.size[1]} rgb |" for camera in spec.cameras
    ]
    opens = spec.action.gripper_open
    return _CARD.format(
        repo_id=repo_id,
        episodes=episodes,
        frames=frames,
        rate=spec.rate,
        robot=spec.robot,
        tasks=", ".join(tasks),
        images="\n".join(images),
        state=", ".join(part.replace("_", " ") for part in spec.state),
        max_pos=spec.action.max_pos,
        max_rot=spec.action.max_rot,
        rotation=spec.action.rotation.replace("_", " "),
        gripper=f", gripper ({opens:+g} opens, {-opens:+g} closes)" if spec.action.gripper else "",
    )
