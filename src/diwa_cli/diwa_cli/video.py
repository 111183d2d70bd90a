"""Films, as small H.264 videos: the cameras side by side over a bar with the classifier's success probability.

A rollout on the simulated table has a picture of the whole scene beside them. A dream is a row of pictures, below the
recording that it began with. Two films of rollouts make the pictures of a README: before and after dreaming, from the
same start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imageio_ffmpeg
import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diwa_cli.run_folder import in_a_line
from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path, require_output
from diwa_data.images import fitted
from diwa_data.robot import Environment, Observation
from diwa_deploy.control import Tick
from diwa_learning.world_model.open_loop import Strip, draw_filmstrip
from diwa_sim.scenery import SIZE
from diwa_sim.table import SimulatedPanda

BAR_HEIGHT = 8
"""Pixels."""
BAR_COLOR, DONE_COLOR, EMPTY_COLOR = (224, 159, 62), (61, 153, 112), (38, 44, 52)
"""RGB of the bar while the robot works, after the oracle was true, and of its empty part."""
INK, REMARK = (226, 230, 234), (255, 138, 101)
"""RGB of a row's name, and of what is to be said about its picture."""
PICTURE_HEIGHT, LINE_HEIGHT = 256, 22
"""Pixels of a row's pictures and of a line of text in films of dreams."""
HOLD = 0.8
"""Seconds for which the last frame stays."""
COLUMNS = 9
"""Frames of a filmstrip."""
GIF_WIDTH = 480
"""Most pixels of an animation."""
WEBP = ".webp"
"""Ends the names of animated pictures."""
PAUSE = 8
"""Frames for which the last one of an animation stays."""


class Film:
    """Collects the frames of a rollout."""

    def __init__(self, environment: Environment):
        self._environment = environment
        self._cameras = [camera.name for camera in environment.spec.cameras]
        self._frames: list[np.ndarray] = []
        self._probability = 0.0

    def __call__(self, observation: Observation, tick: Tick) -> None:
        self._probability = tick.success_probability
        self._add(observation)

    def write(self, path: Path) -> bool:
        """Add the final state and write the mp4. False, with a warning, if that fails."""
        self._add(self._environment.observe())
        with failure_as_warning(path):
            write_video(path, self._frames, self._environment.spec.rate)
            return True
        return False

    def _add(self, observation: Observation) -> None:
        done = self._environment.judged and self._environment.succeeded()
        images = [observation.images[name] for name in self._cameras]
        scenery = self._environment.film() if isinstance(self._environment, SimulatedPanda) else None
        self._frames.append(compose(images, scenery, self._probability, done))


@contextmanager
def failure_as_warning(path: Path) -> Iterator[None]:
    """Print why the picture or film `path` cannot be made, and go on: no run fails because of a film."""
    try:
        yield
    except Exception as error:  # ffmpeg is absent, slow or killed, the disk is full, a file is damaged: all the same
        print(f"warning: no {path}: {in_a_line(error)}", file=sys.stderr)


def compose(images: Sequence[np.ndarray], scenery: np.ndarray | None, probability: float, done: bool) -> np.ndarray:
    """One video frame (H, W, 3) uint8: the cameras' images over the bar with the classifier's probability.

    They stand side by side, at the first one's height; or one below the other, beside a picture of the whole scene.
    """
    if scenery is None:
        shown = np.hstack([fitted(image, height=images[0].shape[0]) for image in images])
    else:
        height = scenery.shape[0] // len(images)
        small = [fitted(image, height=height) for image in images]
        width = 2 * (max(image.shape[1] for image in small) // 2)  # even, as videos need
        column = np.full((scenery.shape[0], width, 3), EMPTY_COLOR, np.uint8)
        for number, image in enumerate(small):
            column[number * height : (number + 1) * height, : image.shape[1]] = image[:, :width]
        shown = np.hstack([scenery, column])
    return np.vstack([shown, _bar(probability, done, shown.shape[1])])


def _bar(probability: float, done: bool, width: int) -> np.ndarray:
    bar = np.empty((BAR_HEIGHT, width, 3), np.uint8)
    bar[:] = EMPTY_COLOR
    bar[:, : round(probability * width)] = DONE_COLOR if done else BAR_COLOR
    return bar


@dataclass(frozen=True)
class Row:
    """One row of a film of dreams, the cameras side by side. Where it is shorter than the film, its last frame stays.

    T frames.
    """

    name: str
    images: Mapping[str, np.ndarray]
    """Camera -> (T, H, W, 3) uint8."""
    probability: Sequence[float] = ()
    """(T,) the classifier's, of success; empty without a classifier."""
    done: int | None = None
    """Frame from which the skill counts as done."""
    truth: Sequence[str] = ()
    """(T,) what is known about the scene of each frame, written below it; or nothing about any."""
    remarks: Sequence[str] = ()
    """(T,) what a frame shows wrong, such as a lamp; or nothing about any."""

    def __len__(self) -> int:
        return len(next(iter(self.images.values())))


def film_frames(rows: Sequence[Row], context: int, rate: float, title: str) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 of a film of `rows`, one below the other, over a line that counts.

    The first `context` frames are seen, what follows is imagined; `rate` in Hz.
    """
    frames, count = [], max(map(len, rows))
    for t in range(count):
        shown = [_draw_row(row, min(t, len(row) - 1)) for row in rows]
        step = "seen" if t < context else f"imagined step {t + 1 - context}"
        counter = f"frame {t + 1} of {count} · {step} · {t / rate:.1f} s"
        frames.append(np.vstack([*shown, _line(shown[0].shape[1], counter, title, INK)]))
    return frames


def _draw_row(row: Row, t: int) -> np.ndarray:
    pictures = [_enlarged(images[t]) for images in row.images.values()]
    width = sum(picture.shape[1] for picture in pictures)
    belief = f"classifier {row.probability[t]:.2f}" if row.probability else ""
    parts = [_line(width, row.name, belief, INK), np.hstack(pictures)]
    if row.probability:
        parts.append(_bar(row.probability[t], row.done is not None and t >= row.done, width))
    if row.truth or row.remarks:
        truth, remark = (each[t] if each else "" for each in (row.truth, row.remarks))
        parts.append(_line(width, truth, remark, REMARK))
    return np.vstack(parts)


def _enlarged(image: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) at `PICTURE_HEIGHT` and an even width, as videos need."""
    width = 2 * round(PICTURE_HEIGHT * image.shape[1] / image.shape[0] / 2)
    return np.asarray(Image.fromarray(image).resize((width, PICTURE_HEIGHT), Image.Resampling.BICUBIC))


def _line(width: int, left: str, right: str, color: tuple[int, int, int]) -> np.ndarray:
    """A line of text (LINE_HEIGHT, width, 3): one at each end, the right one in `color` and cut where they meet."""
    image, middle = Image.new("RGB", (width, LINE_HEIGHT), EMPTY_COLOR), LINE_HEIGHT // 2
    drawing = ImageDraw.Draw(image)
    left = _cut(left, width - 12)
    drawing.text((6, middle), left, fill=INK, font=_font(), anchor="lm")
    right = _cut(right, width - 24 - drawing.textlength(left, _font()))
    drawing.text((width - 6, middle), right, fill=color, font=_font(), anchor="rm")
    return np.asarray(image)


def _cut(text: str, room: float) -> str:
    """As much of a text as is at most `room` pixels wide."""
    while text and _font().getlength(text) > room:
        text = text[:-2].rstrip() + "…" if len(text) > 2 else ""
    return text


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 13)


def require_film(path: Path) -> None:
    """Raise `DiwaError` unless a film can be written to `path`."""
    require_output(path)
    if path.suffix.lower() not in (".mp4", WEBP):
        raise DiwaError(f"{path} is not a .mp4 file: films are MP4, or animated pictures for web pages ({WEBP})")


def write_video(path: Path, frames: Sequence[np.ndarray], rate: float) -> None:
    """Write `frames` (T of (H, W, 3) uint8, H and W even) as an mp4 that browsers play; `rate` in Hz.

    As an animated picture, which pages show that play no mp4, if `path` ends so.
    """
    frames = [*frames, *[frames[-1]] * round(HOLD * rate)]
    with atomic_path(path) as temporary:
        (_write_webp if path.suffix.lower() == WEBP else _write_mp4)(temporary, frames, rate)


def _write_webp(path: Path, frames: Sequence[np.ndarray], rate: float) -> None:
    first, *others = map(Image.fromarray, frames)
    first.save(path, "WEBP", save_all=True, append_images=others, duration=round(1000 / rate), quality=70)


def _write_mp4(path: Path, frames: Sequence[np.ndarray], rate: float) -> None:
    height, width = frames[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=rate,
        codec="libx264",
        macro_block_size=2,
        quality=None,
        ffmpeg_log_level="error",
        output_params=["-crf", "27", "-preset", "fast", "-movflags", "+faststart", "-f", "mp4"],
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()


def read_video(path: Path) -> tuple[np.ndarray, float]:
    """Frames (T, H, W, 3) uint8 of a video, and their rate in Hz."""
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    return np.stack(frames), about["fps"]


def draw_pair(videos: Mapping[str, Path], strip: Path, film: Path, width: int) -> None:
    """Write a filmstrip (png, one row a video) and an animation (gif) of videos: label -> mp4 of `Film`.

    A video that ended keeps its last frame until the longest ends. The strip shows the picture of the scene, or where
    there is none the first camera, whose images are `width` pixels wide.
    """
    read = {label: read_video(path) for label, path in videos.items()}
    length, rate = max(len(frames) for frames, _ in read.values()), max(rate for _, rate in read.values())
    clips = {
        label: np.concatenate([frames, frames[-1:].repeat(length - len(frames), 0)])
        for label, (frames, _) in read.items()
    }
    times = np.linspace(0, length - 1, COLUMNS).round().astype(int)
    first = {label: SIZE[1] if clip.shape[1] == SIZE[0] + BAR_HEIGHT else width for label, clip in clips.items()}
    rows = {label.replace(" ", "\n"): clip[times, :-BAR_HEIGHT, : first[label]] for label, clip in clips.items()}
    draw_filmstrip(strip, Strip(rows))
    shown = [*range(length), *[length - 1] * PAUSE]
    images = [np.concatenate([captioned(_at_most(clip[t]), label) for label, clip in clips.items()]) for t in shown]
    few = [Image.fromarray(image).quantize(128, dither=Image.Dither.NONE) for image in images]
    with atomic_path(film) as temporary:
        few[0].save(temporary, "GIF", save_all=True, append_images=few[1:], duration=round(1000 / rate), loop=0)


def _at_most(frame: np.ndarray) -> np.ndarray:
    """The frame no wider than `GIF_WIDTH`."""
    return fitted(frame, width=GIF_WIDTH) if frame.shape[1] > GIF_WIDTH else frame


def captioned(frame: np.ndarray, label: str) -> np.ndarray:
    """The frame (H, W, 3) with a label in its corner."""
    image = Image.fromarray(frame)
    ImageDraw.Draw(image).text((6, 4), label, fill="white", stroke_width=2, stroke_fill="black")
    return np.asarray(image)
