"""Sequences of skills at the table in CALVIN's manner: each is possible in the scene that those before it leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.skills import Goal
from diwa_sim.starts import Start, StartConfig, any_start
from diwa_sim.tasks import PAPER_TASKS, TASKS, sample_start

_STREAM = len(PAPER_TASKS) + 1  # tells these random numbers from those of the tasks' own starts
_DRAWS = 1000


@dataclass(frozen=True, eq=False)
class Chain:
    """Skills in an order that the scene allows, and the start from which it does."""

    skills: tuple[str, ...]
    start: Start


def draw_chain(seed: int, skills: Sequence[str], length: int, config: StartConfig) -> Chain:
    """`length` different ones of `skills`, in an order that is possible from a random start; it is decided by `seed`.

    Drawer, slider and lights are each at either end with even odds. Raises `DiwaError` if a skill is none of the
    paper's, or so many cannot follow each other.
    """
    if unknown := [skill for skill in skills if skill not in PAPER_TASKS]:
        raise DiwaError(f"{unknown[0]!r} cannot be part of a sequence: choose from {', '.join(PAPER_TASKS)}")
    rng = np.random.default_rng((seed, _STREAM))
    for _ in range(_DRAWS):
        scene = {quantity: bool(rng.random() < 0.5) for quantity in _QUANTITIES}
        order, now = list[str](), dict(scene)
        while possible := [skill for skill in skills if skill not in order and _begins(skill, now)]:
            order.append(str(rng.choice(possible)))
            now[_goal(order[-1]).quantity] ^= True
            if len(order) == length:
                return Chain(tuple(order), any_start(rng, config, **scene))
    raise DiwaError(f"no {length} different skills of {', '.join(skills)} can follow each other: choose fewer")


def chain_start(skills: Sequence[str], seed: int, config: StartConfig) -> Start | None:
    """A start from which the first of `skills` that moves a thing can, for each thing; all else is at random.

    With one skill it is that skill's start from the same `seed`. None if one of them is none of the paper's.
    """
    if not skills or any(skill not in PAPER_TASKS for skill in skills):
        return None
    if len(set(skills)) == 1:
        return sample_start(skills[0], seed, config)
    scene = {_goal(skill).quantity: _goal(skill).before > 0 for skill in reversed(skills)}
    return any_start(np.random.default_rng((seed, _STREAM)), config, **scene)


def _goal(skill: str) -> Goal:
    goal = TASKS[skill].goal
    assert isinstance(goal, Goal)
    return goal


_QUANTITIES = tuple(dict.fromkeys(_goal(skill).quantity for skill in PAPER_TASKS))
"""The things that the skills move, by the names that `any_start` takes."""


def _begins(skill: str, scene: dict[str, bool]) -> bool:
    """The thing that `skill` moves is at the end from which it leads away; True is the far end, or on."""
    goal = _goal(skill)
    return scene[goal.quantity] == (goal.before > 0)
