"""Run a skill: `ros2 launch diwa_deploy run_skill.launch.py skill:=open_drawer [robot:=sim checkpoint:=...]`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource

from diwa_data.ros.launching import kept_node, number, parameters, values
from diwa_data.skills import SKILLS
from launch import LaunchContext, LaunchDescription

ARGUMENTS = (
    DeclareLaunchArgument("skill", choices=list(SKILLS), description="Which skill."),
    DeclareLaunchArgument("checkpoint", default_value="", description="Its bundle; empty = the installed one."),
    DeclareLaunchArgument("robot", default_value="franka", choices=["franka", "sim"], description="Which robot."),
    DeclareLaunchArgument("robot_file", default_value="", description="Your robot's .yaml; empty = the shipped one."),
    DeclareLaunchArgument("max_steps", default_value="72", description="Control ticks (7.5 a second) at most."),
    DeclareLaunchArgument("success_ticks", default_value="3", description="Ticks to be sure of a success; 0 = never."),
    DeclareLaunchArgument("seed", default_value="0", description="Of the policy, and of the simulated scene."),
    DeclareLaunchArgument(
        "auto", default_value="true", choices=["true", "false"], description="Configure, activate, run once and end."
    ),
    DeclareLaunchArgument("record", default_value="false", choices=["true", "false"], description="Into a bag."),
    DeclareLaunchArgument("bag_dir", default_value="", description="Folder of bags; empty = ~/diwa_bags/runs/SKILL."),
    DeclareLaunchArgument(
        "window", default_value="false", choices=["true", "false"], description="Show the simulated scene."
    ),
)


def generate_launch_description() -> LaunchDescription:
    """The policy, what brings it up and runs it once, and the simulated robot or the real one's cameras."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])


def _actions(context: LaunchContext) -> list:
    given = values(context, [argument.name for argument in ARGUMENTS])
    robot, skill, record = parameters(given["robot_file"] or given["robot"]), given["skill"], given["record"] == "true"
    numbers = {name: int(number(given, name)) for name in ("max_steps", "success_ticks")}
    seed = int(number(given, "seed"))
    actions = [
        kept_node("diwa_deploy", "policy", robot, skill=skill, checkpoint=given["checkpoint"], **numbers),
        *_robot(given),
    ]
    if record:
        folder = given["bag_dir"] or f"~/diwa_bags/runs/{skill}"
        actions.append(kept_node("diwa_data", "recorder", robot, folder=folder, skill=skill, operator="policy"))
    if given["auto"] == "true":
        settings = {"skill": skill, "max_steps": numbers["max_steps"], "seed": seed, "record": record}
        actions.append(kept_node("diwa_deploy", "run_skill", robot, **settings))
    return actions


def _robot(given: dict[str, str]) -> list:
    if given["robot"] == "sim":
        launch = Path(get_package_share_directory("diwa_sim")) / "launch" / "sim.launch.py"
        passed = {name: given[name] for name in ("skill", "seed", "window")}
        source = PythonLaunchDescriptionSource(str(launch))
        return [IncludeLaunchDescription(source, launch_arguments=passed.items())]
    return []
