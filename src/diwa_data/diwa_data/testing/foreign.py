"""Bags as another lab would record them, made from ours: other topics, packed images, transforms, no sidecar."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import METADATA, Bag
from diwa_data.recording.bag_writer import Storage
from diwa_data.recording.messages import decode

GRIPPER = "control_msgs/msg/GripperCommand"
STATE = "franka_msgs/msg/FrankaRobotState"
_OWN_TYPES = {
    GRIPPER: "float64 position\nfloat64 max_effort\n",
    STATE: "std_msgs/Header header\nfloat64[16] o_t_ee\ngeometry_msgs/PoseStamped o_t_ee_c\n",
}
MAPPING = """\
format: 1
kind: bags
robot: panda_sim
cameras:
  - {name: static, topic: /front/color/image_raw/compressed, record_size: [40, 48], size: [48, 48]}
  - {name: gripper, topic: /wrist/color/image_raw/compressed, record_size: [40, 48], size: [48, 48]}
pose:
  parent: base
  child: tcp
target:
  topic: /teleop/target
gripper_width:
  topic: /gripper/joint_states
  joints: [panda_finger_joint1, panda_finger_joint2]
gripper_command:
  topic: /gripper/command
  threshold: 0.04
skill: open_drawer
"""
"""A mapping of such a bag, of cameras that record 40x48 pixels."""
Written = tuple[str, str, Any]  # topic, type, message


class Lab:
    """Writes what another lab's recorder would have: the type store, and the messages of each of ours."""

    def __init__(self, frames: tuple[str, ...] = ("base", "tcp")):
        """`frames` are those from the base to the hand; the first moves in the base, the others are mounted there."""
        self.frames = frames
        self.store = get_typestore(Stores.ROS2_JAZZY)
        for name, text in _OWN_TYPES.items():
            self.store.register(
                {key: f for key, f in get_types_from_msg(text, name).items() if key not in self.store.fielddefs}
            )

    def message(self, kind: str, **fields: Any) -> Any:
        """A message of this type."""
        return self.store.types[kind](**fields)

    def image(self, topic: str, message: Any) -> Written:
        """A png of an image."""
        pixels = message.data.reshape(message.height, message.width, 3)
        _, png = cv2.imencode(".png", pixels[..., ::-1])
        kind = "sensor_msgs/msg/CompressedImage"
        fields = {"header": message.header, "format": "rgb8; png compressed bgr8", "data": png.reshape(-1)}
        return topic, kind, self.message(kind, **fields)

    def transform(self, parent: str, child: str, stamp: Any, pose: Any) -> Any:
        """A geometry_msgs/TransformStamped."""
        p, q = pose.position, pose.orientation
        header = self.message("std_msgs/msg/Header", stamp=stamp, frame_id=parent)
        translation = self.message("geometry_msgs/msg/Vector3", x=p.x, y=p.y, z=p.z)
        values = self.message("geometry_msgs/msg/Transform", translation=translation, rotation=q)
        kind = "geometry_msgs/msg/TransformStamped"
        return self.message(kind, header=header, child_frame_id=child, transform=values)

    def of(self, topic: str, message: Any) -> Iterator[Written]:
        """The message that is recorded in place of one of our messages."""
        if topic.endswith("/image"):
            camera = {"static": "front", "gripper": "wrist"}.get(name := topic.split("/")[-2], name)
            yield self.image(f"/{camera}/color/image_raw/compressed", message)
        elif topic == messages.CURRENT_POSE:
            base, hand, *_ = self.frames
            kind = "tf2_msgs/msg/TFMessage"
            moving = self.transform(base, hand, message.header.stamp, message.pose)
            yield "/tf", kind, self.message(kind, transforms=[moving])
        elif topic == messages.TARGET_POSE:
            message.header.frame_id = self.frames[0]
            yield "/teleop/target", "geometry_msgs/msg/PoseStamped", message
        elif topic == messages.JOINT_STATES:
            yield "/gripper/joint_states", "sensor_msgs/msg/JointState", message
        elif topic == messages.GRIPPER_COMMAND:
            yield (
                "/gripper/command",
                GRIPPER,
                self.message(GRIPPER, position=0.04 * (message.data + 1), max_effort=10.0),
            )
        elif topic == messages.EPISODE_EVENT:
            yield "/episode", "std_msgs/msg/String", message

    def mounted(self, frames: tuple[str, ...], offset: Pose) -> Written:
        """The static transforms between the further frames, each `offset` from the one before."""
        stamp = self.message("builtin_interfaces/msg/Time", sec=0, nanosec=0)
        p, q = offset.position.tolist(), offset.quaternion.tolist()
        point = self.message("geometry_msgs/msg/Point", x=p[0], y=p[1], z=p[2])
        rotation = self.message("geometry_msgs/msg/Quaternion", x=q[0], y=q[1], z=q[2], w=q[3])
        pose = self.message("geometry_msgs/msg/Pose", position=point, orientation=rotation)
        links = [self.transform(one, two, stamp, pose) for one, two in pairwise(frames)]
        kind = "tf2_msgs/msg/TFMessage"
        return "/tf_static", kind, self.message(kind, transforms=links)


def write_foreign(
    own: Path,
    out: Path,
    storage: Storage = "mcap",
    version: Literal[8, 9] = 9,
    lab: Lab | None = None,
    first: tuple[Written, ...] = (),
    change: Callable[[str, Any], Iterator[Written]] | None = None,
) -> Path:
    """Write a bag as `lab` would have recorded the motion of our bag `own`; `out`.

    `first` are messages at its start; `change` replaces `lab.of`.
    """
    lab = lab or Lab()
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    out.parent.mkdir(parents=True, exist_ok=True)
    with Bag(own) as bag, Writer(out, version=version, storage_plugin=plugin) as writer:
        connections: dict[str, Any] = {}

        def write(topic: str, kind: str, message: Any, nanoseconds: int) -> None:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=lab.store)
            writer.write(connections[topic], nanoseconds, lab.store.serialize_cdr(message, kind))

        for each in first:
            write(*each, nanoseconds=0)
        types = messages.TYPES | {messages.image_topic(c.name): messages.IMAGE_TYPE for c in bag.spec.cameras}
        for topic, sample in bag.messages(list(bag.topics)):
            for each in (change or lab.of)(topic, decode(sample.value, types[topic])):
                write(*each, nanoseconds=messages.nanoseconds(sample.received))
    return out


def as_of_humble(bag: Path) -> Path:
    """Make a bag of sqlite3 what ROS 2 Humble writes: metadata of version 5, no definitions of types; `bag`."""
    path = bag / METADATA
    content = yaml.safe_load(path.read_text())
    information = content["rosbag2_bagfile_information"]
    information["version"] = 5
    for key in ("custom_data", "ros_distro"):
        information.pop(key, None)
    for topic in information["topics_with_message_count"]:
        topic["topic_metadata"].pop("type_description_hash", None)
        topic["topic_metadata"]["offered_qos_profiles"] = ""
    path.write_text(yaml.safe_dump(content))
    with closing(sqlite3.connect(next(bag.glob("*.db3")))) as database:
        database.execute("UPDATE schema SET schema_version = 3, ros_distro = 'humble'")
        database.execute("DROP TABLE message_definitions")
        database.execute("ALTER TABLE topics DROP COLUMN type_description_hash")
        database.commit()
    return bag


def franka_state(lab: Lab, message: Any) -> Any:
    """A franka_msgs/FrankaRobotState with the pose of a PoseStamped as a matrix by columns."""
    p, q = message.pose.position, message.pose.orientation
    pose = Pose.from_quaternion(np.array([p.x, p.y, p.z]), np.array([q.x, q.y, q.z, q.w]))
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = pose.rotation.as_matrix(), pose.position
    return lab.message(STATE, header=message.header, o_t_ee=matrix.T.reshape(-1).copy(), o_t_ee_c=message)
