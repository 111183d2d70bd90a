"""Thumbnails of an episode: what happened in it, at a glance."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags, is_bag
from diwa_data.recording.messages import decode_value

_MARGIN = 18  # pixels above the frames, for their times


def contact_sheet(path: Path, columns: int = 12) -> np.ndarray:
    """An rgb picture (H, W, 3) uint8 of a bag: a row a camera, `columns` frames evenly spaced, seconds on top.

    Times count from the start event, as in `diwa annotate`. Frames after a success mark have a green bar above them.
    """
    with Bag(path) as bag:
        spec, sidecar = bag.spec, bag.sidecar
        topics = [messages.image_topic(camera.name) for camera in spec.cameras]
        bag.require_topics(topics)
        first, last = (sidecar.topics[topics[0]].first, sidecar.topics[topics[0]].last)
        times = np.linspace(first, last, columns)
        found: dict[str, list[np.ndarray]] = {topic: [] for topic in topics}
        for topic, sample in bag.messages(topics):
            if len(found[topic]) < columns and sample.received >= times[len(found[topic])] - 1e-6:
                found[topic].append(decode_value(topic, sample.value, f"{path}: {topic}"))
    start, success = sidecar.mark("start"), sidecar.mark("success")
    width = spec.cameras[0].record_size[1]
    rows = [np.concatenate([_fit(image, width) for image in _filled(found[topic], columns)], 1) for topic in topics]
    head = np.full((_MARGIN, columns * width, 3), 255, np.uint8)
    for column, time in enumerate(times):
        if success is not None and time >= success:
            head[:3, column * width : (column + 1) * width] = (0, 160, 60)
        text = f"{time - (first if start is None else start):.1f} s"
        cv2.putText(head, text, (column * width + 4, _MARGIN - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
    return np.concatenate([head, *rows])


def save_contact_sheet(path: Path, out: Path) -> None:
    """Write the contact sheet of the bag `path` as the PNG `out`.

    Raises `DiwaError` if `path` is no bag, or `out` has another ending.
    """
    if not is_bag(path):
        first = find_bags([path])[0] if path.is_dir() else "BAGS/000000"
        raise DiwaError(f"{path} is no bag: thumbnails show one episode, such as {first}")
    if out.suffix.lower() != ".png":
        raise DiwaError(f"{out} is no .png file: thumbnails are written as PNG")
    encoded, data = cv2.imencode(".png", contact_sheet(path)[..., ::-1])
    assert encoded
    with atomic_path(out) as temporary:
        temporary.write_bytes(data.tobytes())


def _filled(images: list[np.ndarray], count: int) -> list[np.ndarray]:
    """A camera that ended early keeps its last picture."""
    return images + images[-1:] * (count - len(images))


def _fit(image: np.ndarray, width: int) -> np.ndarray:
    """Scale to `width` pixels."""
    height = round(image.shape[0] * width / image.shape[1])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
