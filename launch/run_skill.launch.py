"""Run a skill: `ros2 launch diwa_deploy run_skill.launch.py skill:=open_drawer [robot:=sim checkpoint:=...]`."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction

from diwa_data.ros.launching import (
    camera_argument,
    final_node,
    gripper_argument,
    kept_node,
    number,
    parameters,
    robot_actions,
    values,
)
from diwa_data.skills import SKILLS

ARGUMENTS = (
    DeclareLaunchArgument("skill", choices=list(SKILLS), description="Which skill."),
    DeclareLaunchArgument("checkpoint", default_value="", description="Its bundle; empty = the installed one."),
    DeclareLaunchArgument("robot", default_value="franka", choices=["franka", "sim"], description="Which robot."),
    DeclareLaunchArgument("robot_file", default_value="", description="Your robot's .yaml; empty = the shipped one."),
    camera_argument(),
    gripper_argument(),
    DeclareLaunchArgument("max_steps", default_value="72", description="Control ticks (7.5 a second) at most."),
    DeclareLaunchArgument("success_ticks", default_value="3", description="Ticks to be sure of a success; 0 = never."),
    DeclareLaunchArgument(
        "policy", default_value="finetuned", choices=["finetuned", "base", "both"], description="Of the bundle."
    ),
    DeclareLaunchArgument("rollouts", default_value="0", description="Blind trials of each policy; 0 = run once."),
    DeclareLaunchArgument("out", default_value="comparison.json", description="File of those trials; continues."),
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
    chosen = {"skill": skill, "checkpoint": given["checkpoint"], "policy": given["policy"]}
    actions = [kept_node("diwa_deploy", "policy", robot, **chosen, **numbers)]
    actions += robot_actions(given, robot)
    if record:
        folder = given["bag_dir"] or f"~/diwa_bags/runs/{skill}"
        actions.append(kept_node("diwa_data", "recorder", robot, folder=folder, skill=skill, operator="policy"))
    if given["auto"] == "true":
        settings = {name: int(number(given, name)) for name in ("max_steps", "seed", "rollouts")}
        told = {"skill": skill, "policy": given["policy"], "out": given["out"], "record": record}
        actions.append(final_node("diwa_deploy", "run_skill", robot, **settings, **told))
    return actions
