"""From a camera's message to the networks' input: one path for recording, datasets and the robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.pose import robot_state
from diwa_data.robot import Observation
from diwa_data.spec import MAX_RECORD_SIZE, CameraSpec, Spec

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4}
_COLOURS = ", ".join(CHANNELS)
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of what holds an image's size
_TO_RGB = {"bgr8": cv2.COLOR_BGR2RGB, "rgba8": cv2.COLOR_RGBA2RGB, "bgra8": cv2.COLOR_BGRA2RGB}


@dataclass(frozen=True, eq=False)
class Frame:
    """One control tick as the networks see it."""

    images: dict[str, np.ndarray]
    """Camera name -> rgb image (H, W, 3) uint8 at the camera's `size`."""
    state: np.ndarray
    """Robot state (10,) float32: position, 6D rotation, gripper width; (9,) without a gripper."""
    scene_state: np.ndarray | None = None
    """(N,) as named by `spec.scene_state`; None where nothing measures it."""


def preprocess(image: np.ndarray, camera: CameraSpec) -> np.ndarray:
    """A recorded image (H, W, 3) uint8 at the camera's `size`, by the mean over each pixel's area.

    Raises `DiwaError` if the image is not of the camera's `record_size`.
    """
    require_record_size(image, camera)
    return _resize(image, camera.size)


def require_record_size(image: np.ndarray, camera: CameraSpec) -> None:
    """Raise `DiwaError` unless `image` is (H, W, 3) uint8 at the camera's `record_size`."""
    if image.dtype != np.uint8 or image.shape != (*camera.record_size, 3):
        found = f"{image.dtype} {'x'.join(map(str, image.shape))}"
        wanted = f"uint8 {camera.record_size[0]}x{camera.record_size[1]}x3"
        raise DiwaError(f"camera {camera.name!r} gave an image of {found}, but its spec says {wanted}")


def preprocess_observation(observation: Observation, spec: Spec) -> Frame:
    """`observation` as the networks see it, by the dataset's own arithmetic. Raises `DiwaError` on a missing camera."""
    missing = [camera.name for camera in spec.cameras if camera.name not in observation.images]
    if missing:
        raise DiwaError(f"no image from camera {', '.join(missing)}; cameras seen: {', '.join(observation.images)}")
    images = {camera.name: preprocess(observation.images[camera.name], camera) for camera in spec.cameras}
    width = observation.gripper_width if spec.action.gripper else None
    return Frame(images, robot_state(observation.pose, width), observation.scene_state)


def crop_for_recording(image: np.ndarray, camera: CameraSpec) -> np.ndarray:
    """A driver's rgb image (H, W, 3) cut to `camera.crop` and resized to `camera.record_size`.

    Raises `DiwaError` if the crop leaves the image.
    """
    require_crop(camera, image.shape[:2])
    top, left, height, width = camera.crop or (0, 0, *image.shape[:2])
    return _resize(image[top : top + height, left : left + width], camera.record_size)


def require_crop(camera: CameraSpec, size: Sequence[int]) -> None:
    """Raise `DiwaError` if the camera's crop leaves an image of this height and width."""
    top, left, height, width = camera.crop or (0, 0, *size)
    if min(top, left) < 0 or top + height > size[0] or left + width > size[1]:
        there = f"{size[0]}x{size[1]}"
        raise DiwaError(f"camera {camera.name!r}: crop {camera.crop} does not fit into its image of {there}")


def recorded_intrinsics(matrix: np.ndarray, height: int, width: int, camera: CameraSpec) -> np.ndarray:
    """The camera matrix K (3, 3) of recorded images, from that of the driver's images of `height` x `width` pixels."""
    top, left, rows, columns = camera.crop or (0, 0, height, width)
    y, x = camera.record_size[0] / rows, camera.record_size[1] / columns
    # pixel centres are at whole numbers: the edge of the image lies half a pixel before the first
    scale = np.array([[x, 0, x * (0.5 - left) - 0.5], [0, y, y * (0.5 - top) - 0.5], [0, 0, 1]])
    return scale @ matrix


def image_of(message: Any) -> np.ndarray:
    """The rgb image (H, W, 3) uint8 of a deserialised sensor_msgs/Image, or CompressedImage (jpeg or png, colour)."""
    if hasattr(message, "format"):
        return decode_image(message.data, 0, 0, 0, _packing(message))
    return decode_image(message.data, message.height, message.width, message.step, message.encoding)


def _packing(message: Any) -> str:
    """jpeg or png, of a CompressedImage. Raises `DiwaError` if by its `format` it is no colour."""
    source, _, packed = message.format.lower().rpartition(";")
    is_colour = source.strip() in ("", *CHANNELS) or packed.rstrip().endswith(("rgb8", "bgr8"))
    if "compresseddepth" in packed or not is_colour:
        known = f"jpeg and png of {_COLOURS}"
        raise DiwaError(f"compressed image of format {message.format[:60]!r} is not supported; known: {known}")
    return "png" if bytes(message.data[:8]) == _PNG else "jpeg"


def decode_image(
    data: bytes | memoryview | np.ndarray, height: int, width: int, step: int, encoding: str
) -> np.ndarray:
    """The rgb image (height, width, 3) uint8 of a sensor_msgs/Image, or of a jpeg or png (then sizes are not used).

    `step` is the length of a row in bytes, padding included. May return a view of `data`.
    """
    raw = np.frombuffer(data, np.uint8)
    if encoding in _SIZES:
        if max(_SIZES[encoding](raw.tobytes())) > MAX_RECORD_SIZE:
            raise DiwaError(f"{encoding} image of {raw.size} bytes says it has over {MAX_RECORD_SIZE} pixels a side")
        bgr = cv2.imdecode(raw, cv2.IMREAD_COLOR)
        if bgr is None:
            raise DiwaError(f"{encoding} image of {raw.size} bytes cannot be decoded: it is damaged")
        return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    if encoding.startswith("bayer"):
        raise DiwaError(f"image encoding {encoding!r} is a Bayer pattern: debayer it (image_proc) while you record")
    if encoding not in CHANNELS:
        raise DiwaError(f"image encoding {encoding!r} is not supported; known: {_COLOURS}, jpeg, png")
    channels = CHANNELS[encoding]
    if step < width * channels or raw.size < height * step:
        wanted = f"{height} rows of {step} bytes, {width} {encoding} pixels each"
        raise DiwaError(f"image of {raw.size} bytes is too small for {wanted}: it is damaged")
    rows = raw[: height * step].reshape(height, step)[:, : width * channels]
    image = rows.reshape(height, width, channels)
    return image if encoding == "rgb8" else cv2.cvtColor(image, _TO_RGB[encoding])


def fitted(image: np.ndarray, *, height: int = 0, width: int = 0) -> np.ndarray:
    """An image (H, W, 3) uint8 scaled to `height` or to `width` pixels, to stand beside another; its shape stays."""
    scale = height / image.shape[0] if height else width / image.shape[1]
    return _resize(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width that a jpeg declares, without decoding it. Raises `DiwaError` if it is none."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _JPEG_FRAMES:
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 1 if marker == 0xFF else 2 + length  # a marker may be preceded by any number of 0xFF
    raise DiwaError(f"jpeg image of {len(data)} bytes cannot be decoded: it is damaged")


def _png_size(data: bytes) -> tuple[int, int]:
    """As `_jpeg_size`, of a png."""
    if len(data) < 24 or data[:8] != _PNG:
        raise DiwaError(f"png image of {len(data)} bytes cannot be decoded: it is damaged")
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


_SIZES = {"jpeg": _jpeg_size, "jpg": _jpeg_size, "png": _png_size}


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == tuple(size):
        return np.ascontiguousarray(image)
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
