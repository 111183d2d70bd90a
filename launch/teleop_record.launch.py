"""Teleoperate and record: `ros2 launch diwa_data teleop_record.launch.py [device:=scripted robot:=sim ...]`."""

from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, LogInfo, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from diwa_data.errors import DiwaError
from diwa_data.ros.launching import kept_node, number, parameters, skill_argument, skill_parameter, values
from launch import LaunchContext, LaunchDescription

ARGUMENTS = (
    DeclareLaunchArgument(
        "device",
        default_value="vive",
        choices=["vive", "webxr", "keyboard", "scripted"],
        description="What the operator holds; scripted needs robot:=sim.",
    ),
    DeclareLaunchArgument("robot", default_value="franka", choices=["franka", "sim"], description="Which robot."),
    DeclareLaunchArgument("robot_file", default_value="", description="Your robot's .yaml; empty = the shipped one."),
    DeclareLaunchArgument("bag_dir", default_value="", description="Folder of bags; empty = ~/diwa_bags/ROBOT/SKILL."),
    DeclareLaunchArgument("storage", default_value="mcap", choices=["mcap", "sqlite3"], description="rosbag2 storage."),
    skill_argument(),
    DeclareLaunchArgument(
        "cameras", default_value="true", choices=["true", "false"], description="Start drivers and croppers (franka)."
    ),
    DeclareLaunchArgument("operator", default_value="", description="Who teleoperates; goes into the labels."),
    DeclareLaunchArgument("episodes", default_value="0", description="The scripted operator's; 0 = until Ctrl-C."),
    DeclareLaunchArgument("episode_seconds", default_value="120.0", description="Of the scripted operator's play."),
    DeclareLaunchArgument("seed", default_value="0", description="Of the simulated scene and the scripted operator."),
    DeclareLaunchArgument(
        "window", default_value="false", choices=["true", "false"], description="Show the simulated scene."
    ),
    DeclareLaunchArgument("min_free_mb", default_value="1000.0", description="Free disk that is kept, MB."),
)  # fmt: skip

REALSENSE = {
    "rgb_camera.color_profile": "640x480x30",
    "rgb_camera.profile": "640x480x30",  # its name in older drivers
    "enable_depth": False,
    "enable_infra1": False,
    "enable_infra2": False,
    "pointcloud.enable": False,
}
KINECT = {
    "fps": 30,
    "color_enabled": True,
    "color_format": "bgra",
    "color_resolution": "720P",
    "depth_enabled": False,
    "point_cloud": False,
    "rgb_point_cloud": False,
}


def generate_launch_description() -> LaunchDescription:
    """Controller, recorder, and a robot: the simulated one, or the drivers of the real one's cameras."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])


def _actions(context: LaunchContext) -> list:
    given = values(context, [argument.name for argument in ARGUMENTS])
    robot = parameters(given["robot_file"] or given["robot"])
    bag_dir = given["bag_dir"] or f"~/diwa_bags/{given['robot']}/{given['skill']}"
    skill = skill_parameter(given["skill"])
    recording = {
        "folder": bag_dir,
        "storage": given["storage"],
        "skill": skill,
        "operator": given["operator"] or given["device"],
        "min_free_mb": number(given, "min_free_mb"),
    }
    actions = [
        kept_node("diwa_data", "teleop", robot, device=given["device"]),
        kept_node("diwa_data", "recorder", robot, **recording),
    ]
    if given["device"] == "scripted":
        if given["robot"] != "sim":
            raise DiwaError("device:=scripted sees only the simulated scene: use it with robot:=sim")
        numbers = {"episodes": int(number(given, "episodes")), "episode_seconds": number(given, "episode_seconds")}
        actions.append(
            kept_node("diwa_sim", "operator", robot, skill=skill, seed=int(number(given, "seed")), **numbers)
        )
    if given["robot"] == "sim":
        launch = Path(get_package_share_directory("diwa_sim")) / "launch" / "sim.launch.py"
        passed = {name: given[name] for name in ("skill", "seed", "window")}
        source = PythonLaunchDescriptionSource(str(launch))
        actions.append(IncludeLaunchDescription(source, launch_arguments=passed.items()))
    elif given["cameras"] == "true":
        actions += _cameras(robot)
    return actions


def _cameras(robot: str) -> list:
    """Both drivers and what cuts their images; all come back by themselves."""
    again = {"respawn": True, "respawn_delay": 2.0, "output": "screen"}
    drivers = [
        ("realsense2_camera", "realsense2_camera_node", "realsense", "wrist", REALSENSE),
        ("azure_kinect_ros_driver", "node", "kinect", "k4a", KINECT),
    ]
    actions: list = []
    for package, executable, namespace, name, settings in drivers:
        try:
            get_package_share_directory(package)
        except PackageNotFoundError:
            actions.append(LogInfo(msg=f"ERROR: {package} is not installed: install it, or start your driver yourself"))
            continue
        driver = Node(
            package=package, executable=executable, namespace=namespace, name=name, parameters=[settings], **again
        )
        actions.append(driver)
    for camera in ("static", "gripper"):
        chosen = [robot, {"camera": camera}]
        cutter = Node(
            package="diwa_data", executable="camera_node", name=f"{camera}_camera", parameters=chosen, **again
        )
        actions.append(cutter)
    return actions
