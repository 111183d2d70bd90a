"""A lab's robot and cameras: the parameters of its nodes, and the contract (`Spec`) that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from diwa_data.config import config_file, from_mapping, ros_parameters
from diwa_data.errors import DiwaError, unknown
from diwa_data.files import expanded
from diwa_data.spec import ActionSpec, CameraSpec, Spec, require_names, require_network_size

BASE_FRAME = "panda_link0"
"""Frame of poses unless a robot file names another."""

CAMERAS = ("static", "gripper")
"""Cameras of a robot file without a list of them: the paper's, one that looks at the scene and one on the wrist."""

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
    size: tuple[int, int] = (64, 64)
    """Height and width in datasets and networks, pixels: 48, 64, 80, 96, 112 or 128 a side."""
    start: Literal["", "kinect", "realsense"] = ""
    """Driver that the launch files start on the topic `driver`; empty: the lab starts its own."""
    serial: str = ""
    """Serial number of the device that `start` opens; empty = the first one found."""

    def spec(self, name: str) -> CameraSpec:
        """The camera's part of the contract."""
        return CameraSpec(name, self.record_size, self.crop if self.crop[2] else None, self.size)


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
    cameras: dict[str, CameraConfig] = field(default_factory=lambda: {name: CameraConfig() for name in CAMERAS})
    """One to four cameras by name; the frames of the first are the clock of datasets. A file lists the names, and has a
    section for each beside the list, under its name."""
    base_frame: str = BASE_FRAME
    """Frame of all poses: the base of the arm. A pose in another frame is refused."""
    joints: JointConfig = field(default_factory=JointConfig)
    """Margins of the arm's joints."""
    plausible: PlausibleConfig = field(default_factory=PlausibleConfig)
    """Which measured poses are believed."""
    action: ActionSpec = field(default_factory=ActionSpec)
    """Scale and conventions of actions."""
    record_rate: float = 30.0
    """Frames per second of every camera, Hz: 15 or 30, or another multiple of 7.5."""
    inference_delay: float = 0.0
    """Nominal time from a frame's arrival to the command that answers it, seconds."""
    scene_state: tuple[str, ...] = ()
    """Names of the scene state's numbers; simulated robot only."""

    @classmethod
    def gathered(cls, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The `values` of a file with the sections of its cameras gathered in `cameras`; `where` names it in errors."""
        keys, listed = {each.name for each in fields(cls)}, "cameras" in values
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
            camera = from_mapping(CameraConfig, values.get(name, {}), f"{where}.{name}")
            try:
                require_network_size(camera.spec(name))
            except DiwaError as error:
                raise DiwaError(f"{where}.{name}: {error}") from error
            cameras[name] = camera
        for key, value in values.items():
            if isinstance(value, Mapping) and key not in keys and key not in cameras:
                cure = f"is not in cameras: [{', '.join(names)}]" if listed else "needs a list cameras: that names it"
                raise DiwaError(f"{where}: section {key!r} {cure}; other keys: {', '.join(sorted(keys))}")
        return {key: value for key, value in values.items() if key not in cameras} | {"cameras": cameras}

    @staticmethod
    def spread(values: dict[str, Any]) -> dict[str, Any]:
        """The inverse of `gathered`: the plain values as a file has them."""
        return values | {"cameras": [*values["cameras"]], **values["cameras"]}

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
