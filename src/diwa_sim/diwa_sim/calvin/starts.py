"""Start states of CALVIN's scene: those of its data's annotated segments, or drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diwa_data.calvin.format import Annotation, frame_path, read_annotations, read_frame
from diwa_data.calvin.tasks import DRAWER_OPEN, GOALS, SLIDER_LEFT, require_task
from diwa_data.errors import DiwaError
from diwa_data.spec import CALVIN

ARM_HOME = np.array([-1.21779206, 1.03987646, 2.11978261, -2.34205014, -0.87015947, 1.64119353, 0.55344866])
"""Joint angles in which scene D begins, rad."""
GRIPPER_OPEN = 0.08
"""Metres between the fingers."""
SWITCH_ON = 0.088
"""End of the switch's travel at which the bulb is lit; the other is 0."""
ON_TABLE = np.array([[0.05, -0.12, 0.46], [0.23, -0.12, 0.46]])
IN_CABINET = np.array([[-0.241, 0.092, 0.461], [0.070, 0.092, 0.461]])
"""Places of blocks, metres: left and right of the table, left and right behind the slider."""
BLOCK_YAW = (3 / 8 * np.pi, 5 / 8 * np.pi)
"""Range of the blocks' rotation about the vertical, rad."""
BLOCKS = ("red", "blue", "pink")


@dataclass(frozen=True, eq=False)
class CalvinStart:
    """One start state, as `reset` of CALVIN's environment takes it."""

    robot: np.ndarray
    """(15,) robot_obs; the joint angles and the gripper width count."""
    scene: np.ndarray
    """(24,) scene_obs."""


def annotated_segments(folder: Path, skill: str) -> list[Annotation]:
    """All segments of a CALVIN folder in which `skill` was recognised, in their order there.

    Raises `DiwaError` where there are none, with a way out.
    """
    try:
        segments = [each for each in read_annotations(folder) if each.task == require_task(skill)]
    except DiwaError as error:
        raise DiwaError(f"{error}; or leave calvin.data out: starts are drawn by seed") from error
    if not segments:
        raise DiwaError(
            f"{folder} has no annotated segment of {skill}: choose another folder, or leave calvin.data out: starts "
            "are drawn by seed"
        )
    return segments


def annotated_starts(folder: Path, skill: str) -> list[CalvinStart]:
    """First frames of the `annotated_segments` of a CALVIN folder."""
    segments = [each.segment for each in annotated_segments(folder, skill)]
    frames = [read_frame(frame_path(folder, segment.first)) for segment in segments]
    return [CalvinStart(frame.robot.astype(float), frame.scene.astype(float)) for frame in frames]


def drawn_start(skill: str, seed: int, spread: float) -> CalvinStart:
    """A start of `skill`, or of play when it is empty; same arguments, same start."""
    if seed < 0:
        raise DiwaError(f"seed {seed} must not be negative")
    stream = list(GOALS).index(require_task(skill)) if skill else len(GOALS)
    return any_start(skill, np.random.default_rng((seed, stream)), spread)


def any_start(skill: str, rng: np.random.Generator, spread: float) -> CalvinStart:
    """The skill's furniture in its pre-state, the rest and the blocks at random; without a skill all of it.

    The arm's joints lie within `spread` rad of `ARM_HOME`.
    """
    ends = {"slider": SLIDER_LEFT, "drawer": DRAWER_OPEN, "bulb": 1.0, "led": 1.0}
    state = {name: end * float(rng.integers(2)) for name, end in ends.items()}
    if skill:
        goal = GOALS[skill]
        state[goal.quantity] = 0.0 if goal.change > 0 else ends[goal.quantity]
    state["switch"] = SWITCH_ON * state["bulb"]
    places = [*rng.permutation(ON_TABLE), IN_CABINET[rng.integers(2)]]
    for colour, place in zip(rng.permutation(BLOCKS), places, strict=True):
        state |= dict(zip((f"{colour}_x", f"{colour}_y", f"{colour}_z"), place, strict=True))
        state[f"{colour}_rz"] = rng.uniform(*BLOCK_YAW)
    robot = np.zeros(15)
    robot[6], robot[7:14], robot[14] = GRIPPER_OPEN, ARM_HOME + rng.uniform(-spread, spread, 7), 1.0
    return CalvinStart(robot, np.array([state.get(name, 0.0) for name in CALVIN.scene_state]))
