"""Shared by the launch files: robots, arguments that are checked, nodes that come back when they are killed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, Shutdown, TimerAction
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch.utilities import perform_substitutions
from launch_ros.actions import Node

from diwa_data.config import config_file, node_sections
from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.robot_config import CameraConfig, load_robot, robot_file
from diwa_data.ros.node import full_namespace
from diwa_data.skills import skill_name

PLAY = "play"
"""The value of `skill` that records play."""
REFUSED = 2
"""Exit status of a node that told why it cannot run."""


@dataclass(frozen=True)
class Driver:
    """The driver of one make of cameras."""

    package: str
    executable: str
    topic: str
    """Name of its images' topic, below the node's own name or namespace."""
    serial: str
    """Its parameter that holds the serial number of the device to open."""
    named: bool
    """The topic stands below the node's name, else below its namespace."""
    settings: dict[str, Any]
    """Its other parameters."""


DRIVERS = {
    "realsense": Driver(
        "realsense2_camera",
        "realsense2_camera_node",
        "/color/image_raw",
        "serial_no",
        True,
        {"rgb_camera.color_profile": "640x480x30", "rgb_camera.profile": "640x480x30"}  # the latter in older drivers
        | dict.fromkeys(("enable_depth", "enable_infra1", "enable_infra2", "pointcloud.enable"), False),
    ),
    "kinect": Driver(
        "azure_kinect_ros_driver",
        "node",
        "/rgb/image_raw",
        "sensor_sn",
        False,
        {"fps": 30, "color_enabled": True, "color_format": "bgra", "color_resolution": "720P"}
        | dict.fromkeys(("depth_enabled", "point_cloud", "rgb_point_cloud"), False),
    ),
}
"""Drivers that can be started, by the robot file's `start`."""
SHIPPED = {"/kinect/rgb/image_raw": "kinect", "/realsense/wrist/color/image_raw": "realsense"}
"""Topics whose driver is started without `start`, which robot files of 0.2 and before do not have."""
EVENT = messages.EPISODE_EVENT
_PUSHED = "ros_namespace"  # where launch_ros keeps the namespace of a group
_AGAIN_AFTER = 1.0  # seconds
_AGAIN: dict[str, Any] = {"respawn": True, "respawn_delay": 2.0}


def argument(
    name: str, default: str | None, description: str, choices: Iterable[str] | None = None
) -> DeclareLaunchArgument:
    """The launch argument `name`; without `default` it must be given."""
    limited = {"choices": list(choices)} if choices else {}
    return DeclareLaunchArgument(name, default_value=default, description=description, **limited)


def switch(name: str, default: str, description: str) -> DeclareLaunchArgument:
    """The launch argument `name`, `true` or `false`."""
    return argument(name, default, description, ("true", "false"))


SKILL = argument("skill", PLAY, "Skill that is demonstrated, any name; or play.")
EXTRA_TOPICS = argument("extra_topics", "", "Further topics that go into the bag, such as '/tf wrench'.")
NAMESPACE = argument("namespace", "", "Before the names of all nodes, topics, actions and services; empty = none.")
SHARED_EVENTS = switch("shared_events", "false", f"Take start, stop and marks from {EVENT} of all namespaces.")
SEED = argument("seed", "0", "Seed of the simulated scene, the scripted operator and the policy.")
WINDOW = switch("window", "false", "Show the simulated scene in a window.")
RVIZ = switch("rviz", "false", "Show arm, frames and images in RViz.")
ROBOT_FILE = argument("robot_file", "", "Your robot's .yaml; empty = the shipped one.")
ROBOT = (
    argument("robot", "franka", "Which robot.", ("franka", "sim")),
    ROBOT_FILE,
    switch("cameras", "true", "Start camera drivers and croppers (franka)."),
    switch("gripper", "true", "Start what tells the gripper to open and close (franka)."),
    SEED,
    WINDOW,
    RVIZ,
    NAMESPACE,
    SHARED_EVENTS,
)
"""Arguments of a launch file that brings a robot with it, see `robot_actions`."""


def launch_description(
    arguments: Sequence[DeclareLaunchArgument], actions: Callable[[dict[str, str]], list[Any]]
) -> LaunchDescription:
    """The `arguments`, and the actions that `actions` makes of their values.

    The value of `namespace` is the full one, below that of a launch file that includes this one in its own.
    """

    def make(context: LaunchContext) -> list[Any]:
        names = [argument.name for argument in arguments]
        given = {name: perform_substitutions(context, [LaunchConfiguration(name)]) for name in names}
        if "namespace" in given:
            given["namespace"] = full_namespace(given["namespace"], context.launch_configurations.get(_PUSHED, ""))
        return actions(given)

    return LaunchDescription([*arguments, OpaqueFunction(function=make)])


@dataclass(frozen=True)
class Setup:
    """Settings that all nodes of a launch are given."""

    robot: str
    """The robot's parameter file."""
    namespace: str = ""
    """Before their names and those of their topics, with a leading slash; empty = none."""
    shared_events: bool = False
    """Start, stop and marks are those of all namespaces."""

    @classmethod
    def of(cls, given: Mapping[str, str], robot: str = "") -> Setup:
        """By the arguments ROBOT_FILE, NAMESPACE and SHARED_EVENTS of a launch file, and `robot` without a file.

        Raises `DiwaError` if the robot is unknown, its file damaged, or says something to a node that will not read it.
        """
        path, namespace = robot_parameters(given["robot_file"] or robot), given["namespace"]
        for section in node_sections(Path(path).read_bytes()) if namespace else ():
            if "/" not in section.strip("/") and section != "/**":
                name = section.strip("/")
                raise DiwaError(f"{path}: {namespace}/{name} does not read the section {section}: name it /**/{name}")
        return cls(path, namespace, given["shared_events"] == "true")


def robot_parameters(robot: str) -> str:
    """The parameter file of a robot; raises `DiwaError` if it is unknown or damaged."""
    path = robot_file(robot)
    load_robot(path)
    return str(path)


def robot_actions(given: Mapping[str, str], setup: Setup) -> list[Any]:
    """The simulated robot, or what belongs to a real one: cameras, gripper, and what stands between topics of its own.

    Its arm is the lab's own to start.
    """
    if given["robot"] == "sim":
        return simulated_robot(given, setup)
    adapts = load_robot(Path(setup.robot)).topics.adapts
    return [
        *([kept_node("diwa_data", "adapter", setup)] if adapts else []),
        *(cameras(setup) if given["cameras"] == "true" else []),
        *(gripper(setup) if given["gripper"] == "true" else []),
        *(rviz(setup) if given["rviz"] == "true" else []),
    ]


def number(given: Mapping[str, str], name: str, lowest: float = 0.0) -> float:
    """The argument `name` as a number that is not below `lowest`."""
    try:
        value = float(given[name])
    except ValueError:
        value = -float("inf")
    if not lowest <= value < float("inf"):
        raise DiwaError(f"{name}:={given[name]} is not a number from {lowest:g} up")
    return value


def extra_topics(given: Mapping[str, str]) -> dict[str, list[str]]:
    """The recorder's parameter of the argument EXTRA_TOPICS; ROS has no empty lists."""
    topics = given["extra_topics"].replace(",", " ").split()
    return {"extra_topics": topics} if topics else {}


def skill_parameter(skill: str) -> str:
    """The nodes' parameter `skill`: empty for play. Raises `DiwaError` for what cannot name a skill."""
    return "" if skill == PLAY else skill_name(skill)


def kept_node(package: str, name: str, setup: Setup, **settings: object) -> Node:
    """The node `name` of the executable `<name>_node`, started again when it crashes or is killed.

    When it ends by itself everything ends with it, and when it refuses to run `ros2 launch` fails.
    """

    def ended(event: ProcessExited, context: LaunchContext) -> list[Any]:
        if context.is_shutdown:
            return []
        if event.returncode == 0:
            return [Shutdown(reason=f"{name} has ended")]
        if event.returncode == REFUSED:
            raise DiwaError(f"{name} cannot run: it says why above")
        again = TimerAction(period=_AGAIN_AFTER, actions=[kept_node(package, name, setup, **settings)])
        return [LogInfo(msg=f"{name} died (status {event.returncode}) and is started again"), again]

    return _node(package, name, setup, settings, on_exit=ended)


def final_node(package: str, name: str, setup: Setup, **settings: object) -> Node:
    """As `kept_node`, but once: everything ends with it, and `ros2 launch` fails if it did."""
    return _node(package, name, setup, settings, on_exit=ends_with(name))


def ends_with(name: str) -> Callable[[ProcessExited, LaunchContext], list[Any]]:
    """`on_exit` of the process `name`: everything ends with it, and `ros2 launch` fails if it did, after Ctrl-C too."""

    def ended(event: ProcessExited, context: LaunchContext) -> list[Any]:
        if event.returncode:
            raise DiwaError(f"{name} failed: it says why above (status {event.returncode})")
        return [Shutdown(reason=f"{name} has ended")]

    return ended


def _node(
    package: str, name: str, setup: Setup, settings: dict[str, Any], executable: str = "", **options: Any
) -> Node:
    """The node `name`, of the executable `<name>_node` unless another is given."""
    options |= {"remappings": [(messages.relative(EVENT), EVENT)]} if setup.shared_events else {}
    parameters = [settings, setup.robot]  # sections of single nodes in the robot's file win
    return _plain_node(package, name, parameters, executable or f"{name}_node", setup.namespace, **options)


def _plain_node(
    package: str, name: str, parameters: list[Any], executable: str, namespace: str, **options: Any
) -> Node:
    """A node that need not be ours. Its namespace is a full one: it is started again where no group is known."""
    options |= {"namespace": namespace} if namespace else {}
    return Node(package=package, executable=executable, name=name, parameters=parameters, output="screen", **options)


def cameras(setup: Setup) -> list[Any]:
    """The drivers that a robot's file names, as far as they are installed, and what cuts the images of its cameras.

    All of them come back by themselves: a Kinect's driver exits when it stalls.
    """
    drivers: dict[tuple[str, str, str], Any] = {}
    croppers = []
    for name, camera in load_robot(Path(setup.robot)).cameras.items():
        kind = camera.start or SHIPPED.get(camera.driver, "")
        if kind:
            drivers[kind, camera.serial, camera.driver] = driver(DRIVERS[kind], name, camera, setup.namespace)
        if camera.driver:  # else its recorded images are published by the robot itself
            croppers.append(_node("diwa_data", f"{name}_camera", setup, {"camera": name}, "camera_node", **_AGAIN))
    devices = [(kind, serial) for kind, serial, _ in drivers]
    for kind, serial in devices:
        if sum(kind == other for other, _ in devices) > 1 and (not serial or devices.count((kind, serial)) > 1):
            raise DiwaError(
                f"{setup.robot}: several cameras start: {kind}; give each the serial number of its own device"
            )
    return [*drivers.values(), *croppers]


def driver(of: Driver, camera: str, config: CameraConfig, namespace: str = "") -> Any:
    """The node whose images come on the camera's topic `driver`, in a namespace unless that begins with a slash."""
    full = config.driver if config.driver.startswith("/") else f"{namespace}/{config.driver}"
    above = full.removesuffix(of.topic)
    namespace, _, name = above.rpartition("/") if of.named else (above, "/", f"{camera}_driver")
    if above == full or not name:
        raise DiwaError(f"robot.{camera}.driver is {config.driver!r}, but its driver publishes /<name>{of.topic}")
    try:
        get_package_share_directory(of.package)
    except PackageNotFoundError:
        return LogInfo(msg=f"ERROR: {of.package} is not installed: install it, or start your driver yourself")
    settings = of.settings | ({of.serial: config.serial} if config.serial else {})
    return _plain_node(of.package, name, [settings], of.executable, namespace, **_AGAIN)


def gripper(setup: Setup) -> list[Any]:
    """The node that tells the gripper `/diwa/gripper_command` its own way, if it has one and its messages are there."""
    config = load_robot(Path(setup.robot))
    package = config.topics.command.type.partition("/")[0]
    if not config.action.gripper or config.topics.command.is_ours:
        return []
    if importlib.util.find_spec(package) is None:
        cure = "source the workspace of your arm's driver, or set topics.command in the robot file, or gripper:=false"
        return [LogInfo(msg=f"ERROR: no {package} here, the gripper will not move: {cure}")]
    return [_node("diwa_deploy", "gripper", setup, {}, **_AGAIN)]


def rviz(setup: Setup, own_frames: bool = False) -> list[Any]:
    """RViz, in the robot's base frame; `own_frames`: the frames are on topics of the namespace, not on those of all."""
    try:
        get_package_share_directory("rviz2")
    except PackageNotFoundError:
        return [LogInfo(msg="ERROR: rviz2 is not installed: sudo apt install ros-$ROS_DISTRO-rviz2")]
    words = ["-d", str(config_file("diwa.rviz")), "-f", load_robot(Path(setup.robot)).base_frame]
    remaps = [(f"/{name}", name) for name in ("tf", "tf_static")] if own_frames else []
    return [_plain_node("rviz2", "rviz", [], "rviz2", setup.namespace, arguments=words, remappings=remaps)]


def simulated_robot(given: Mapping[str, str], setup: Setup) -> list[Any]:
    """The simulated robot on the real robot's topics, by the arguments SKILL, SEED, WINDOW and RVIZ of a launch file.

    It has the cameras of the robot's parameter file.
    """
    skill, seed, window = skill_parameter(given["skill"]), int(number(given, "seed")), given["window"] == "true"
    shown = rviz(setup, own_frames=True) if given["rviz"] == "true" else []
    return [kept_node("diwa_sim", "sim_robot", setup, skill=skill, seed=seed, window=window), *shown]
