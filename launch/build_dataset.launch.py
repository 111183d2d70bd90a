"""Bags -> dataset: `ros2 launch diwa_data build_dataset.launch.py bags:=FOLDER out:=D.h5`."""

import shlex
import sys
from os.path import expanduser

from launch import LaunchDescription
from launch.actions import ExecuteProcess

from diwa_data.ros.launching import argument, ends_with, launch_description

ARGUMENTS = (
    argument("bags", None, "Bags, or folders of bags, separated by spaces."),
    argument("out", None, "HDF5 file to write; an interrupted build continues."),
    argument("mapping", "", "YAML file that maps another lab's topics to ours; empty = our own bags."),
    argument("workers", "2", "Number of processes."),
)


def generate_launch_description() -> LaunchDescription:
    """`diwa build-dataset`, which shows its progress and ends the launch when it is done."""
    return launch_description(ARGUMENTS, _actions)


def _actions(given: dict[str, str]) -> list[ExecuteProcess]:
    bags = [expanduser(bag) for bag in shlex.split(given["bags"])]
    command = [sys.executable, "-m", "diwa_cli.main", "build-dataset", *bags]
    flags = ["--out", expanduser(given["out"]), "--workers", given["workers"]]
    flags += ["--mapping", expanduser(given["mapping"])] if given["mapping"] else []
    name = "build_dataset"
    return [ExecuteProcess(cmd=command + flags, output="screen", name=name, on_exit=ends_with(name))]
