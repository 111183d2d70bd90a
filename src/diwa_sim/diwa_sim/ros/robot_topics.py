"""What the simulated robot publishes: the real robot's topics, and the state of its scene."""

from __future__ import annotations

import time

from rclpy.node import Node

from diwa_data import messages
from diwa_data.ros.topics import LATCHED, publisher
from diwa_sim.table import SimulatedPanda


class RobotTopics:
    """Publishers of one robot."""

    def __init__(self, node: Node, robot: SimulatedPanda, base_frame: str):
        self._robot, self._base_frame = robot, base_frame
        self._images = {
            camera.name: publisher(node, messages.image_topic(camera.name))
            for camera in reversed(robot.spec.cameras)  # the clock comes last: the others are known by then
        }
        self._pose = publisher(node, messages.CURRENT_POSE)
        self._joints = publisher(node, messages.JOINT_STATES)
        self._scene = publisher(node, messages.SCENE_STATE)
        for camera in robot.spec.cameras:
            matrix, size = robot.intrinsics(camera.name, camera.record_size), camera.record_size
            info = messages.encode_camera_info(matrix, size, time.time(), f"{camera.name}_camera")
            publisher(node, messages.camera_info_topic(camera.name), LATCHED)(info)

    def publish(self, now: float) -> None:
        """Everything as it is, stamped `now` seconds."""
        observation, joints = self._robot.observe(), self._robot.joint_state()
        self._pose(messages.encode_pose(observation.pose, now, self._base_frame))
        self._joints(messages.encode_joints(list(joints.names), joints.positions, joints.velocities, now))
        self._scene(messages.encode_vector(self._robot.scene_state()))
        for name, publish in self._images.items():
            publish(messages.encode_image(observation.images[name], now, f"{name}_camera"))
