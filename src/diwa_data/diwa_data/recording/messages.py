"""ROS 2 messages without ROS: topics (docs/ros2.md), and values to and from serialised CDR bytes.

Times are seconds (float) here and (sec, nanosec) in headers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.images import image_of
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
ARM_MODE = "/diwa/arm_mode"
"""The arm's mode as libfranka numbers it: 2 moves. Only arms that have one say it."""
SCENE_STATE = "/diwa/scene_state"
TF = "/tf"
ROBOT_DESCRIPTION = "/robot_description"
"""URDF, latched; of the simulated robot."""
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
    ARM_MODE: "std_msgs/msg/Int8",
    SCENE_STATE: "std_msgs/msg/Float64MultiArray",
}
SHOWN_TYPES = {TF: "tf2_msgs/msg/TFMessage", ROBOT_DESCRIPTION: "std_msgs/msg/String"}
"""Topics for RViz and Foxglove, which are recorded only where `extra_topics` says so."""


def relative(topic: str) -> str:
    """The name of one of our topics on the graph, where a namespace may stand before it; bags hold it without one."""
    return topic.removeprefix("/")


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
    layout = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
    return _encode(IMAGE_TYPE, header=_header(stamp, frame), **layout, data=np.ascontiguousarray(image).reshape(-1))


def encode_camera_info(
    matrix: np.ndarray, size: tuple[int, int], stamp: float, frame: str, distortion: np.ndarray | None = None
) -> memoryview:
    """sensor_msgs/CameraInfo of a camera matrix K (3, 3) in pixels, for images of `size` (height, width)."""
    distortion = np.zeros(5) if distortion is None else np.asarray(distortion, np.float64)
    arrays = {"d": distortion, "k": matrix.reshape(-1).astype(float), "r": np.eye(3).reshape(-1)}
    arrays["p"] = np.hstack([matrix, np.zeros((3, 1))]).reshape(-1)
    layout = {"height": size[0], "width": size[1], "distortion_model": "plumb_bob", "binning_x": 0, "binning_y": 0}
    region = typestore().types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
    return _encode(CAMERA_INFO_TYPE, header=_header(stamp, frame), **layout, **arrays, roi=region)


def encode_pose(pose: Pose, stamp: float, frame: str = BASE_FRAME) -> memoryview:
    """geometry_msgs/PoseStamped in the robot's base frame."""
    types, position, quaternion = typestore().types, pose.position.tolist(), pose.quaternion.tolist()
    point, orientation = types["geometry_msgs/msg/Point"](*position), types["geometry_msgs/msg/Quaternion"](*quaternion)
    value = types["geometry_msgs/msg/Pose"](point, orientation)
    return _encode("geometry_msgs/msg/PoseStamped", header=_header(stamp, frame), pose=value)


def encode_joints(names: list[str], positions: np.ndarray, velocities: np.ndarray, stamp: float) -> memoryview:
    """sensor_msgs/JointState; rad or m, and per second."""
    arrays = {"position": np.asarray(positions, np.float64), "velocity": np.asarray(velocities, np.float64)}
    return _encode(TYPES[JOINT_STATES], header=_header(stamp, ""), name=list(names), **arrays, effort=np.zeros(0))


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


def encode_transforms(transforms: Iterable[tuple[str, str, Pose]], stamp: float) -> memoryview:
    """tf2_msgs/TFMessage of frames: parent, child and the child's pose in the parent."""
    types, encoded = typestore().types, []
    for parent, child, pose in transforms:
        point = types["geometry_msgs/msg/Vector3"](*pose.position.tolist())
        turn = types["geometry_msgs/msg/Quaternion"](*pose.quaternion.tolist())
        transform = types["geometry_msgs/msg/Transform"](point, turn)
        encoded.append(types["geometry_msgs/msg/TransformStamped"](_header(stamp, parent), child, transform))
    return _encode(SHOWN_TYPES[TF], transforms=encoded)


def _header(stamp: float, frame: str) -> Any:
    types = typestore().types
    whole, fraction = divmod(nanoseconds(stamp), 1_000_000_000)
    time = types["builtin_interfaces/msg/Time"](sec=whole, nanosec=fraction)
    return types["std_msgs/msg/Header"](stamp=time, frame_id=frame)


def _encode(message_type: str, **fields: Any) -> memoryview:
    store = typestore()
    return store.serialize_cdr(store.types[message_type](**fields), message_type)


def decode(data: bytes | memoryview, message_type: str) -> Any:
    """The message object of CDR bytes; arrays are views of `data`."""
    return typestore().deserialize_cdr(data, message_type)


def decode_value(topic: str, data: bytes, where: str) -> Any:
    """The value of a serialised message. Raises `DiwaError` naming `where` on a NaN pose or a damaged message."""
    message_type = TYPES.get(topic, IMAGE_TYPE)
    with damage_as_error(
        f"{where}: message of {len(data)} bytes is not a {message_type}", "find it with 'diwa inspect'"
    ):
        message = decode(data, message_type)
        if message_type == IMAGE_TYPE:
            return image_of(message)
        if message_type == "geometry_msgs/msg/PoseStamped":
            p, q = message.pose.position, message.pose.orientation
            return finite_pose(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]), where)
        if topic in (JOINT_STATES, CONTROLLER_JOY):
            return message
        return message.data


def gripper_width(joints: Any, where: str) -> float:
    """Metres between the fingers: the sum of the finger joints of a JointState."""
    if len(joints.name) != len(joints.position):
        raise DiwaError(f"{where}: {len(joints.name)} names of joints, but {len(joints.position)} positions")
    fingers = [position for name, position in zip(joints.name, joints.position, strict=True) if "finger" in name]
    width = float(np.sum(fingers))
    if not fingers or not np.isfinite(width):
        raise DiwaError(f"{where}: no finger joint with a finite position among {', '.join(joints.name)}")
    return width


def finite_pose(position: np.ndarray, quaternion: np.ndarray, where: str) -> Pose:
    """The pose of a position (3,) and a quaternion (4,), x y z w. Raises `DiwaError` naming `where` on a NaN."""
    if not np.isfinite([*position, *quaternion]).all() or not np.linalg.norm(quaternion) > 1e-6:
        raise DiwaError(
            f"{where}: pose {position.tolist()} {quaternion.tolist()} is not finite: fix its publisher, or delete the "
            "episode"
        )
    return Pose.from_quaternion(position, quaternion)


def header_stamp(data: bytes | memoryview) -> float:
    """Header stamp of a serialised message: CDR encapsulation (4 bytes), then sec, nanosec."""
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return seconds + nanoseconds * 1e-9


def restamped(data: bytes | memoryview, stamp: float) -> memoryview:
    """A copy of a serialised message with another header stamp, seconds."""
    copy = bytearray(data)
    struct.pack_into("<iI" if copy[1] & 1 else ">iI", copy, 4, *divmod(nanoseconds(stamp), 1_000_000_000))
    return memoryview(copy)


def require_frame(data: bytes | memoryview, frame: str, topic: str) -> None:
    """Raise `DiwaError` naming `topic` unless the header of a serialised pose says `frame`, the robot's base."""
    (length,) = struct.unpack_from("<I" if data[1] & 1 else ">I", data, 12) if len(data) >= 16 else (0,)
    found = bytes(data[16 : 16 + length]).rstrip(b"\0").decode(errors="replace")
    if found != frame:
        raise DiwaError(
            f"{topic} is in the frame {found!r}, not in the robot's base {frame!r}: fix its publisher, or set "
            "robot.base_frame in the robot file"
        )
