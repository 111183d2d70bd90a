"""What the launch files share: robots, arguments that are checked, nodes that come back when they are killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch.actions import DeclareLaunchArgument, LogInfo, Shutdown, TimerAction
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch.utilities import perform_substitutions
from launch_ros.actions import Node

from diwa_data.errors import DiwaError
from diwa_data.robot_config import load_robot, robot_file
from diwa_data.skills import SKILLS
from launch import LaunchContext

PLAY = "play"
"""The value of `skill` that records play."""
REFUSED = 2
"""Exit status of a node that told why it cannot run."""
_AGAIN_AFTER = 1.0  # seconds


def skill_argument() -> DeclareLaunchArgument:
    """`skill`: one of the eight, or play."""
    text = "Skill that is demonstrated, or play."
    return DeclareLaunchArgument("skill", default_value=PLAY, choices=[PLAY, *SKILLS], description=text)


def values(context: LaunchContext, names: Sequence[str]) -> dict[str, str]:
    """The arguments `names` as text."""
    return {name: perform_substitutions(context, [LaunchConfiguration(name)]) for name in names}


def number(given: Mapping[str, str], name: str) -> float:
    """The argument `name` as a number that is not negative."""
    try:
        value = float(given[name])
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise DiwaError(f"{name}:={given[name]} is no number from 0 up")
    return value


def parameters(robot: str) -> str:
    """The parameter file of a robot; raises `DiwaError` if it is unknown or damaged."""
    path = robot_file(robot)
    load_robot(path)
    return str(path)


def skill_parameter(skill: str) -> str:
    """How nodes are told the skill: empty for play."""
    return "" if skill == PLAY else skill


def kept_node(package: str, name: str, robot: str, **settings: object) -> Node:
    """The node `name` of the executable `<name>_node`, started again when it crashes or is killed.

    When it ends by itself, or refuses to run, everything ends with it. `robot`: parameter file of the robot.
    """

    def ended(event: ProcessExited, context: LaunchContext) -> list[Any]:
        if context.is_shutdown:
            return []
        if event.returncode in (0, REFUSED):
            return [Shutdown(reason=f"{name} has ended")]
        again = TimerAction(period=_AGAIN_AFTER, actions=[kept_node(package, name, robot, **settings)])
        return [LogInfo(msg=f"{name} died (status {event.returncode}) and is started again"), again]

    return Node(
        package=package,
        executable=f"{name}_node",
        name=name,
        parameters=[robot, settings],
        output="screen",
        on_exit=ended,
    )
