"""The arm's controller on our topics: `ros2 launch diwa_deploy arm.launch.py arm:=fr3`, once its driver runs."""

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription
from launch_ros.actions import Node

from diwa_data.config import config_file
from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.ros.launching import NAMESPACE, argument, launch_description

ARGUMENTS = (
    argument("arm", None, "Franka Panda (FER), or Franka Research 3.", ("panda", "fr3")),
    argument("controller_manager", "controller_manager", "The driver's, below the namespace."),
    argument("controllers", "", "Your own .yaml; empty = the shipped one."),
    NAMESPACE,
)
REMAPS = {"target_pose": messages.TARGET_POSE, "current_pose": messages.CURRENT_POSE}


def generate_launch_description() -> LaunchDescription:
    """Spawns crisp's CartesianController and its PoseBroadcaster; the driver's own launch file comes first."""
    return launch_description(ARGUMENTS, _actions)


def _actions(given: dict[str, str]) -> list[Node]:
    for package in ("controller_manager", "crisp_controllers"):
        try:
            get_package_share_directory(package)
        except PackageNotFoundError as error:
            raise DiwaError(f"{package} is not installed: it belongs to the arm's machine (docs/robot.md)") from error
    controllers = given["controllers"] or str(config_file(f"crisp_{given['arm']}.yaml"))
    arguments = ["pose_broadcaster", "cartesian_controller", "--param-file", controllers]
    namespace, manager = given["namespace"], given["controller_manager"]
    arguments += ["--controller-manager", manager if manager.startswith("/") else f"{namespace}/{manager}"]
    for theirs, ours in REMAPS.items():
        arguments += ["--controller-ros-args", f"-r {theirs}:={namespace}{ours}"]
    where = {"namespace": namespace} if namespace else {}
    return [Node(package="controller_manager", executable="spawner", arguments=arguments, output="screen", **where)]
