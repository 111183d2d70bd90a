"""The simulated robot on the real robot's topics: `ros2 launch diwa_sim sim.launch.py [skill:=... window:=true]`."""

from launch import LaunchDescription

from diwa_data.ros.launching import (
    NAMESPACE,
    ROBOT_FILE,
    RVIZ,
    SEED,
    SHARED_EVENTS,
    SKILL,
    WINDOW,
    Setup,
    launch_description,
    simulated_robot,
)


def generate_launch_description() -> LaunchDescription:
    """One node; `stop` and `discard` on /diwa/episode_event put the scene at its next start."""
    return launch_description((SKILL, ROBOT_FILE, SEED, WINDOW, RVIZ, NAMESPACE, SHARED_EVENTS), _actions)


def _actions(given: dict[str, str]) -> list:
    return simulated_robot(given, Setup.of(given, "sim"))
