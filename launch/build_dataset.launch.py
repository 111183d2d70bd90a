"""Bags -> dataset: `ros2 launch diwa_data build_dataset.launch.py bags:=FOLDER out:=D.h5`."""

import shlex
import sys
from os.path import expanduser

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction

from diwa_data.ros.launching import ends_with, values

ARGUMENTS = (
    DeclareLaunchArgument("bags", description="Bags, or folders of bags, separated by spaces."),
    DeclareLaunchArgument("out", description="HDF5 file to write; an interrupted building of it continues."),
    DeclareLaunchArgument("workers", default_value="2", description="Processes."),
)


def generate_launch_description() -> LaunchDescription:
    """`diwa build-dataset`, which shows its progress and ends the launch when it is done."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_actions)])


def _actions(context: LaunchContext) -> list[ExecuteProcess]:
    given = values(context, [argument.name for argument in ARGUMENTS])
    bags = [expanduser(bag) for bag in shlex.split(given["bags"])]
    command = [sys.executable, "-m", "diwa_cli.main", "build-dataset", *bags]
    flags = ["--out", expanduser(given["out"]), "--workers", given["workers"]]
    name = "build_dataset"
    return [ExecuteProcess(cmd=command + flags, output="screen", name=name, on_exit=ends_with(name))]
