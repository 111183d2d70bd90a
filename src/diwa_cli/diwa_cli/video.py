"""Rollouts as small H.264 videos: both cameras side by side over a bar with the classifier's success probability."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np

from diwa_cli.run_folder import in_a_line
from diwa_data.files import atomic_path
from diwa_data.robot import Environment, Observation
from diwa_deploy.control import Tick

BAR_HEIGHT = 8
"""Pixels."""
BAR_COLOR, DONE_COLOR, EMPTY_COLOR = (224, 159, 62), (61, 153, 112), (38, 44, 52)
"""RGB of the bar while the robot works, after the oracle was true, and of its empty part."""
HOLD = 0.8
"""Seconds for which the last frame stays."""


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
        done = self._environment.succeeded()
        self._frames.append(compose(observation, self._cameras, self._probability, done))


@contextmanager
def failure_as_warning(path: Path) -> Iterator[None]:
    """Print why the picture or film `path` cannot be made, and go on: no run fails because of a film."""
    try:
        yield
    except Exception as error:  # ffmpeg is absent, slow or killed, the disk is full, a file is damaged: all the same
        print(f"warning: no {path}: {in_a_line(error)}", file=sys.stderr)


def compose(observation: Observation, cameras: Sequence[str], probability: float, done: bool) -> np.ndarray:
    """One video frame (H, W, 3) uint8: the cameras' images side by side, at the first one's size, the bar below."""
    height, width = observation.images[cameras[0]].shape[:2]
    images = np.hstack([cv2.resize(observation.images[name], (width, height)) for name in cameras])
    bar = np.empty((BAR_HEIGHT, images.shape[1], 3), np.uint8)
    bar[:] = EMPTY_COLOR
    bar[:, : round(probability * images.shape[1])] = DONE_COLOR if done else BAR_COLOR
    return np.vstack([images, bar])


def write_video(path: Path, frames: Sequence[np.ndarray], rate: float) -> None:
    """Write `frames` (T of (H, W, 3) uint8, H and W even) as an mp4 that browsers play; `rate` in Hz."""
    height, width = frames[0].shape[:2]
    frames = [*frames, *[frames[-1]] * round(HOLD * rate)]
    with atomic_path(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            str(temporary),
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
