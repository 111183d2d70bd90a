"""What the launch files share: robots, arguments that are checked, nodes that come back when they are killed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo, Shutdown, TimerAction
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch.utilities import perform_substitutions
from launch_ros.actions import Node

from diwa_data.errors import DiwaError
from diwa_data.robot_config import load_robot, robot_file
from diwa_data.skills import SKILLS

PLAY = "play"
"""The value of `skill` that records play."""
REFUSED = 2
"""Exit status of a node that told why it cannot run."""
DRIVERS: tuple[tuple[str, str, str, str, dict[str, Any]], ...] = (
    (
        "realsense2_camera",
        "realsense2_camera_node",
        "realsense",
        "wrist",
        {
            "rgb_camera.color_profile": "640x480x30",
            "rgb_camera.profile": "640x480x30",  # its name in older drivers
            "enable_depth": False,
            "enable_infra1": False,
            "enable_infra2": False,
            "pointcloud.enable": False,
        },
    ),
    (
        "azure_kinect_ros_driver",
        "node",
        "kinect",
        "k4a",
        {
            "fps": 30,
            "color_enabled": True,
            "color_format": "bgra",
            "color_resolution": "720P",
            "depth_enabled": False,
            "point_cloud": False,
            "rgb_point_cloud": False,
        },
    ),
)
"""Package, executable, namespace, name and parameters of the camera drivers."""
_AGAIN_AFTER = 1.0  # seconds


def skill_argument() -> DeclareLaunchArgument:
    """`skill`: one of the eight, or play."""
    text = "Skill that is demonstrated, or play."
    return DeclareLaunchArgument("skill", default_value=PLAY, choices=[PLAY, *SKILLS], description=text)


def camera_argument() -> DeclareLaunchArgument:
    """`cameras`: whether to start them."""
    text = "Start camera drivers and croppers (franka)."
    return DeclareLaunchArgument("cameras", default_value="true", choices=["true", "false"], description=text)


def gripper_argument() -> DeclareLaunchArgument:
    """`gripper`: whether to start its adapter."""
    text = "Start the adapter to the gripper's actions (franka)."
    return DeclareLaunchArgument("gripper", default_value="true", choices=["true", "false"], description=text)


def robot_actions(given: Mapping[str, str], robot: str) -> list[Any]:
    """The simulated robot, or what belongs to a real one: cameras and gripper. Its arm is the lab's own to start."""
    if given["robot"] == "sim":
        return [simulated_robot(given)]
    return [
        *(cameras(robot) if given["cameras"] == "true" else []),
        *(gripper(robot) if given["gripper"] == "true" else []),
    ]


def values(context: LaunchContext, names: Sequence[str]) -> dict[str, str]:
    """The arguments `names` as text."""
    return {name: perform_substitutions(context, [LaunchConfiguration(name)]) for name in names}


def number(given: Mapping[str, str], name: str) -> float:
    """The argument `name` as a number that is not negative."""
    try:
        value = float(given[name])
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise DiwaError(f"{name}:={given[name]} is no number from 0 up")
    return value


def parameters(robot: str) -> str:
    """The parameter file of a robot; raises `DiwaError` if it is unknown or damaged."""
    path = robot_file(robot)
    load_robot(path)
    return str(path)


def skill_parameter(skill: str) -> str:
    """How nodes are told the skill: empty for play."""
    return "" if skill == PLAY else skill


def kept_node(package: str, name: str, robot: str, **settings: object) -> Node:
    """The node `name` of the executable `<name>_node`, started again when it crashes or is killed.

    When it ends by itself everything ends with it, and when it refuses to run `ros2 launch` fails. `robot`: parameter
    file of the robot.
    """

    def ended(event: ProcessExited, context: LaunchContext) -> list[Any]:
        if context.is_shutdown:
            return []
        if event.returncode == 0:
            return [Shutdown(reason=f"{name} has ended")]
        if event.returncode == REFUSED:
            raise DiwaError(f"{name} cannot run: it says why above")
        again = TimerAction(period=_AGAIN_AFTER, actions=[kept_node(package, name, robot, **settings)])
        return [LogInfo(msg=f"{name} died (status {event.returncode}) and is started again"), again]

    return _node(package, name, robot, settings, ended)


def final_node(package: str, name: str, robot: str, **settings: object) -> Node:
    """As `kept_node`, but once: everything ends with it, and `ros2 launch` fails if it did."""
    return _node(package, name, robot, settings, ends_with(name))


def ends_with(name: str) -> Callable[[ProcessExited, LaunchContext], list[Any]]:
    """`on_exit` of the process `name`: everything ends with it, and `ros2 launch` fails if it did, after Ctrl-C too."""

    def ended(event: ProcessExited, context: LaunchContext) -> list[Any]:
        if event.returncode:
            raise DiwaError(f"{name} failed: it says why above (status {event.returncode})")
        return [Shutdown(reason=f"{name} has ended")]

    return ended


def _node(package: str, name: str, robot: str, settings: dict[str, Any], on_exit: Callable[..., list[Any]]) -> Node:
    where = {"package": package, "executable": f"{name}_node", "name": name}
    return Node(**where, parameters=[robot, settings], output="screen", on_exit=on_exit)


def cameras(robot: str) -> list[Any]:
    """The drivers of the Franka's cameras, as far as they are installed, and what cuts their images.

    All of them come back by themselves: a Kinect's driver exits when it stalls.
    """
    again = {"respawn": True, "respawn_delay": 2.0, "output": "screen"}
    actions: list[Any] = []
    for package, executable, namespace, name, settings in DRIVERS:
        try:
            get_package_share_directory(package)
        except PackageNotFoundError:
            actions.append(LogInfo(msg=f"ERROR: {package} is not installed: install it, or start your driver yourself"))
            continue
        where = {"package": package, "executable": executable, "namespace": namespace, "name": name}
        actions.append(Node(**where, parameters=[settings], **again))
    for camera in ("static", "gripper"):
        where = {"package": "diwa_data", "executable": "camera_node", "name": f"{camera}_camera"}
        actions.append(Node(**where, parameters=[robot, {"camera": camera}], **again))
    return actions


def gripper(robot: str) -> list[Any]:
    """What turns `/diwa/gripper_command` into the Franka gripper's actions, if its messages are installed."""
    if importlib.util.find_spec("franka_msgs") is None:
        cure = "source the workspace of your arm's driver, or say gripper:=false and bring your own adapter"
        return [LogInfo(msg=f"ERROR: no franka_msgs here, the gripper will not move: {cure}")]
    where = {"package": "diwa_deploy", "executable": "gripper_node", "name": "gripper"}
    return [Node(**where, parameters=[robot], respawn=True, respawn_delay=2.0, output="screen")]


def simulated_robot(given: Mapping[str, str]) -> IncludeLaunchDescription:
    """`sim.launch.py` with the arguments skill, seed and window of another launch file."""
    launch = Path(get_package_share_directory("diwa_sim")) / "launch" / "sim.launch.py"
    passed = {name: given[name] for name in ("skill", "seed", "window")}
    return IncludeLaunchDescription(PythonLaunchDescriptionSource(str(launch)), launch_arguments=passed.items())
