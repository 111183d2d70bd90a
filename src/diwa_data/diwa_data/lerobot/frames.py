"""The images of an episode at its control ticks, decoded once and in order: from a video, or from files in its table.

Videos are decoded by the ffmpeg that comes with imageio-ffmpeg (H.264, HEVC, VP9, AV1), in a process of its own that
converts and hands over only the frames that are asked for.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.lerobot.files import find_ffmpeg
from diwa_data.lerobot.folder import CURE
from diwa_data.spec import MAX_RECORD_SIZE

EARLY = 1e-6
"""Share of a frame by which a frame may be later than its tick and still be the one that was known."""


def tick_frames(length: int, fps: float, rate: float) -> np.ndarray:
    """(T,) the number of the last frame captured by each tick, of `length` frames at `fps` and ticks at `rate`, Hz."""
    ticks = np.arange(int(length * rate / fps) + 2)
    frames = np.floor(ticks * (fps / rate) + EARLY).astype(int)
    return frames[frames < length]


@contextmanager
def video_frames(path: Path, start: float, fps: float, rate: float, count: int) -> Iterator[Iterator[np.ndarray]]:
    """The rgb images (H, W, 3) uint8 of the first `count` ticks of an episode that begins at `start` seconds.

    The frames are those of `tick_frames`. Raises `DiwaError` if the video is damaged or too short.
    """
    with tempfile.TemporaryFile() as words:
        decoder = subprocess.Popen(
            _decoding(path, start, fps, rate, count),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            bufsize=1 << 20,
            start_new_session=True,  # Ctrl-C is for the importer
        )
        assert decoder.stdout is not None
        try:
            yield _read(decoder.stdout, path, count, words)
        finally:
            decoder.kill()
            decoder.communicate()


def _decoding(path: Path, start: float, fps: float, rate: float, count: int) -> list[str]:
    """ffmpeg's command: seek to half a frame before the episode, keep the frames at ticks, write them as PPM."""
    seek = max(start - 0.5 / fps, 0.0)
    frame, step = f"round((t-{start - seek:.9f})*{fps:.9f})", rate / fps
    here, following = f"{frame}*{step:.12f}-{EARLY * step:.12f}", f"({frame}+1)*{step:.12f}-{EARLY * step:.12f}"
    keep = f"select='gte({frame},0)*lt(ceil({here}),{following})'"  # a whole number of ticks lies between the two
    given = ["-ss", f"{seek:.9f}", "-i", str(path), "-map", "0:v:0", "-vf", keep, "-frames:v", str(count)]
    made = "-fps_mode passthrough -f image2pipe -c:v ppm -pix_fmt rgb24 -sws_flags accurate_rnd+full_chroma_int pipe:1"
    return [find_ffmpeg(), *["-loglevel", "error", "-nostdin", "-xerror", "-threads", "1"], *given, *made.split()]


def _read(stream: IO[bytes], path: Path, count: int, words: IO[bytes]) -> Iterator[np.ndarray]:
    for number in range(count):
        sizes = [stream.readline() for _ in range(3)][1].split()
        wanted = int(sizes[1]) * int(sizes[0]) * 3 if len(sizes) == 2 else 0
        data = stream.read(wanted)
        if not wanted or len(data) < wanted:
            words.seek(0)
            said = " ".join(words.read(200).decode(errors="replace").split())
            raise DiwaError(f"{path} gives {number} of {count} frames{said and f' ({said})'}: {CURE}")
        yield np.frombuffer(data, np.uint8).reshape(int(sizes[1]), int(sizes[0]), 3)


def stored_frames(cells: Any, folder: Path, where: str) -> Iterator[np.ndarray]:
    """The rgb images (H, W, 3) uint8 of cells of a column of dtype `image`: PNG or JPEG in the table, or beside it."""
    for cell in cells:
        value = cell.as_py() or {}
        data = value.get("bytes")
        if data is None:
            file = Path(str(value.get("path")))
            if file.is_absolute() or ".." in file.parts or not (folder / file).is_file():
                raise DiwaError(f"{where}: its image {file} is missing: {CURE}")
            data = (folder / file).read_bytes()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is None or max(image.shape) > MAX_RECORD_SIZE:
            raise DiwaError(f"{where}: an image of {len(data)} bytes cannot be decoded: {CURE}")
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
