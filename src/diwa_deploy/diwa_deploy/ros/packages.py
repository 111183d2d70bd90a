"""Packages of others that a real robot needs: which are there, and how to get those that are not."""

from __future__ import annotations

from ament_index_python.packages import get_packages_with_prefixes

from diwa_data.robot_config import RobotConfig
from diwa_data.ros.bridge import about
from diwa_data.ros.launching import DRIVERS
from diwa_deploy.checks import Check

CURES = {
    "realsense2_camera": "sudo apt install ros-$ROS_DISTRO-realsense2-camera",
    "azure_kinect_ros_driver": "build github.com/microsoft/Azure_Kinect_ROS_Driver (branch humble) in a workspace",
    "franka_msgs": "build your arm's driver: github.com/frankarobotics/franka_ros2 (FR3), or multipanda_ros2 (FER)",
    "crisp_controllers": "build github.com/utiasDSL/crisp_controllers beside your arm's driver",
    "controller_manager": "sudo apt install ros-$ROS_DISTRO-ros2-control",
    "control_msgs": "sudo apt install ros-$ROS_DISTRO-control-msgs",
    "cv_bridge": "sudo apt install ros-$ROS_DISTRO-cv-bridge; without it our own decoder does the same",
}
"""Package -> how to get it."""


def needed(robot: RobotConfig) -> list[str]:
    """Packages without which this robot's launch files leave something out."""
    drivers = [DRIVERS[camera.start].package for camera in robot.cameras.values() if camera.start]
    command = robot.topics.command.type.partition("/")[0]
    return [*drivers, *([command] if robot.action.gripper and command in CURES else [])]


def check_packages(robot: RobotConfig) -> Check:
    """Those that are here, and how to get what the robot's file asks for. Always good: drivers may run elsewhere."""
    found = get_packages_with_prefixes()
    here, missing = ([name for name in CURES if (name in found) == there] for there in (True, False))
    text = f"here: {', '.join(here) or 'none'}; not here: {', '.join(missing) or 'none'}; images by {about()}"
    cures = [f"for {name}, {CURES[name]}" for name in dict.fromkeys(needed(robot)) if name in missing]
    return Check("packages", True, "; ".join([text, *cures]))
