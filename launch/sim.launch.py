"""The simulated robot on the real robot's topics: `ros2 launch diwa_sim sim.launch.py [skill:=... window:=true]`."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from diwa_data.ros.launching import kept_node, number, parameters, skill_argument, skill_parameter, values

ARGUMENTS = (
    skill_argument(),
    DeclareLaunchArgument("seed", default_value="0", description="Of the start states."),
    DeclareLaunchArgument(
        "window", default_value="false", choices=["true", "false"], description="Show the scene in a window."
    ),
)


def generate_launch_description() -> LaunchDescription:
    """One node; `stop` and `discard` on /diwa/episode_event put the scene at its next start."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])


def _actions(context: LaunchContext) -> list[Node]:
    given = values(context, [argument.name for argument in ARGUMENTS])
    chosen = {
        "skill": skill_parameter(given["skill"]),
        "seed": int(number(given, "seed")),
        "window": given["window"] == "true",
    }
    return [kept_node("diwa_sim", "sim_robot", parameters("sim"), **chosen)]
