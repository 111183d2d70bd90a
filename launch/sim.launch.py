"""The simulated robot on the real robot's topics: `ros2 launch diwa_sim sim.launch.py [skill:=... window:=true]`."""

from launch import LaunchDescription
from launch_ros.actions import Node

from diwa_data.ros.launching import (
    SEED,
    SKILL,
    WINDOW,
    kept_node,
    launch_description,
    number,
    robot_parameters,
    skill_parameter,
)


def generate_launch_description() -> LaunchDescription:
    """One node; `stop` and `discard` on /diwa/episode_event put the scene at its next start."""
    return launch_description((SKILL, SEED, WINDOW), _actions)


def _actions(given: dict[str, str]) -> list[Node]:
    skill, seed, window = skill_parameter(given["skill"]), int(number(given, "seed")), given["window"] == "true"
    return [kept_node("diwa_sim", "sim_robot", robot_parameters("sim"), skill=skill, seed=seed, window=window)]
