"""The simulated robot on the real robot's topics: `ros2 launch diwa_sim sim.launch.py [skill:=... window:=true]`."""

from launch import LaunchDescription

from diwa_data.ros.launching import (
    ROBOT_FILE,
    SEED,
    SKILL,
    WINDOW,
    launch_description,
    robot_parameters,
    simulated_robot,
)


def generate_launch_description() -> LaunchDescription:
    """One node; `stop` and `discard` on /diwa/episode_event put the scene at its next start."""
    return launch_description((SKILL, ROBOT_FILE, SEED, WINDOW), _actions)


def _actions(given: dict[str, str]) -> list:
    return [simulated_robot(given, robot_parameters(given["robot_file"] or "sim"))]
