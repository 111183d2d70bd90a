"""Values in messages of others: poses and numbers, of types that only the bag defines too."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import MessageDefinitionFormat, Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.pose import Pose
from diwa_data.recording.messages import finite_pose, typestore

IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
JOINTS = "sensor_msgs/msg/JointState"
TRANSFORMS = "tf2_msgs/msg/TFMessage"
STRING = "std_msgs/msg/String"
BOOL = "std_msgs/msg/Bool"
GRIPPER_COMMAND = "control_msgs/msg/GripperCommand"
_DEFINITIONS = {GRIPPER_COMMAND: "float64 position\nfloat64 max_effort\n"}
"""Types outside of ROS 2's own that bags of Humble (sqlite3), which define none, are likely to have."""
_TYPE = re.compile(r"[A-Za-z]\w{0,99}/msg/[A-Za-z]\w{0,99}", re.ASCII)
_LARGEST_DEFINITION = 1 << 20  # characters
_NUMBERS = ("data", "position", "width")
"""Fields that hold the number of a message, the first that is there."""
_HEADER = ("header", (Nodetype.NAME, "std_msgs/msg/Header"))


class MessageType(NamedTuple):
    """A type of messages with the store that knows it."""

    name: str
    store: Any

    @property
    def has_header(self) -> bool:
        """Its messages begin with a header."""
        fields = self.store.fielddefs[self.name][1]
        return bool(fields) and (fields[0][0], fields[0][1]) == _HEADER

    def decode(self, data: bytes, where: str) -> Any:
        """The message object of CDR bytes; arrays are views of `data`."""
        with damage_as_error(f"{where}: message of {len(data)} bytes is not a {self.name}", "look with 'diwa inspect'"):
            return self.store.deserialize_cdr(data, self.name)


def message_type(name: str, definition: Any, where: str) -> MessageType:
    """The type of a connection of rosbags. Raises `DiwaError` if neither we nor the bag know its definition."""
    if name in typestore().fielddefs:
        return MessageType(name, typestore())
    text = definition.data if definition.format == MessageDefinitionFormat.MSG else _DEFINITIONS.get(name, "")
    if not text or not _TYPE.fullmatch(name) or len(text) > _LARGEST_DEFINITION:
        raise DiwaError(
            f"{where} is a {name[:100]}, whose definition is not in the bag: convert the bag to mcap where that "
            "package is installed ('ros2 bag convert')"
        )
    with damage_as_error(f"{where}: the bag's definition of {name} cannot be read", "record it again"):
        return MessageType(name, _store_with(name, text))


@lru_cache(maxsize=32)
def _store_with(name: str, text: str) -> Any:
    """A store that knows a type by its definition too. What it knows already it keeps."""
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(
        {key: fields for key, fields in get_types_from_msg(text, name).items() if key not in store.fielddefs}
    )
    return store


class FramedPose(NamedTuple):
    """A pose, and the frame that its message says it is in; empty where it says none."""

    pose: Pose
    frame: str


def pose_in(message: Any, field: str, where: str) -> FramedPose:
    """The pose in a message, or in its `field`. Raises `DiwaError` if there is none, or it is not finite."""
    frame = _frame(message, "")
    for name in filter(None, field.split(".")):
        message = _part(message, name, where)
        frame = _frame(message, frame)
    while True:
        if isinstance(message, np.ndarray) and message.shape == (16,) and message.dtype.kind == "f":
            return FramedPose(_of_matrix(message.reshape(4, 4).T, where), frame)
        if hasattr(message, "position") and hasattr(message, "orientation"):
            return FramedPose(_of_parts(message.position, message.orientation, where), frame)
        if hasattr(message, "translation") and hasattr(message, "rotation"):
            return FramedPose(_of_parts(message.translation, message.rotation, where), frame)
        inner = next((getattr(message, name) for name in ("pose", "transform") if hasattr(message, name)), None)
        if inner is None:
            raise DiwaError(f"{where} holds no pose{_choices(message)}")
        message, frame = inner, _frame(inner, frame)


def number_in(message: Any, field: str, where: str) -> float:
    """The number in a message, or in its `field`. Raises `DiwaError` if there is none."""
    value = message
    for name in filter(None, field.split(".")):
        value = _part(value, name, where)
    for _ in range(3):  # a GripperCommand in a message of its own
        if isinstance(value, bool | int | float | np.number | np.bool_):
            return float(value)
        name = next((name for name in (*_NUMBERS, "command") if hasattr(value, name)), "")
        if not name:
            break
        value = getattr(value, name)
    raise DiwaError(f"{where} holds no number{_choices(value)}")


def word_in(message: Any, field: str, where: str) -> str:
    """The word of an event: text as it is, true or false of a Bool, digits of a whole number."""
    value = message
    for name in filter(None, (field or "data").split(".")):
        value = _part(value, name, where)
    if isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, int | np.integer):
        return str(int(value))
    raise DiwaError(f"{where} holds no word{_choices(value)}")


def joints_in(message: Any, joints: tuple[str, ...], where: str) -> float | None:
    """The sum of these joints' positions; None in a message about others."""
    if len(message.name) != len(message.position):
        raise DiwaError(f"{where}: {len(message.name)} names of joints, but {len(message.position)} positions")
    positions = dict(zip(message.name, message.position.tolist(), strict=True))
    return sum(positions[joint] for joint in joints) if positions.keys() >= {*joints} else None


def _of_parts(position: Any, rotation: Any, where: str) -> Pose:
    numbers = [position.x, position.y, position.z, rotation.x, rotation.y, rotation.z, rotation.w]
    return finite_pose(np.array(numbers[:3]), np.array(numbers[3:]), where)


def _of_matrix(matrix: np.ndarray, where: str) -> Pose:
    rotation = matrix[:3, :3]
    if not np.isfinite(matrix).all() or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
        raise DiwaError(f"{where}: {matrix.tolist()} is not a matrix of a pose")
    return finite_pose(matrix[:3, 3].copy(), Rotation.from_matrix(rotation).as_quat(), where)


def _part(value: Any, name: str, where: str) -> Any:
    """A field of a message by its name, an element of a list by its number."""
    if name.isdigit() and isinstance(value, list | np.ndarray) and int(name) < len(value):
        return value[int(name)]
    if not name.isdigit() and name in _fields(value):
        return getattr(value, name)
    raise DiwaError(f"{where} has no {name!r} in its {type(value).__name__.split('__')[-1]}{_choices(value)}")


def _frame(message: Any, otherwise: str) -> str:
    return getattr(getattr(message, "header", None), "frame_id", "").lstrip("/") or otherwise


def _choices(value: Any) -> str:
    if isinstance(value, list | np.ndarray):
        return f"; it has {len(value)} elements, 0 to {len(value) - 1}" if len(value) else "; it is empty"
    return f"; its fields are {', '.join(_fields(value))}" if _fields(value) else ""


def _fields(value: Any) -> list[str]:
    if hasattr(value, "get_fields_and_field_types"):  # a message of rclpy
        return list(value.get_fields_and_field_types())
    return list(getattr(value, "__dataclass_fields__", ()))
