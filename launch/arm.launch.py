"""The arm's controller on our topics: `ros2 launch diwa_deploy arm.launch.py arm:=fr3`, once its driver runs."""

import importlib.util
import subprocess
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchDescription
from launch.actions import LogInfo
from launch_ros.actions import Node

from diwa_data.config import config_file
from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.ros.launching import NAMESPACE, ROBOT_FILE, Setup, argument, launch_description

ARGUMENTS = (
    argument("arm", None, "Arm: panda (FER) or fr3 (Franka Research 3).", ("panda", "fr3")),
    argument("controller_manager", "controller_manager", "Controller manager of the driver, below the namespace."),
    argument("controllers", "", "Your own controllers (.yaml); empty = the shipped ones."),
    ROBOT_FILE,
    NAMESPACE,
)
HELP_PATIENCE = 30.0
"""Seconds in which the spawner must say what it can do."""
REMAPS = {"target_pose": messages.TARGET_POSE, "current_pose": messages.CURRENT_POSE}


def generate_launch_description() -> LaunchDescription:
    """Spawns crisp's CartesianController and its PoseBroadcaster, and starts what tells the arm's mode and recovers it.

    The driver's own launch file comes first.
    """
    return launch_description(ARGUMENTS, _actions)


def _actions(given: dict[str, str]) -> list[Node | LogInfo]:
    for package in ("controller_manager", "crisp_controllers"):
        try:
            get_package_share_directory(package)
        except PackageNotFoundError as error:
            raise DiwaError(f"{package} is not installed: it belongs to the arm's machine (docs/robot.md)") from error
    controllers = given["controllers"] or str(config_file(f"crisp_{given['arm']}.yaml"))
    arguments = ["pose_broadcaster", "cartesian_controller", "--param-file", controllers]
    namespace, manager = given["namespace"], given["controller_manager"]
    arguments += ["--controller-manager", manager if manager.startswith("/") else f"{namespace}/{manager}"]
    where = {"namespace": namespace} if namespace else {}
    between = []
    if can_remap():
        for theirs, ours in REMAPS.items():
            arguments += ["--controller-ros-args", f"-r {theirs}:={namespace}{ours}"]
    else:
        between = passing_on(controllers, where)
    spawner = Node(package="controller_manager", executable="spawner", arguments=arguments, output="screen", **where)
    return [spawner, *between, franka(given, where)]


def can_remap() -> bool:
    """This spawner can remap the topics of a controller; Humble's cannot."""
    spawner = Path(get_package_prefix("controller_manager"), "lib", "controller_manager", "spawner")
    told = subprocess.run([spawner, "--help"], capture_output=True, text=True, timeout=HELP_PATIENCE)
    return "--controller-ros-args" in told.stdout


def passing_on(controllers: str, where: dict[str, str]) -> list[Node | LogInfo]:
    """The node between the controller's own topics and ours, where they cannot be remapped."""
    sections = yaml.safe_load(Path(controllers).expanduser().read_text())
    frames = [
        section["ros__parameters"]["base_frame"]
        for name, section in sections.items()
        if name.endswith("pose_broadcaster") and "base_frame" in section.get("ros__parameters", {})
    ]
    if not frames:
        raise DiwaError(f"{controllers}: pose_broadcaster has no base_frame: write it as in crisp_panda.yaml")
    robot = {"base_frame": frames[0], "topics.pose.topic": "current_pose", "topics.target.topic": "target_pose"}
    settings = {f"robot.{name}": value for name, value in robot.items()}
    return [
        LogInfo(msg="this spawner cannot remap topics (as Humble's): crisp_adapter passes poses and targets on"),
        Node(
            package="diwa_data", executable="adapter_node", name="crisp_adapter", parameters=[settings],
            output="screen", respawn=True, respawn_delay=2.0, **where,
        ),
    ]  # fmt: skip


def franka(given: dict[str, str], where: dict[str, str]) -> Node | LogInfo:
    """The node that tells the arm's mode, gives it collision thresholds, and recovers it when it is asked to."""
    if importlib.util.find_spec("franka_msgs") is None:
        why = "source the workspace of your arm's driver"
        return LogInfo(msg=f"ERROR: no franka_msgs here, nothing tells the arm's mode or recovers it: {why}")
    robot = Setup.of(given | {"shared_events": "false"}, "franka").robot
    return Node(
        package="diwa_deploy", executable="franka_node", name="franka", output="screen", respawn=True,
        respawn_delay=2.0, parameters=[{"controller_manager": given["controller_manager"]}, robot], **where,
    )  # fmt: skip
