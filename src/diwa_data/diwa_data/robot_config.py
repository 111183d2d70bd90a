"""A lab's robot and cameras: the parameters of its nodes, and the contract (`Spec`) that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from diwa_data.config import config_file, from_mapping, ros_parameters
from diwa_data.errors import DiwaError, unknown
from diwa_data.files import expanded
from diwa_data.spec import ActionSpec, CameraSpec, Spec

BASE_FRAME = "panda_link0"
"""Frame of poses unless a robot file names another."""

ROBOTS = ("franka", "sim")
"""Robots with a shipped `config/robot_<name>.yaml`."""


@dataclass(frozen=True)
class CameraConfig:
    """One camera: where its driver publishes and what of its images is recorded."""

    driver: str = ""
    """Topic of the driver's images (sensor_msgs/Image); empty if recorded images are published by the robot itself."""
    compressed: bool = False
    """`driver` is a sensor_msgs/CompressedImage (jpeg)."""
    info: str = ""
    """Topic of the driver's sensor_msgs/CameraInfo; empty records no intrinsics."""
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, left, height, width cut from the driver's image before it is resized; height 0 = all of it."""
    record_size: tuple[int, int] = (200, 200)
    """Height and width of the recorded rgb8 image, pixels."""

    def spec(self, name: str) -> CameraSpec:
        """The camera's part of the contract."""
        return CameraSpec(name, self.record_size, self.crop if self.crop[2] else None)


@dataclass(frozen=True)
class JointConfig:
    """Margins of the arm's joints before limits and singularities; 0 switches one off."""

    warn: float = 0.1
    """Radians from a joint's limit below which the operator is warned."""
    hold: float = 0.03
    """Radians from a joint's limit below which the target stands still and a skill ends."""
    warn_singular: float = 0.06
    """Smallest singular value of the Jacobian (m/rad and rad/rad) below which the operator is warned."""
    hold_singular: float = 0.03
    """Smallest singular value below which the target stands still and a skill ends."""


@dataclass(frozen=True)
class PlausibleConfig:
    """Thresholds that a measured pose must keep to be believed. The speeds are the Panda's own limits."""

    samples: int = 3
    """Poses in a row that must agree before the first of them, or any after a wrong one, is believed."""
    max_speed: float = 1.7
    """Greatest speed between two samples, metres per second."""
    max_rotation_speed: float = 2.5
    """Greatest speed of rotation between two samples, radians per second."""
    jitter_pos: float = 0.02
    """Metres by which two samples may differ beyond that, whatever their times."""
    jitter_rot: float = 0.1
    """Radians by which two samples may differ beyond that, whatever their times."""
    margin: float = 0.2
    """Metres outside of the workspace up to which the hand may be measured."""
    max_gap: float = 1.0
    """Seconds between two samples beyond which they are not compared: the watchdog ends a skill then."""


@dataclass(frozen=True)
class RobotConfig:
    """The `robot` section of `config/robot_*.yaml`; every node gets it."""

    name: str = "panda"
    """Which robot and table: the lab's own name."""
    static: CameraConfig = field(default_factory=CameraConfig)
    """The camera that looks at the scene; its frames are the clock of datasets."""
    gripper: CameraConfig = field(default_factory=CameraConfig)
    """The camera on the wrist."""
    base_frame: str = BASE_FRAME
    """Frame of all poses: the base of the arm. A pose in another frame is refused."""
    joints: JointConfig = field(default_factory=JointConfig)
    """Margins of the arm's joints."""
    plausible: PlausibleConfig = field(default_factory=PlausibleConfig)
    """Which measured poses are believed."""
    action: ActionSpec = field(default_factory=ActionSpec)
    """Scale and conventions of actions."""
    inference_delay: float = 0.0
    """Nominal time from a frame's arrival to the command that answers it, seconds."""
    scene_state: tuple[str, ...] = ()
    """Names of the scene state's numbers; simulated robot only."""

    @property
    def spec(self) -> Spec:
        """The contract of everything recorded with this robot."""
        cameras = (self.static.spec("static"), self.gripper.spec("gripper"))
        return Spec(
            robot=self.name,
            cameras=cameras,
            action=self.action,
            state=self.action.state,
            inference_delay=self.inference_delay,
            scene_state=self.scene_state,
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
