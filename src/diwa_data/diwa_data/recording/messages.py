"""ROS 2 messages without ROS: topics (ROBOT, "Topics"), and values to and from serialised CDR bytes.

Times are seconds (float) here and (sec, nanosec) in headers.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from diwa_data.pose import Pose
from diwa_data.robot_config import BASE_FRAME

CURRENT_POSE = "/diwa/current_pose"
TARGET_POSE = "/diwa/target_pose"
JOINT_STATES = "/joint_states"
GRIPPER_COMMAND = "/diwa/gripper_command"
CONTROLLER_POSE = "/diwa/controller/pose"
CONTROLLER_JOY = "/diwa/controller/joy"
EPISODE_EVENT = "/diwa/episode_event"
EPISODE_LABELS = "/diwa/episode_labels"
"""JSON of labels that the next episode gets, latched; the simulated robot tells its seed there."""
RECORDING = "/diwa/recording"
"""Name of the running episode, empty between two, latched."""
SCENE_STATE = "/diwa/scene_state"
DIAGNOSTICS = "/diagnostics"

IMAGE_TYPE = "sensor_msgs/msg/Image"
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
TYPES = {
    CURRENT_POSE: "geometry_msgs/msg/PoseStamped",
    TARGET_POSE: "geometry_msgs/msg/PoseStamped",
    JOINT_STATES: "sensor_msgs/msg/JointState",
    GRIPPER_COMMAND: "std_msgs/msg/Float64",
    CONTROLLER_POSE: "geometry_msgs/msg/PoseStamped",
    CONTROLLER_JOY: "sensor_msgs/msg/Joy",
    EPISODE_EVENT: "std_msgs/msg/String",
    EPISODE_LABELS: "std_msgs/msg/String",
    RECORDING: "std_msgs/msg/String",
    SCENE_STATE: "std_msgs/msg/Float64MultiArray",
}


def image_topic(camera: str) -> str:
    """Topic of a camera's recorded images."""
    return f"/diwa/{camera}/image"


def camera_info_topic(camera: str) -> str:
    """Topic of the intrinsics that belong to a camera's recorded images."""
    return f"/diwa/{camera}/camera_info"


@cache
def typestore() -> Any:
    """The message definitions of ROS 2 Jazzy (the ones used here are the same in Humble)."""
    return get_typestore(Stores.ROS2_JAZZY)


def nanoseconds(seconds: float) -> int:
    """Whole nanoseconds of a time in seconds."""
    return round(seconds * 1e9)


def encode_image(image: np.ndarray, stamp: float, frame: str) -> memoryview:
    """sensor_msgs/Image, rgb8, of an image (H, W, 3) uint8."""
    height, width, _ = image.shape
    return _encode(
        IMAGE_TYPE,
        header=_header(stamp, frame),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=np.ascontiguousarray(image).reshape(-1),
    )


def encode_camera_info(
    matrix: np.ndarray, size: tuple[int, int], stamp: float, frame: str, distortion: np.ndarray | None = None
) -> memoryview:
    """sensor_msgs/CameraInfo of a camera matrix K (3, 3) in pixels, for images of `size` (height, width)."""
    region = typestore().types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return _encode(
        CAMERA_INFO_TYPE,
        header=_header(stamp, frame),
        height=size[0],
        width=size[1],
        distortion_model="plumb_bob",
        d=np.zeros(5) if distortion is None else np.asarray(distortion, np.float64),
        k=np.asarray(matrix, np.float64).reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.hstack([matrix, np.zeros((3, 1))]).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def encode_pose(pose: Pose, stamp: float, frame: str = BASE_FRAME) -> memoryview:
    """geometry_msgs/PoseStamped in the robot's base frame."""
    types = typestore().types
    x, y, z = pose.position.tolist()
    qx, qy, qz, qw = pose.quaternion.tolist()
    point = types["geometry_msgs/msg/Point"](x=x, y=y, z=z)
    orientation = types["geometry_msgs/msg/Quaternion"](x=qx, y=qy, z=qz, w=qw)
    value = types["geometry_msgs/msg/Pose"](position=point, orientation=orientation)
    return _encode("geometry_msgs/msg/PoseStamped", header=_header(stamp, frame), pose=value)


def encode_joints(names: list[str], positions: np.ndarray, velocities: np.ndarray, stamp: float) -> memoryview:
    """sensor_msgs/JointState; rad or m, and per second."""
    return _encode(
        "sensor_msgs/msg/JointState",
        header=_header(stamp, ""),
        name=list(names),
        position=np.asarray(positions, np.float64),
        velocity=np.asarray(velocities, np.float64),
        effort=np.zeros(0),
    )


def encode_joy(axes: np.ndarray, buttons: np.ndarray, stamp: float) -> memoryview:
    """sensor_msgs/Joy."""
    axes, buttons = np.asarray(axes, np.float32), np.asarray(buttons, np.int32)
    return _encode("sensor_msgs/msg/Joy", header=_header(stamp, ""), axes=axes, buttons=buttons)


def encode_float(value: float) -> memoryview:
    """std_msgs/Float64."""
    return _encode("std_msgs/msg/Float64", data=float(value))


def encode_string(value: str) -> memoryview:
    """std_msgs/String."""
    return _encode("std_msgs/msg/String", data=value)


def encode_vector(vector: np.ndarray) -> memoryview:
    """std_msgs/Float64MultiArray without layout."""
    layout = typestore().types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return _encode("std_msgs/msg/Float64MultiArray", layout=layout, data=np.asarray(vector, np.float64))


def decode(data: bytes | memoryview, message_type: str) -> Any:
    """The message object of CDR bytes; arrays are views of `data`."""
    return typestore().deserialize_cdr(data, message_type)


def _header(stamp: float, frame: str) -> Any:
    types = typestore().types
    whole, fraction = divmod(nanoseconds(stamp), 1_000_000_000)
    time = types["builtin_interfaces/msg/Time"](sec=whole, nanosec=fraction)
    return types["std_msgs/msg/Header"](stamp=time, frame_id=frame)


def _encode(message_type: str, **fields: Any) -> memoryview:
    store = typestore()
    return store.serialize_cdr(store.types[message_type](**fields), message_type)
