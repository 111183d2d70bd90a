"""The camera node: whatever a driver sends becomes what is recorded, or one clear line."""

from __future__ import annotations

import time

import numpy as np
import pytest

from diwa_data.images import decode_image
from diwa_data.recording import messages

pytestmark = pytest.mark.ros

DRIVER = "/kinect/rgb/image_raw"
PARAMETERS = (
    "camera:=static", f"robot.static.driver:={DRIVER}", "robot.static.info:=/kinect/rgb/camera_info",
    "robot.static.crop:=[10,20,80,96]",
)  # fmt: skip


def picture() -> np.ndarray:
    """An rgb image (100, 136, 3) whose pixels tell where they are, smoothly."""
    rows, columns = np.mgrid[:100, :136]
    return np.stack([2 * rows, columns, np.full_like(rows, 60)], axis=-1).astype(np.uint8)


def driver_message(encoding: str, padding: int, stamp: float) -> memoryview:
    """The message in which a driver sends `picture`."""
    image = picture()
    channels = {"rgb8": image, "bgr8": image[..., ::-1], "bgra8": np.dstack([image[..., ::-1], image[..., 0]])}.get(
        encoding
    )
    if channels is None:
        channels = image[..., :1]
    rows = np.pad(channels.reshape(100, -1), ((0, 0), (0, padding)), constant_values=255)
    return messages._encode(
        messages.IMAGE_TYPE,
        header=messages._header(stamp, "rgb_camera_link"),
        height=100, width=136, encoding=encoding, is_bigendian=0, step=rows.shape[1], data=rows.reshape(-1),
    )  # fmt: skip


@pytest.fixture
def camera(start):
    node = start("camera", *PARAMETERS)
    time.sleep(2.0)
    return node


@pytest.fixture
def images(topics) -> list:
    """Recorded images as messages."""
    from sensor_msgs.msg import Image

    found: list = []
    topics.call(lambda: topics.node.create_subscription(Image, messages.image_topic("static"), found.append, 10))
    return found


def send(topics, encoding: str, padding: int = 0, stamp: float = 100.25, count: int = 8) -> None:
    for _ in range(count):
        topics.publish(DRIVER, driver_message(encoding, padding, stamp))
        time.sleep(0.05)


@pytest.mark.parametrize(("encoding", "padding"), [("bgra8", 24), ("rgb8", 0), ("bgr8", 5)])
def test_frames_are_cut_resized_and_keep_their_stamp(topics, camera, images, encoding, padding, fault):
    send(topics, encoding, padding, count=20)
    assert images, camera.said
    image = images[-1]
    assert (image.encoding, image.height, image.width, image.step) == ("rgb8", 40, 48, 144)
    assert image.header.stamp.sec + image.header.stamp.nanosec * 1e-9 == pytest.approx(100.25)
    assert image.header.frame_id == "rgb_camera_link"
    found = decode_image(bytes(image.data), 40, 48, 144, "rgb8").astype(float)
    expected = picture()[10:90, 20:116].reshape(40, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(found - expected).max() <= 1.0
    if encoding == "bgra8":
        fault("bgra8 frames with 24 bytes of padding in every row", "cut and coloured right, to the level", "nothing")


def test_a_wrong_encoding_is_told_once_and_the_next_good_frame_goes_on(topics, camera, images, fault):
    send(topics, "mono16", count=20)
    said = camera.wait_for("image encoding 'mono16' is not supported; known: rgb8, bgr8, rgba8, bgra8, jpeg")
    assert not images
    send(topics, "rgb8", count=20)
    camera.wait_for(f"{DRIVER} is fine again")
    assert images
    assert sum("mono16" in line for line in camera.said) == 1
    fault(
        "the driver sends mono16", f"said once: {said.split(': ', 2)[-1]}; good frames went on", "the frames in mono16"
    )


def test_intrinsics_follow_crop_and_size_and_come_with_every_image(topics, camera, images):
    from diwa_data.ros.topics import LATCHED

    found = topics.subscribe(messages.camera_info_topic("static"))
    from sensor_msgs.msg import CameraInfo

    topics.call(
        lambda: topics.node.create_subscription(CameraInfo, messages.camera_info_topic("static"), found.append, LATCHED)
    )
    matrix = np.array([[100.0, 0, 67.5], [0, 110.0, 49.5], [0, 0, 1]])
    given = messages.encode_camera_info(matrix, (100, 136), 1.0, "another_frame")
    for _ in range(10):
        topics.publish("/kinect/rgb/camera_info", given)
        time.sleep(0.05)
    send(topics, "rgb8", count=10)
    infos = [info for info in found if isinstance(info, CameraInfo)]
    assert [info.header for info in infos] == [image.header for image in images[-len(infos) :]], "one with each image"
    assert len(infos) > 1
    np.testing.assert_allclose(infos[0].k.reshape(3, 3), [[50, 0, 23.5], [0, 55, 19.5], [0, 0, 1]], atol=1e-9)


def test_a_silent_driver_is_named_and_a_killed_node_comes_back(topics, camera, images, start, fault):
    camera.wait_for(f"no image on {DRIVER} for", 5.0)
    assert "nobody publishes it: is the driver running?" in camera.wait_for("no image on")
    send(topics, "rgb8", count=10)
    camera.kill()
    before = len(images)
    send(topics, "rgb8", count=5)
    assert len(images) <= before + 1
    again = start("camera", *PARAMETERS)
    end = time.monotonic() + 10
    while len(images) <= before + 1 and time.monotonic() < end:
        send(topics, "rgb8", count=2)
    assert len(images) > before + 1, again.said
    fault(
        "kill -9 of a camera node (launch starts it again)",
        "the new one goes on with the next frame",
        "frames until then",
    )


def test_a_topic_that_is_none_or_of_another_type_is_told_with_what_there_is(topics, start):
    cameras = "robot.cameras:=[front, static, gripper]"
    node = start("camera", "camera:=gripper", cameras, f"robot.gripper.driver:={DRIVER}x")
    compressed = (f"robot.front.driver:={DRIVER}", "robot.front.compressed:=true")
    other, wrong = start("camera", cameras, *compressed), start("camera", "camera:=frnt", cameras)
    topics.publish(DRIVER, driver_message("rgb8", 0, 1.0))
    said = node.wait_for(f"no image on {DRIVER}x for")
    assert f"Topics of images here: {DRIVER}" in said
    wanted = "it is a sensor_msgs/msg/Image, not a sensor_msgs/msg/CompressedImage: set robot.front.compressed"
    assert wanted in other.wait_for(f"no image on {DRIVER} for")
    assert wrong.wait() == 2
    wrong.wait_for("unknown camera 'frnt'; choose one of front, static, gripper. Did you mean 'front'?")
