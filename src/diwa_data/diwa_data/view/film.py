"""A recording as a strip of small pictures, all cameras side by side: our bags, and those of other recorders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.foreign.bag import LARGEST_MESSAGE
from diwa_data.foreign.values import IMAGES
from diwa_data.images import decode_image, image_of
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import open_reader, read_messages
from diwa_data.recording.source import Source

RATE = 7.5
"""Pictures a second, at most."""
MOST = 2000
"""Pictures of one film; a longer recording has fewer a second."""
HEIGHT = 240
"""Largest height of a picture, pixels."""
_QUALITY = 80  # of the jpeg, percent
_EARLY = 0.5 / 60  # seconds by which a frame may come before it is due
_GREY = np.full((8, 8, 3), 60, np.uint8)  # of a camera that has sent nothing yet
_CURE = "look at it with 'ros2 bag info'"
Shape = tuple[int, int]
"""Height and width, pixels."""
_Frame = tuple[str, float, Callable[[], np.ndarray]]  # camera, seconds received, image (H, W, 3) when it is wanted


@dataclass(frozen=True, eq=False)
class Film:
    """Pictures of one recording in order of time."""

    cameras: tuple[str, ...]
    """From left to right; the first one gives the times."""
    times: list[float]
    """Seconds received."""
    pictures: list[bytes]
    """JPEG, one a time."""
    first_width: int
    """Pixels of a picture that are the first camera's."""

    def index(self, received: float) -> int:
        """The picture that was seen at a time; the first one before all."""
        return max(0, int(np.searchsorted(self.times, received + 1e-6, side="right")) - 1)

    def image(self, index: int) -> np.ndarray:
        """A picture (H, W, 3) uint8 rgb."""
        return decode_image(self.pictures[index], 0, 0, 0, "jpeg")


def strip(film: Film, count: int, height: int) -> bytes:
    """A JPEG of `count` pictures of the first camera, evenly over the film, `height` pixels high."""
    times = np.linspace(film.times[0], film.times[-1], count)
    pictures = [film.image(film.index(time))[:, : film.first_width] for time in times]
    width = max(1, round(film.first_width * height / pictures[0].shape[0]))
    return _encode(np.concatenate([_resized(picture, width, height) for picture in pictures], axis=1))


def film_of(source: Source, start: float, end: float) -> Film:
    """The film of an open recording between two times, seconds received. Raises `DiwaError` if it is damaged."""
    cameras = {messages.image_topic(camera.name): camera for camera in source.spec.cameras}
    frames = (
        (cameras[stream].name, sample.received, partial(source.value, stream, sample))
        for stream, sample in source.messages(list(cameras))
    )
    shapes = {camera.name: camera.record_size for camera in cameras.values()}
    return _film(shapes, frames, start, end, str(source.path))


def foreign_span(bag: Path) -> tuple[float, float]:
    """First and last time of a bag of another recorder, seconds received. Raises `DiwaError` if it is damaged."""
    with damage_as_error(f"{bag} is truncated or damaged", _CURE), _opened(bag) as reader:
        return reader.start_time * 1e-9, (reader.end_time - 1) * 1e-9


def foreign_film_of(bag: Path, start: float, end: float) -> Film:
    """The film of a bag of another recorder: every topic of colour images that can be read, the most frequent first.

    Raises `DiwaError` if there is none, or the bag is damaged.
    """
    with damage_as_error(f"{bag} is truncated or damaged", _CURE), _opened(bag) as reader:
        found = [each for each in reader.connections if each.msgtype in IMAGES and each.msgcount]
        shapes = {each.topic: shape for each in found if (shape := _shape(reader, each))}
        if not shapes:
            topics = ", ".join(sorted(each.topic for each in found)) or "none"
            raise DiwaError(f"{bag} holds no topic of colour images that can be shown; topics of images: {topics}")
        shown = sorted((each for each in found if each.topic in shapes), key=lambda each: (-each.msgcount, each.topic))

        def frames() -> Iterator[_Frame]:
            for connection, timestamp, data in read_messages(reader, shown, LARGEST_MESSAGE):
                yield connection.topic, timestamp * 1e-9, partial(_image, data, connection.msgtype)

        return _film({each.topic: shapes[each.topic] for each in shown}, frames(), start, end, str(bag))


@contextmanager
def _opened(bag: Path) -> Iterator[Reader]:
    reader = open_reader(bag, None, LARGEST_MESSAGE)
    try:
        yield reader
    finally:
        reader.close()


def _image(data: bytes, message_type: str) -> np.ndarray:
    return image_of(messages.decode(data, message_type))


def _shape(reader: Reader, connection: Connection) -> Shape | None:
    """Height and width of the first image on a connection; None if it has no colours, as depth, or is none."""
    for _, _, data in read_messages(reader, [connection], LARGEST_MESSAGE):
        try:
            height, width, _ = _image(data, connection.msgtype).shape
        except DiwaError:
            return None
        return height, width
    return None


def _film(shapes: dict[str, Shape], frames: Iterator[_Frame], start: float, end: float, where: str) -> Film:
    """Pictures at the times of the first camera's frames, each with the last frame of all cameras by then."""
    height = min(HEIGHT, max(height for height, _ in shapes.values()))
    widths = {camera: max(1, round(width * height / own)) for camera, (own, width) in shapes.items()}
    clock, step = next(iter(shapes)), max(1 / RATE, (end - start) / MOST)
    film = Film(tuple(shapes), [], [], widths[clock])
    last: dict[str, Callable[[], np.ndarray]] = {camera: lambda: _GREY for camera in shapes}

    def take() -> None:
        film.pictures.append(
            _encode(np.concatenate([_resized(last[c](), w, height) for c, w in widths.items()], axis=1))
        )

    due, now = start, -math.inf
    for camera, received, image in frames:
        if received > now and len(film.times) > len(film.pictures):
            take()  # once everything that came at its time is known
        if received > end + 1e-6:
            break
        last[camera], now = image, received
        if camera == clock and received >= due - 1e-6:
            film.times.append(received)
            due = received + step - _EARLY
    if len(film.times) > len(film.pictures):
        take()
    if not film.times:
        raise DiwaError(f"{where} holds no frame of {clock} between {start:.3f} and {end:.3f} s")
    return film


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _encode(image: np.ndarray) -> bytes:
    encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert encoded
    return data.tobytes()
