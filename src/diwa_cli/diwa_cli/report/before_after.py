"""One pair of filmed rollouts as pictures for a README: the policy before and after dreaming, from the same start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw

from diwa_cli.video import BAR_HEIGHT
from diwa_data.files import atomic_path
from diwa_learning.world_model.open_loop import draw_filmstrip

COLUMNS = 9
"""Frames of the filmstrip."""
PAUSE = 8
"""Frames for which the film's last one stays."""


def choose_pair(evaluation: Mapping[str, Any], videos: Mapping[str, Path]) -> dict[str, Path] | None:
    """Videos (policy -> mp4) of the first filmed start where only the second policy succeeds, or else of the first.

    `videos` are the folders of two policies' films. None if no start was filmed with both.
    """
    policies = list(videos)
    success = {(r["policy"], r["seed"]): r["success"] for r in evaluation["rollouts"]}
    filmed = []
    for seed in dict.fromkeys(seed for _, seed in success):
        pair = {name: folder / f"{name}_{seed}.mp4" for name, folder in videos.items()}
        if all(path.is_file() for path in pair.values()):
            filmed.append((success[policies[1], seed] and not success[policies[0], seed], pair))
    return max(filmed, key=lambda item: item[0])[1] if filmed else None


def draw_pair(videos: Mapping[str, Path], strip: Path, film: Path) -> None:
    """Write a filmstrip (png, one row a video) and a film (gif) of videos: label -> mp4 of `video.Film`."""
    clips, rates = {}, set()
    for label, path in videos.items():
        clips[label], rate = read_video(path)
        rates.add(rate)
    _save_strip(strip, clips)
    _save_film(film, clips, max(rates))


def read_video(path: Path) -> tuple[np.ndarray, float]:
    """Frames (T, H, W, 3) uint8 of a video, and their rate in Hz."""
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    return np.stack(frames), about["fps"]


def _save_strip(path: Path, clips: Mapping[str, np.ndarray]) -> None:
    """Static camera (left half of a frame), evenly spaced over the longest clip; a clip that ended keeps its last."""
    length = max(len(frames) for frames in clips.values())
    times = np.linspace(0, length - 1, COLUMNS).round().astype(int)
    rows = {}
    for label, frames in clips.items():
        some = frames[np.minimum(times, len(frames) - 1)]
        rows[label.replace(" ", "\n")] = some[:, :-BAR_HEIGHT, : some.shape[2] // 2]
    draw_filmstrip(path, rows)


def _save_film(path: Path, clips: Mapping[str, np.ndarray], rate: float) -> None:
    """All clips one above the other, each with its label; the shorter ones wait at their end."""
    length = max(len(frames) for frames in clips.values())
    images = []
    for t in [*range(length), *[length - 1] * PAUSE]:
        shown = []
        for label, frames in clips.items():
            image = Image.fromarray(frames[min(t, len(frames) - 1)])
            ImageDraw.Draw(image).text((6, 4), label, fill="white", stroke_width=2, stroke_fill="black")
            shown.append(np.asarray(image))
        images.append(Image.fromarray(np.concatenate(shown, axis=0)).quantize(128, dither=Image.Dither.NONE))
    with atomic_path(path) as temporary:
        images[0].save(
            temporary, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 / rate), loop=0
        )
