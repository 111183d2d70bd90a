"""A skill is a name, and may have a goal: the change of one number of the scene state that makes it done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


RESERVED = ("play", "all", "world_model", "ensemble", "guard")
"""Names that mean something else where a skill may stand."""


def skill_name(name: str) -> str:
    """`name`, if it can name a skill: such names are folders, launch arguments and keys of files alike.

    Raises `DiwaError` for any other.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DiwaError(
            f"{str(name)[:60]!r} cannot name a skill: use lowercase letters, digits and _, beginning with a letter, "
            "40 characters at most, such as pick_cup"
        )
    if name in RESERVED:
        raise DiwaError(f"{name!r} cannot name a skill: it means something else ({', '.join(RESERVED)} do)")
    return name


@dataclass(frozen=True)
class Goal:
    """The change of one number of the scene state that makes a skill done."""

    quantity: str
    """Its name in `spec.scene_state`."""
    before: float
    """Its value at the far end, from which the skill leads away: metres, or 0 and 1 for lights."""
    change: float
    """Least change that counts, signed. Of a light it is half: true ones are 0 or 1, decoded ones between."""

    def margin(self, now: Any, start: Any = None) -> Any:
        """By how much the change from `start` to `now` exceeds the least one; >= 0 is done.

        Numbers, arrays or tensors of the quantity, of any shape. Without `start` the skill began at the far end.
        """
        moved = now - (self.before if start is None else start)
        return (moved if self.change > 0 else -moved) - abs(self.change)

    def achieved(self, names: Sequence[str], start: np.ndarray, now: np.ndarray) -> np.ndarray:
        """True where scene states `now` (..., N) are done, having begun at `start` (N,); `names` are those of the N."""
        i = names.index(self.quantity)
        return self.margin(now[..., i], start[i]) >= 0

    def label(self, skill: str) -> dict[str, Any]:
        """The label of an episode that says when `skill` is done, for `recorded_goal`."""
        return {"goal": {"skill": skill, **asdict(self)}}


def recorded_goal(labels: Mapping[str, Any], skill: str, where: str) -> Goal | None:
    """The goal that an episode's `labels` give for `skill`. Raises `DiwaError` naming `where` if it is damaged."""
    label = labels.get("goal")
    if not isinstance(label, dict) or label.get("skill") != skill:
        return None
    return from_mapping(Goal, {key: value for key, value in label.items() if key != "skill"}, f"{where}: goal")
