"""Start states of CALVIN's table: those of annotated segments, or drawn with a skill's furniture in its pre-state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diwa_data.calvin.format import frame_path, read_annotations, read_frame
from diwa_data.errors import DiwaError
from diwa_data.skills import CALVIN_DRAWER_OPEN, CALVIN_SLIDER_LEFT, GOALS, SKILLS, require_skill
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


@dataclass(frozen=True, eq=False)
class CalvinStart:
    """What `reset` of CALVIN's environment takes."""

    robot: np.ndarray
    """(15,) robot_obs; the joint angles and the gripper width count."""
    scene: np.ndarray
    """(24,) scene_obs."""


def annotated_starts(folder: Path, skill: str) -> list[CalvinStart]:
    """First frames of all segments of a CALVIN folder in which `skill` was recognised, in their order there."""
    stretches = [each.stretch for each in read_annotations(folder) if each.task == require_skill(skill)]
    if not stretches:
        raise DiwaError(f"{folder} has no annotated segment of {skill}: choose another folder")
    frames = [read_frame(frame_path(folder, stretch.first)) for stretch in stretches]
    return [CalvinStart(frame.robot.astype(float), frame.scene.astype(float)) for frame in frames]


def drawn_start(skill: str, seed: int, spread: float) -> CalvinStart:
    """The skill's furniture in its pre-state, the rest and the blocks at random; same arguments, same start.

    The arm's joints lie within `spread` rad of `ARM_HOME`.
    """
    if seed < 0:
        raise DiwaError(f"seed {seed} must not be negative")
    rng = np.random.default_rng((seed, SKILLS.index(require_skill(skill))))
    ends = {"slider": CALVIN_SLIDER_LEFT, "drawer": CALVIN_DRAWER_OPEN, "bulb": 1.0, "led": 1.0}
    state = {name: end * float(rng.integers(2)) for name, end in ends.items()}
    goal = GOALS[skill]
    state[goal.quantity] = 0.0 if goal.change > 0 else ends[goal.quantity]
    state["switch"] = SWITCH_ON * state["bulb"]
    places = [*rng.permutation(ON_TABLE), IN_CABINET[rng.integers(2)]]
    for colour, place in zip(rng.permutation(["red", "blue", "pink"]), places, strict=True):
        state |= dict(zip((f"{colour}_x", f"{colour}_y", f"{colour}_z"), place, strict=True))
        state[f"{colour}_rz"] = rng.uniform(*BLOCK_YAW)
    robot = np.zeros(15)
    robot[6], robot[7:14], robot[14] = GRIPPER_OPEN, ARM_HOME + rng.uniform(-spread, spread, 7), 1.0
    return CalvinStart(robot, np.array([state.get(name, 0.0) for name in CALVIN.scene_state]))
