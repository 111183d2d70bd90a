"""Decoding and preprocessing of images."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.images import (
    crop_for_recording,
    decode_image,
    image_of,
    preprocess,
    preprocess_observation,
    recorded_intrinsics,
)
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.spec import CameraSpec, Spec

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
PNG = cv2.imencode(".png", RGB[..., ::-1])[1].tobytes()


sizes = st.integers(1, 6)


@settings(max_examples=50)
@given(sizes, sizes, st.integers(0, 5), st.sampled_from(["rgb8", "bgr8", "rgba8", "bgra8"]))
def test_every_encoding_with_row_padding(height: int, width: int, padding: int, encoding: str) -> None:
    rgb = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
    pixels = rgb if encoding.startswith("rgb") else rgb[..., ::-1]
    if "a" in encoding:
        pixels = np.concatenate([pixels, np.full((height, width, 1), 77, np.uint8)], axis=2)
    row = pixels.reshape(height, -1)
    step = row.shape[1] + padding
    padded = np.full((height, step), 99, np.uint8)
    padded[:, : row.shape[1]] = row
    np.testing.assert_array_equal(decode_image(padded.tobytes(), height, width, step, encoding), rgb)


def test_jpeg() -> None:
    smooth = cv2.resize(RGB * 10, (64, 48), interpolation=cv2.INTER_CUBIC)
    encoded = cv2.imencode(".jpg", smooth[..., ::-1])[1].tobytes()
    decoded = decode_image(encoded, 0, 0, 0, "jpeg")
    assert decoded.shape == (48, 64, 3)
    assert np.abs(decoded.astype(int) - smooth).mean() < 5


@pytest.mark.parametrize("text", ["png", "rgb8; png compressed bgr8", "bayer_rggb8; png compressed bgr8", ""])
def test_png_of_a_compressed_image(text: str) -> None:
    np.testing.assert_array_equal(image_of(SimpleNamespace(format=text, data=np.frombuffer(PNG, np.uint8))), RGB)


@pytest.mark.parametrize(
    "text", ["16UC1; compressedDepth png", "mono8; jpeg compressed ", "bayer_rggb8; png compressed "]
)
def test_compressed_images_without_colour_are_refused_by_name(text: str) -> None:
    with pytest.raises(DiwaError, match=f"format '{text}' is not supported; known: jpeg and png of rgb8"):
        image_of(SimpleNamespace(format=text, data=np.frombuffer(PNG, np.uint8)))


def test_a_jpeg_that_declares_more_pixels_than_any_camera_has_is_not_decoded() -> None:
    encoded = bytearray(cv2.imencode(".jpg", RGB)[1].tobytes())
    start = encoded.index(b"\xff\xc0") + 5
    encoded[start : start + 4] = (60_000).to_bytes(2, "big") * 2
    with pytest.raises(DiwaError, match="over 4096 pixels a side"):
        decode_image(bytes(encoded), 0, 0, 0, "jpeg")


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (RGB.tobytes(), "mono16", "'mono16' is not supported; known: rgb8"),
        (RGB.tobytes()[:-1], "rgb8", "17 bytes is too small for 2 rows of 9 bytes"),
        (b"no jpeg", "jpeg", "jpeg image of 7 bytes cannot be decoded"),
        (b"no png", "png", "png image of 6 bytes cannot be decoded"),
        (PNG[:30], "png", "png image of 30 bytes cannot be decoded"),
        (PNG[:16] + b"\x7f" + PNG[17:], "png", "says it has over 4096 pixels a side"),
        (RGB.tobytes(), "bayer_rggb8", "'bayer_rggb8' is a Bayer pattern: debayer it"),
    ],
)
def test_bad_images_are_refused(data: bytes, encoding: str, message: str) -> None:
    with pytest.raises(DiwaError, match=message):
        decode_image(data, 2, 3, 9, encoding)


def test_preprocess_takes_the_mean_over_the_area() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0] = 100
    small = preprocess(image, CameraSpec("static", record_size=(4, 4), size=(2, 2)))
    assert small.shape == (2, 2, 3)
    assert small[0, 0].tolist() == [25, 25, 25]
    assert small[1:].max() == 0


def test_preprocess_names_a_wrong_size() -> None:
    with pytest.raises(DiwaError, match="'static' gave an image of uint8 4x5x3, but its spec says uint8 200x200x3"):
        preprocess(np.zeros((4, 5, 3), np.uint8), CameraSpec("static"))


def test_crop_for_recording() -> None:
    image = np.zeros((8, 10, 3), np.uint8)
    image[2:6, 3:7] = 50
    camera = CameraSpec("static", record_size=(2, 2), crop=(2, 3, 4, 4))
    assert (crop_for_recording(image, camera) == 50).all()
    with pytest.raises(DiwaError, match="does not fit into its image of 8x10"):
        crop_for_recording(image, CameraSpec("static", crop=(6, 0, 4, 4)))


def test_observation_to_frame() -> None:
    spec = Spec()
    image = np.full((200, 200, 3), 9, np.uint8)
    pose = Pose(np.array([0.5, 0, 0.3]), Rotation.identity())
    frame = preprocess_observation(Observation({"static": image, "gripper": image}, pose, pose, 0.08, 0.0, 0.0), spec)
    assert frame.images["gripper"].shape == (64, 64, 3)
    np.testing.assert_allclose(frame.state, [0.5, 0, 0.3, 1, 0, 0, 0, 1, 0, 0.08])
    with pytest.raises(DiwaError, match="no image from camera gripper; cameras seen: static"):
        preprocess_observation(Observation({"static": image}, pose, pose, 0.08, 0.0, 0.0), spec)


def test_intrinsics_of_recorded_images_see_the_same_ray() -> None:
    camera = CameraSpec("static", record_size=(40, 48), crop=(10, 20, 80, 96))
    matrix = np.array([[100.0, 0, 67.5], [0, 110.0, 49.5], [0, 0, 1]])
    recorded = recorded_intrinsics(matrix, 100, 136, camera)
    np.testing.assert_allclose(recorded, [[50, 0, 23.5], [0, 55, 19.5], [0, 0, 1]], atol=1e-9)
    whole = recorded_intrinsics(matrix, 100, 136, CameraSpec("static", record_size=(100, 136)))
    np.testing.assert_allclose(whole, matrix)
