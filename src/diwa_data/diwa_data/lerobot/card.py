"""`diwa inspect FOLDER` of a LeRobot dataset: a text card of what there is to map."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from diwa_data.errors import DiwaError
from diwa_data.lerobot.convert import choose_source, some_tasks
from diwa_data.lerobot.folder import LeRobotFolder, read_lerobot
from diwa_data.lerobot.mapping import OWN, shipped
from diwa_data.lerobot.poses import JOINTS_ONLY, joint_only


def lerobot_card(path: Path) -> str:
    """The card of a folder. Raises `DiwaError` if it is damaged."""
    folder = read_lerobot(path)
    frames = sum(episode.length for episode in folder.episodes)
    tasks = Counter(episode.task for episode in folder.episodes)
    lines = [
        f"LeRobot dataset {path}: format {folder.version}, robot {folder.robot or 'unknown'}; {len(folder.episodes)} "
        f"episodes, {frames} frames at {folder.fps:g} Hz ({frames / folder.fps / 60:.1f} minutes)",
        f"tasks: {len(tasks)}, most often {some_tasks(tasks)}",
        "features:",
        *(f"  {feature}" for feature in folder.features.values()),
    ]
    return "\n".join([*lines, _advice(folder)])


def _advice(folder: LeRobotFolder) -> str:
    fitting = [name for name in [OWN, *shipped()] if _fits(folder, name)]
    if fitting:
        return f"mappings that fit: {', '.join(fitting)}"
    if joint_only(folder.features):
        return f"it cannot be imported. {JOINTS_ONLY}"
    return "no shipped mapping fits: --suggest-mapping writes a first one"


def _fits(folder: LeRobotFolder, name: str) -> bool:
    try:
        choose_source(folder, name)
    except DiwaError:
        return False
    return True
