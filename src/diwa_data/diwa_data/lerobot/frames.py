"""The images of an episode at its control ticks, decoded once and in order: from a video, or from files in its table.

Videos are decoded by the ffmpeg that comes with imageio-ffmpeg (H.264, HEVC, VP9, AV1), in a process of its own that
converts, cuts and resizes only the frames that are asked for, as a camera's node does while recording.
"""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.lerobot.files import find_ffmpeg
from diwa_data.lerobot.folder import CURE

EARLY = 1e-6
"""Share of a frame by which a frame may be later than its tick and still be the one that was known."""


def tick_frames(length: int, fps: float, rate: float) -> np.ndarray:
    """(T,) the number of the last frame captured by each tick, of `length` frames at `fps` and ticks at `rate`, Hz."""
    ticks = np.arange(int(length * rate / fps) + 2)
    frames = np.floor(ticks * (fps / rate) + EARLY).astype(int)
    return frames[frames < length]


@dataclass(frozen=True)
class Cut:
    """The part of a video's frames that is kept; heights and widths in pixels."""

    source: tuple[int, int]
    """Size of the frames."""
    crop: tuple[int, int, int, int] | None
    """Top, left, height, width; None keeps all."""
    size: tuple[int, int]
    """Size to which that is resized, by the mean over each pixel's area."""


@contextmanager
def video_frames(
    path: Path, start: float, fps: float, rate: float, count: int, cut: Cut
) -> Iterator[Iterator[np.ndarray]]:
    """The rgb images (H, W, 3) uint8 of the first `count` ticks of an episode that begins at `start` seconds.

    The frames are those of `tick_frames`. Raises `DiwaError` if the video is damaged, too short, or of another size.
    """
    with tempfile.TemporaryFile() as words:
        decoder = subprocess.Popen(
            _decoding(path, start, fps, rate, count, cut, _are_keyframes(path, start, fps, rate, count)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            bufsize=1 << 20,
            pipesize=1 << 20,  # it goes on while another camera is read
            start_new_session=True,  # Ctrl-C is for the importer
        )
        assert decoder.stdout is not None
        try:
            yield _read(decoder.stdout, path, count, cut, words)
        finally:
            decoder.kill()
            decoder.communicate()


def _are_keyframes(path: Path, start: float, fps: float, rate: float, count: int) -> bool:
    """Whether the frames at ticks can all be decoded without the others, as in LeRobot's own videos at 30 Hz."""
    frames = tick_frames(math.ceil(count * fps / rate) + 1, fps, rate)[:count]
    if count < 2 or frames[1] == 1:  # nothing to leave out
        return False
    seek = max(start - 0.5 / fps, 0.0)
    copied = f"-map 0:v:0 -c copy -copyts -frames:v {frames[-1] + 3} -f framecrc pipe:1".split()
    command = [find_ffmpeg(), "-loglevel", "quiet", "-nostdin", "-ss", f"{seek:.9f}", "-i", str(path), *copied]
    text = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True
    ).stdout.decode()
    base = re.search(r"#tb 0: (\d+)/(\d+)", text)
    stamps = re.findall(r"^0, *-?\d+, *(-?\d+), *\d+, *\d+, *0x\w+$", text, re.MULTILINE)  # others end in their flags
    scale = int(base[1]) / int(base[2]) if base else 0.0
    return {*frames.tolist()} <= {round((int(stamp) * scale - start) * fps) for stamp in stamps}


def _decoding(
    path: Path, start: float, fps: float, rate: float, count: int, cut: Cut, keyframes: bool = False
) -> list[str]:
    """ffmpeg's command: seek to half a frame before the episode, keep the frames at ticks, cut, resize, hand over.

    Frames are converted and resized in one exact pass: cheaper than a fast conversion of all their pixels.
    """
    seek = max(start - 0.5 / fps, 0.0)
    frame, step = f"round((t-{start - seek:.9f})*{fps:.9f})", rate / fps
    here, following = f"{frame}*{step:.12f}-{EARLY * step:.12f}", f"({frame}+1)*{step:.12f}-{EARLY * step:.12f}"
    keep = f"select='gte({frame},0)*lt(ceil({here}),{following})'"  # a whole number of ticks lies between the two
    top, left, height, width = cut.crop or (0, 0, *cut.source)
    right = f"if(eq(iw,{cut.source[1]})*eq(ih,{cut.source[0]}),{width},NAN)"  # ends in an error for another size
    part = f"crop=w='{right}':h={height}:x={left}:y={top}:exact=1"
    resize = f"scale={cut.size[1]}:{cut.size[0]}:flags=area+accurate_rnd+full_chroma_int"
    given = [
        *["-skip_frame", "nokey"] * keyframes,
        "-ss",
        f"{seek:.9f}",
        "-i",
        str(path),
        "-map",
        "0:v:0",
        "-vf",
        f"{keep},{part},{resize}",
    ]
    made = ["-frames:v", str(count), *["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]]
    return [find_ffmpeg(), *["-loglevel", "error", "-nostdin", "-xerror", "-threads", "1"], *given, *made]


def _read(stream: IO[bytes], path: Path, count: int, cut: Cut, words: IO[bytes]) -> Iterator[np.ndarray]:
    shape = (*cut.size, 3)
    for number in range(count):
        data = stream.read(math.prod(shape))
        if len(data) < math.prod(shape):
            words.seek(0)
            said = " ".join(words.read(200).decode(errors="replace").split())
            height, width = cut.source
            raise DiwaError(
                f"{path} gives {number} of {count} frames of {height}x{width}{said and f' ({said})'}: {CURE}"
            )
        yield np.frombuffer(data, np.uint8).reshape(shape)


def stored_frames(cells: Any, size: tuple[int, int], folder: Path, where: str) -> Iterator[np.ndarray]:
    """The rgb images (H, W, 3) uint8 of cells of a column of dtype `image`: PNG or JPEG in the table, or beside it.

    Raises `DiwaError` if one is missing, damaged or not of this height and width.
    """
    for cell in cells:
        value = cell.as_py() or {}
        data = value.get("bytes")
        if data is None:
            file = Path(str(value.get("path")))
            if file.is_absolute() or ".." in file.parts or not (folder / file).is_file():
                raise DiwaError(f"{where}: its image {file} is missing: {CURE}")
            data = (folder / file).read_bytes()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is None or image.shape[:2] != size:
            found = "cannot be decoded" if image is None else f"is {image.shape[0]}x{image.shape[1]}"
            raise DiwaError(f"{where}: an image {found}, meta/info.json says {size[0]}x{size[1]}: {CURE}")
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
