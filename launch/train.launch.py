"""Train one stage: `ros2 launch diwa_learning train.launch.py stage:=world_model dataset:=play.h5 [preset:=paper]`."""

import shlex
from pathlib import Path
from typing import Any

import yaml
from launch import LaunchDescription
from launch_ros.actions import Node

from diwa_data.config import DEFAULT_PRESET, RENAMED, load_parameters, presets
from diwa_data.errors import DiwaError
from diwa_data.ros.launching import NAMESPACE, argument, ends_with, launch_description

STAGES = ("world_model", "ensemble", "policy", "reward", "finetune")
ARGUMENTS = (
    argument("stage", None, "Stage to train.", (*STAGES, *RENAMED)),
    argument("dataset", None, "HDF5 file; world_model and ensemble take several, separated by commas."),
    argument("preset", DEFAULT_PRESET, "Preset of settings.", presets()),
    argument("config", "", "Your own settings (.yaml); they override the preset."),
    argument("set", "", "Settings that override both, such as 'policy.epochs:=100 policy.seed:=1'."),
    argument("out", "", "Checkpoint folder; an interrupted training continues."),
    argument("skill", "", "Skill that the demonstrations must show; empty = whichever they show."),
    argument("attempts", "", "HDF5 of demonstrations; the world model learns from their failed attempts."),
    argument("play", "", "HDF5 with play (reward, finetune)."),
    argument("world_model", "", "Checkpoint of stage world_model."),
    argument("policy", "", "Checkpoint of stage policy (finetune)."),
    argument("reward", "", "Checkpoint of stage reward (finetune)."),
    argument("ensemble", "", "Checkpoint of stage ensemble (finetune)."),
    argument("guard", "", "Deprecated: ensemble."),
    NAMESPACE,
)
PATIENCE = "120"
"""Seconds that a step and its saving may take after Ctrl-C before the node is told to drop it."""


def generate_launch_description() -> LaunchDescription:
    """One node, with which the launch ends. Empty folders: `$DIWA_HOME/runs`, see docs/ros2.md."""
    return launch_description(ARGUMENTS, _actions)


def _actions(given: dict[str, str]) -> list[Node]:
    names = ("stage", "preset", "dataset", "out", "skill", "attempts", "play")
    settings: dict[str, Any] = {name: given[name] for name in names}
    checkpoints = ("world_model", "policy", "reward", "ensemble", *RENAMED)
    settings |= {f"checkpoints.{name}": given[name] for name in checkpoints if given[name]}
    return [
        Node(
            package="diwa_learning",
            executable="train_node",
            name="train",
            namespace=given["namespace"] or "/",
            parameters=[*_files(given["config"]), settings | _single(given["set"])],
            output="screen",
            sigterm_timeout=PATIENCE,
            on_exit=ends_with("train"),
        )
    ]


def _files(config: str) -> list[str]:
    """The parameter file, if there is one; says what is wrong with it."""
    if not config:
        return []
    path = Path(config).expanduser()
    if not path.is_file():
        raise DiwaError(f"no configuration file {path}; the shipped ones are named by preset:=")
    load_parameters(path)
    return [str(path)]


def _single(text: str) -> dict[str, Any]:
    """`name:=value`, separated by spaces, as parameters."""
    parameters = {}
    for word in shlex.split(text):
        name, sign, value = word.partition(":=")
        if not sign:
            raise DiwaError(f"set:={text!r}: {name!r} is not of the form name:=value")
        parameters[name] = yaml.safe_load(value)
    return parameters
