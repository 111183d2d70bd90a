"""Teleoperate and record: `ros2 launch diwa_data teleop_record.launch.py [device:=scripted robot:=sim ...]`."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction

from diwa_data.errors import DiwaError
from diwa_data.ros.launching import (
    camera_argument,
    gripper_argument,
    kept_node,
    number,
    parameters,
    robot_actions,
    skill_argument,
    skill_parameter,
    values,
)

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
    camera_argument(),
    gripper_argument(),
    DeclareLaunchArgument("operator", default_value="", description="Who teleoperates; goes into the labels."),
    DeclareLaunchArgument("episodes", default_value="0", description="The scripted operator's; 0 = until Ctrl-C."),
    DeclareLaunchArgument("episode_seconds", default_value="120.0", description="Of the scripted operator's play."),
    DeclareLaunchArgument("seed", default_value="0", description="Of the simulated scene and the scripted operator."),
    DeclareLaunchArgument(
        "window", default_value="false", choices=["true", "false"], description="Show the simulated scene."
    ),
    DeclareLaunchArgument("min_free_mb", default_value="1000.0", description="Free disk that is kept, MB."),
)  # fmt: skip


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
    actions += robot_actions(given, robot)
    return actions
