"""A lab's robot and cameras: the parameters of its nodes, and the contract (`Spec`) that follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diwa_data.config import config_file, from_mapping, ros_parameters
from diwa_data.errors import DiwaError, unknown
from diwa_data.files import expanded
from diwa_data.limits import MotionLimits
from diwa_data.motion import PlausibleConfig
from diwa_data.pose import Pose, rotation_distance
from diwa_data.spec import ActionSpec, CameraSpec, Spec, require_names, require_network_size

BASE_FRAME = "panda_link0"
"""Frame of poses unless a robot file names another."""

CAMERAS = ("static", "gripper")
"""Cameras of a robot file without a list of them: the paper's, one that looks at the scene and one on the wrist."""

ADAPTED_JOINTS = "/diwa/joint_states"
"""Joint states as the node `adapter` publishes them: the arm's own, and the gripper's width as a finger's joint."""

ROBOTS = ("franka", "sim")
"""Robots with a shipped `config/robot_<name>.yaml`."""


@dataclass(frozen=True)
class CameraConfig:
    """One camera: the topic of its driver, and the part of its images that is recorded."""

    driver: str = ""
    """Topic of the driver's images (sensor_msgs/Image); empty = the robot itself publishes recorded images."""
    compressed: bool = False
    """Whether `driver` is a sensor_msgs/CompressedImage (jpeg)."""
    info: str = ""
    """Topic of the driver's sensor_msgs/CameraInfo; empty records no intrinsics."""
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, left, height and width of the part of the driver's image that is resized; height 0 = the whole image."""
    record_size: tuple[int, int] = (200, 200)
    """Height and width of the recorded rgb8 image, in pixels."""
    size: tuple[int, int] = (64, 64)
    """Height and width in datasets and networks, in pixels: 48, 64, 80, 96, 112 or 128 a side."""
    start: Literal["", "kinect", "realsense"] = ""
    """Driver that the launch files start; it publishes on `driver`. Empty = you start it."""
    serial: str = ""
    """Serial number of the device that `start` opens; empty = the first one found."""

    def spec(self, name: str) -> CameraSpec:
        """The camera's part of the contract."""
        return CameraSpec(name, self.record_size, self.crop if self.crop[2] else None, self.size)


@dataclass(frozen=True)
class JointConfig:
    """Distances of the arm from joint limits and singularities at which something happens; 0 switches one off."""

    warn: float = 0.1
    """Radians from a joint's limit below which the operator is warned."""
    hold: float = 0.03
    """Radians from a joint's limit below which the target brakes and a skill ends."""
    warn_singular: float = 0.06
    """Smallest singular value of the Jacobian (m/rad and rad/rad) below which the operator is warned."""
    hold_singular: float = 0.03
    """Smallest singular value below which the target brakes and a skill ends."""


@dataclass(frozen=True)
class PoseTopic:
    """Source of the measured pose: the messages of a topic, or the frames on /tf and /tf_static."""

    topic: str = ""
    """PoseStamped, TransformStamped, a state message of `franka_msgs` or any other that holds a pose; empty =
    `/diwa/current_pose`."""
    field: str = ""
    """Field of the message that holds the pose, such as `o_t_ee`; empty finds it. Sixteen numbers are a matrix by
    columns."""
    child: str = ""
    """Frame of the hand, the point between the fingertips, if /tf says where it is in `base_frame`; then there is no
    topic."""

    def __post_init__(self) -> None:
        if self.field and not self.topic:
            raise DiwaError(f"pose.field is {self.field!r}, but pose.topic is empty: name the topic of the messages")
        if self.child and self.topic:
            raise DiwaError(f"pose: give a topic or child, a frame of /tf, not both: {self.topic!r} and {self.child!r}")


@dataclass(frozen=True)
class WidthTopic:
    """Source of the gripper's width in metres: `scale` times the number in a message, plus `offset`."""

    topic: str = ""
    """JointState, Float64 or any other message that holds a number; empty = the topic of the joints."""
    joints: tuple[str, ...] = ()
    """Joints of a JointState whose positions are added; empty = those with `finger` in their names."""
    field: str = ""
    """Field of another message that holds the number, such as `position`; empty finds it."""
    scale: float = 1.0
    """Factor: 0.001 of millimetres; -0.10625 of a Robotiq 2F-85, whose knuckle turns by 0.8 rad over 0.085 m."""
    offset: float = 0.0
    """Metres added after that: 0.085 of a Robotiq 2F-85, whose knuckle is at 0 when it is open."""

    def __post_init__(self) -> None:
        if self.joints and self.field:
            raise DiwaError(f"width: give joints or a field, not both: {', '.join(self.joints)} and {self.field!r}")
        if not (math.isfinite(self.scale) and math.isfinite(self.offset) and self.scale):
            raise DiwaError(
                f"width: scale is {self.scale:g} and offset {self.offset:g}; they must be finite, scale not 0"
            )


FRANKA_GRIPPER = "franka_msgs/action/Grasp"
FRANKA_NAMESPACE = "franka_gripper"
"""Where the actions of a Franka's gripper are, below the namespace of the arm."""
COMMAND_TYPES = (
    FRANKA_GRIPPER,
    *("control_msgs/action/GripperCommand", "control_msgs/action/ParallelGripperCommand"),
    *("std_msgs/msg/Float64", "std_msgs/msg/Float64MultiArray", "sensor_msgs/msg/JointState"),
)
"""Ways in which grippers are told to open and close."""


@dataclass(frozen=True)
class CommandTopic:
    """The way in which the gripper is told to open and close."""

    type: str = FRANKA_GRIPPER
    """Action or message: franka_msgs/action/Grasp (with Move beside it), control_msgs/action/GripperCommand or
    ParallelGripperCommand, std_msgs/msg/Float64 or Float64MultiArray, sensor_msgs/msg/JointState."""
    topic: str = ""
    """Name of the action or topic; of a Franka the namespace of its actions, empty = `franka_gripper`. Empty of
    Float64: your own node follows `/diwa/gripper_command` (+1 opens, -1 closes)."""
    open: float = 0.08
    """Position when open, in the gripper's own unit. A Franka's widths are parameters of the node `gripper`."""
    closed: float = 0.0
    """Position when closed: 0.8 of a Robotiq 2F-85, whose `open` is 0."""
    effort: float = 20.0
    """Largest effort of an action of control_msgs, in the gripper's own unit."""
    joints: tuple[str, ...] = ()
    """Joints that a JointState or ParallelGripperCommand names; a Float64MultiArray has a number for each."""

    def __post_init__(self) -> None:
        if self.type not in COMMAND_TYPES:
            raise unknown("command.type", self.type, COMMAND_TYPES)
        if not self.topic and not (self.is_franka or self.is_ours):
            raise DiwaError(f"command.topic is empty: name the topic or action of {self.type}")
        if not self.joints and self.type.endswith(("JointState", "ParallelGripperCommand")):
            raise DiwaError(f"command.joints is empty: name the joints that a {self.type} moves")
        if not all(map(math.isfinite, (self.open, self.closed, self.effort))) or self.open == self.closed:
            raise DiwaError(
                f"command: open is {self.open:g} and closed {self.closed:g}; they must be finite and differ"
            )

    @property
    def is_franka(self) -> bool:
        """The actions `grasp` and `move` of a Franka's gripper."""
        return self.type == FRANKA_GRIPPER

    @property
    def is_action(self) -> bool:
        """An action, whose goals block; else a topic."""
        return "/action/" in self.type

    @property
    def is_ours(self) -> bool:
        """The gripper's own node follows `/diwa/gripper_command`: nothing stands between."""
        return self.type == "std_msgs/msg/Float64" and not self.topic


@dataclass(frozen=True)
class TargetTopic:
    """The topic on which the arm takes its target, a PoseStamped."""

    topic: str = ""
    """Empty = `/diwa/target_pose`."""
    frame: str = ""
    """Frame in which the arm wants its target, if it is not `base_frame`; /tf must say where that is."""

    def __post_init__(self) -> None:
        if self.frame and not self.topic:
            raise DiwaError(f"target.frame is {self.frame!r}, but target.topic is empty: name the arm's own topic")


@dataclass(frozen=True)
class TopicsConfig:
    """Topics of an arm that are not ours; the node `adapter` stands between. What is recorded has our names."""

    pose: PoseTopic = field(default_factory=PoseTopic)
    """Measured pose of the hand."""
    joints: str = ""
    """JointState of the arm's joints; empty = `/joint_states`."""
    width: WidthTopic = field(default_factory=WidthTopic)
    """Measured width of the gripper."""
    command: CommandTopic = field(default_factory=CommandTopic)
    """Command to the gripper."""
    target: TargetTopic = field(default_factory=TargetTopic)
    """Target of the arm."""
    rate: float = 200.0
    """Greatest rate at which poses and joint states are passed on, in Hz."""

    def __post_init__(self) -> None:
        if not 1.0 <= self.rate <= 1000.0:
            raise DiwaError(f"topics.rate is {self.rate:g} Hz; it must lie in [1, 1000]")

    @property
    def adapts_joints(self) -> bool:
        """Joints and width are merged, and published as `/diwa/joint_states`."""
        return bool(self.joints) or self.width != WidthTopic()

    @property
    def adapts(self) -> bool:
        """The node `adapter` is needed."""
        return self.adapts_joints or (self.pose, self.target) != (PoseTopic(), TargetTopic())


@dataclass(frozen=True)
class StartPose:
    """Pose in which the hand should stand before a recording or a skill. Nothing moves it there by itself."""

    position: tuple[float, float, float] = (0.4, 0.0, 0.3)
    """Metres, in the base frame."""
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    """x y z w; 1 0 0 0 points straight down."""
    distance: float = 0.0
    """Metres from it beyond which the operator is told; 0 = there is no such pose."""
    angle: float = 0.3
    """Radians, likewise."""

    def __post_init__(self) -> None:
        if not np.isfinite([*self.position, *self.quaternion, self.distance, self.angle]).all():
            raise DiwaError(f"start_pose: position {self.position} and all the rest of it must be finite")
        if self.distance < 0 or self.angle <= 0:
            raise DiwaError(
                f"start_pose: distance is {self.distance:g} and angle {self.angle:g}; they must be positive"
            )
        Pose.from_quaternion(np.array(self.position), self.quaternion)

    def problem(self, pose: Pose) -> str:
        """Reason why the hand at `pose` is too far from it; empty if it is not, or there is no such pose."""
        start = Pose.from_quaternion(np.array(self.position), self.quaternion)
        metres = float(np.linalg.norm(pose.position - start.position))
        turned = rotation_distance(start.rotation, pose.rotation)
        if not self.distance or (metres <= self.distance and turned <= self.angle):
            return ""
        return f"the hand is {metres:.3f} m and {turned:.2f} rad from robot.start_pose: move it there"


@dataclass(frozen=True)
class RobotConfig:
    """The `robot` section of `config/robot_*.yaml`; every node gets it."""

    name: str = "panda"
    """Name of this robot and table, chosen by the lab."""
    cameras: dict[str, CameraConfig] = field(default_factory=lambda: {name: CameraConfig() for name in CAMERAS})
    """One to four cameras by name; the frames of the first are the clock of datasets.
    A robot file lists the names, and has a section for each beside the list."""
    base_frame: str = BASE_FRAME
    """Frame of all poses: the base of the arm. A pose in another frame is refused."""
    joints: JointConfig = field(default_factory=JointConfig)
    """Distances of the arm from joint limits and singularities at which something happens."""
    topics: TopicsConfig = field(default_factory=TopicsConfig)
    """Topics of the arm and its gripper where they are not ours."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Limits on targets, for every node that has none of its own in the file."""
    start_pose: StartPose = field(default_factory=StartPose)
    """Pose in which the hand should be before a recording or a skill."""
    plausible: PlausibleConfig = field(default_factory=PlausibleConfig)
    """Conditions under which measured poses are believed."""
    action: ActionSpec = field(default_factory=ActionSpec)
    """Scale and conventions of actions."""
    record_rate: float = 30.0
    """Frames per second of every camera: 15 or 30, or another multiple of 7.5."""
    inference_delay: float = 0.0
    """Nominal time from a frame's arrival to the command that answers it, seconds."""
    scene_state: tuple[str, ...] = ()
    """Names of the scene state's numbers; simulated robot only."""

    def __post_init__(self) -> None:
        used = [name for name in ("width", "command") if getattr(self.topics, name) != getattr(TopicsConfig(), name)]
        if used and not self.action.gripper:
            raise DiwaError(f"topics.{used[0]} is given, but action.gripper is false: leave one of the two out")

    @classmethod
    def gathered(cls, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The `values` of a file with the sections of its cameras gathered in `cameras`; `where` names it in errors."""
        keys = {each.name for each in fields(cls)}
        names = values.get("cameras", CAMERAS)
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise DiwaError(
                f"{where}.cameras is {names!r:.100}; list the cameras' names, as in cameras: [front, wrist]"
            )
        require_names(names, f"{where}.cameras")
        cameras = {}
        for name in names:
            if name in keys:
                raise DiwaError(
                    f"{where}.cameras: no camera can be called {name!r}, which is another key of robot: rename it"
                )
            if values.get(name) == {}:  # ROS 2 puts what follows it into it
                raise DiwaError(f"{where}.{name} is empty, which ROS 2 misreads: leave it out to take the defaults")
            camera = from_mapping(CameraConfig, values.get(name, {}), f"{where}.{name}")
            try:
                require_network_size(camera.spec(name))
            except DiwaError as error:
                raise DiwaError(f"{where}.{name}: {error}") from error
            cameras[name] = camera
        for key, value in values.items():
            if isinstance(value, Mapping) and key not in keys and key not in cameras:
                known = f"{', '.join(sorted(keys))}, and one for each of cameras: [{', '.join(names)}]"
                raise DiwaError(f"{where}: unknown section {key!r}; known: {known}")
        return {key: value for key, value in values.items() if key not in cameras} | {"cameras": cameras}

    @staticmethod
    def spread(values: dict[str, Any]) -> dict[str, Any]:
        """The inverse of `gathered`: the plain values as a file has them."""
        return values | {"cameras": [*values["cameras"]], **values["cameras"]}

    @property
    def joint_states(self) -> str:
        """Topic of the joint states on the graph; a bag always has them as `/joint_states`."""
        return ADAPTED_JOINTS if self.topics.adapts_joints else "/joint_states"

    def name_on_graph(self, topic: str) -> str:
        """Name on the graph of one of our topics, relative to a namespace; a bag always has it as `topic`."""
        return (self.joint_states if topic == "/joint_states" else topic).removeprefix("/")

    @property
    def spec(self) -> Spec:
        """The contract of everything recorded with this robot."""
        return Spec(
            robot=self.name,
            cameras=tuple(camera.spec(name) for name, camera in self.cameras.items()),
            action=self.action,
            state=self.action.state,
            record_rate=self.record_rate,
            inference_delay=self.inference_delay,
            scene_state=self.scene_state,
            limits=self.limits,
        )


def robot_file(robot: str) -> Path:
    """The parameter file of a shipped robot (`franka` or `sim`), or `robot` itself if it is a .yaml file.

    Raises `DiwaError` if there is none.
    """
    if robot in ROBOTS:
        return config_file(f"robot_{robot}.yaml")
    path = expanded(robot)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise unknown("robot", robot, ROBOTS, ", or name a .yaml file like theirs")
    return path


def load_robot(path: Path) -> RobotConfig:
    """The `robot` section for all nodes in a ROS parameter file. Raises `DiwaError` on unknown keys, or without it."""
    parameters = ros_parameters(path.read_bytes(), str(path))
    if "robot" not in parameters:
        raise DiwaError(f"{path} has no section robot: write it like those of {' and '.join(ROBOTS)}")
    return from_mapping(RobotConfig, parameters["robot"], f"{path}: robot")
