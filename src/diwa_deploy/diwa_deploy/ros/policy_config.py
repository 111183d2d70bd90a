"""Parameters of the node `policy`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diwa_data.robot_config import RobotConfig
from diwa_deploy.ros.ros_robot import ArmConfig


@dataclass(frozen=True)
class PolicyNodeConfig:
    """Parameters of `policy`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot that the checkpoint must have been made for."""
    skill: str = ""
    """Skill to load."""
    checkpoint: str = ""
    """Folder of its bundle; empty = `$DIWA_HOME/skills/SKILL`, or else the one that comes with the package."""
    policy: Literal["finetuned", "base", "both"] = "finetuned"
    """Which of the bundle's policies; with both a goal names one, as in `open_drawer/base`."""
    max_steps: int = 72
    """Control ticks after which a goal that names none ends."""
    success_ticks: int = 3
    """Consecutive ticks that the classifier must be sure; 0 lets it end nothing."""
    start_distance: float = 0.05
    """Metres outside of where the demonstrations began up to which a skill may begin."""
    start_angle: float = 0.2
    """Radians, likewise."""
    arm: ArmConfig = field(default_factory=ArmConfig)
    """Rate, limits and watchdog."""
