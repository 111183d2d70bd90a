"""A driver's images -> what is recorded: cut, resized, rgb8, under the driver's own stamp, with intrinsics that fit."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from rclpy.node import Node
from rosidl_runtime_py.utilities import get_message

from diwa_data.errors import DiwaError, unknown
from diwa_data.images import crop_for_recording, recorded_intrinsics
from diwa_data.recording import messages
from diwa_data.recording.sidecar import SLOWEST
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.bridge import about, rgb_of
from diwa_data.ros.middleware import small_buffer
from diwa_data.ros.node import Diagnostics, every, read_parameters, run_node
from diwa_data.ros.topics import LATCHED, SENSOR, publisher

IMAGE_TYPES = (messages.IMAGE_TYPE, "sensor_msgs/msg/CompressedImage")
"""Types of a driver's images: raw, compressed."""
STALLED = 0.5
"""Seconds without an image after which the operator is told."""
_WARN_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class CameraNodeConfig:
    """Parameters of a camera node."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """Holds the driver's topics, crop and size."""
    camera: str = ""
    """Which of the robot's cameras; empty = the first."""


class CameraNode(Node):
    """One camera. An image that cannot be used is told once and left out; the next good one goes on."""

    def __init__(self) -> None:
        super().__init__("camera", automatically_declare_parameters_from_overrides=True)
        config = read_parameters(self, CameraNodeConfig)
        cameras = config.robot.cameras
        self._name = config.camera or next(iter(cameras))
        if self._name not in cameras:
            raise unknown("camera", self._name, cameras)
        settings = cameras[self._name]
        if not settings.driver:
            raise DiwaError(f"robot.{self._name}.driver is empty: name the topic of the camera driver's images")
        self._camera, self._driver = settings.spec(self._name), self.resolve_topic_name(settings.driver)
        self._type = IMAGE_TYPES[settings.compressed]
        self._image = publisher(self, messages.image_topic(self._name))
        self._info = publisher(self, messages.camera_info_topic(self._name), LATCHED)
        self._problem, self._images, self._received = "", 0, time.monotonic()
        self._wanted, self._slow = SLOWEST * config.robot.record_rate, 0
        self._matrix: np.ndarray | None = None
        self._distortion, self._encoded, self._frame = np.zeros(5), memoryview(b""), ""
        self._diagnostics = Diagnostics(self)
        self.create_subscription(get_message(self._type), self._driver, self._on_image, SENSOR, raw=True)
        if settings.info:
            info_type = get_message(messages.CAMERA_INFO_TYPE)
            self.create_subscription(info_type, settings.info, self._on_info, SENSOR, raw=True)
        every(self, 1.0, self._report)
        self.get_logger().info(f"{self._driver} is decoded by {about()}")

    def close(self) -> None:
        """Nothing to give back."""

    def _on_image(self, data: bytes) -> None:
        self._received = time.monotonic()
        try:
            image = messages.decode(data, self._type)
            recorded = crop_for_recording(rgb_of(image), self._camera)
        except DiwaError as error:
            self._tell(f"{self._driver}: {error}")
            return
        self._tell("")
        frame = image.header.frame_id or f"{self._name}_camera"
        stamp = messages.header_stamp(data)
        self._image(messages.encode_image(recorded, stamp, frame))
        self._images += 1
        if self._matrix is not None:  # with every image and under its stamp: so RViz and image_proc pair them
            if frame != self._frame:
                self._frame, size = frame, self._camera.record_size
                self._encoded = messages.encode_camera_info(self._matrix, size, stamp, frame, self._distortion)
            self._info(messages.restamped(self._encoded, stamp))

    def _on_info(self, data: bytes) -> None:
        info = messages.decode(data, messages.CAMERA_INFO_TYPE)
        matrix = recorded_intrinsics(info.k.reshape(3, 3), info.height, info.width, self._camera)
        if self._matrix is None or (matrix != self._matrix).any():
            self._matrix, self._distortion, self._frame = matrix, info.d.copy(), ""

    def _report(self) -> None:
        age = time.monotonic() - self._received
        if age > STALLED:
            self._tell(f"no image on {self._driver} for {age:.0f} s: {self._why()}", f"no image on {self._driver}")
        self._slow = self._slow + 1 if 0 < self._images < self._wanted else 0
        if self._slow > 1 and (lost := self._lost()):
            slow = f"{self._driver}: {self._images} images a second"
            self.get_logger().warning(f"{slow}, the others may be lost: {lost}", throttle_duration_sec=_WARN_EVERY)
        self._diagnostics.add(self._name, self._problem, rate=self._images)
        self._diagnostics.publish()
        self._images = 0

    def _why(self) -> str:
        """Why there is no image."""
        offered = {offer.topic_type for offer in self.get_publishers_info_by_topic(self._driver)}
        if not offered:
            kinds = self.get_topic_names_and_types()
            seen = sorted(topic for topic, types in kinds if {*types} & {*IMAGE_TYPES} and "/diwa/" not in topic)
            return f"nobody publishes it: is the driver running? Topics of images here: {', '.join(seen) or 'none'}"
        if self._type in offered:
            lost = self._lost()
            return f"its driver publishes nothing{f', or its images are lost: {lost}' if lost else ''}"
        cure = f"set robot.{self._name}.compressed" if offered & {*IMAGE_TYPES} else "name the topic of its images"
        return f"it is a {', '.join(offered)}, not a {self._type}: {cure}"

    def _lost(self) -> str:
        """Why raw images may be lost on their way here; empty if they are not."""
        return "" if self._type != messages.IMAGE_TYPE else small_buffer()

    def _tell(self, problem: str, kind: str = "") -> None:
        """Tell the operator of a problem when it begins and when it is over."""
        kind = kind or problem
        if kind and kind not in self._problem:
            self.get_logger().error(problem)
        elif self._problem and not kind:
            self.get_logger().info(f"{self._driver} is fine again")
        self._problem = problem


def main() -> None:
    """A camera node."""
    run_node(CameraNode)


if __name__ == "__main__":
    main()
