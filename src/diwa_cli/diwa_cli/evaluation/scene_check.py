"""Which furniture and lamps a picture of the simulated table shows: what a world model dreams against the truth.

A quantity is read by drawing the table with it at several values, as the first camera sees it: that whose drawing is
nearest to the picture, where the drawings differ, is what the picture shows. A picture that lies between two drawings,
such as a blurred one, shows neither. Nothing is learned, and no model is asked about its own picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diwa_data.pose import Pose
from diwa_sim.starts import DRAWER_OPEN, SLIDER_LEFT
from diwa_sim.table import SimConfig, SimulatedPanda

LAMPS = ("bulb", "led")
VALUES = {
    "drawer": np.linspace(0, DRAWER_OPEN, 5),
    "slider": np.linspace(0, SLIDER_LEFT, 5),
    **{lamp: np.array([0.0, 1.0]) for lamp in LAMPS},
}
"""Quantity -> values at which it is drawn: metres; a lamp is 0 or 1."""
WRONG = 0.05
"""Metres by which two lengths may differ and still count as the same."""
VISIBLE, DISTINCT = 6, 40
"""A quantity is seen if its drawings differ in so many pixels, in each by this sum over the colours."""
CLEARLY = 1 / 3
"""Share of the difference between two drawings by which a picture must be nearer to one of them to show it: a blend of
both shows the one that makes up two thirds of it.
"""

Reading = dict[str, float | None]
"""Quantity -> value that a picture shows; None where that is unclear: too blurred to tell, or behind the arm."""


class SceneReader:
    """Draws the simulated table to read pictures of it."""

    def __init__(self, config: SimConfig):
        self._robot = SimulatedPanda(config)
        self._names, self._camera = self._robot.spec.scene_state, self._robot.spec.cameras[0]

    def read(self, pictures: np.ndarray, states: np.ndarray, scenes: np.ndarray, follow: bool = False) -> list[Reading]:
        """The scene that each of T pictures (T, H, W, 3) of the first camera shows.

        Robot states (T, 10) say where the arm is, scene states (T, N) where all else is that is not being read.
        With `follow` only the first scene is known, and each reading is what the next one begins with.
        """
        scene, found = np.array(scenes[0]), []
        for t in range(len(states)):
            scene = scene if follow else np.array(scenes[t])
            known = self._draw(states[t], scene)
            shown = {name: self._nearest(name, pictures[t], states[t], np.array(scene), known) for name in VALUES}
            for name, value in shown.items():
                if value is not None:
                    scene[self._names.index(name)] = value
            found.append(shown)
        return found

    def close(self) -> None:
        """Free the simulator."""
        self._robot.close()

    def _nearest(
        self, name: str, picture: np.ndarray, state: np.ndarray, scene: np.ndarray, known: np.ndarray
    ) -> float | None:
        """The value that a picture (H, W, 3) shows: that of the scene, which is drawn in `known`, or another one.

        None unless its drawing is clearly nearer to the picture than that of every value that counts as different.
        """
        column, drawings = self._names.index(name), [known]
        values = [float(scene[column]), *VALUES[name]]
        for value in VALUES[name]:
            scene[column] = value
            drawings.append(self._draw(state, scene))
        drawn = np.stack(drawings)  # (V, H, W, 3)
        differ = np.ptp(drawn, axis=0).sum(-1) > DISTINCT
        if differ.sum() < VISIBLE:
            return None
        errors = np.abs(drawn[:, differ] - picture[differ]).mean((1, 2))
        best = errors.argmin()
        others = [n for n, value in enumerate(values) if _differ(name, values[best], value)]
        contrast = np.abs(drawn[others][:, differ] - drawn[best, differ]).mean((1, 2))
        return float(values[best]) if (errors[others] - errors[best] > CLEARLY * contrast).all() else None

    def _draw(self, state: np.ndarray, scene: np.ndarray) -> np.ndarray:
        self._robot.show(Pose.from_state(state), float(state[9]) if len(state) > 9 else 0.0, scene)
        return self._robot.images((self._camera.name,), self._camera.size)[self._camera.name].astype(np.float32)


def differences(shown: Sequence[Reading], truth: np.ndarray, names: Sequence[str]) -> list[dict[str, tuple[str, str]]]:
    """Quantity -> the true value and the one that is shown, in words, where they differ: of each of T readings.

    The scene state is one for all readings or (T, N).
    """
    found = []
    for read, true in zip(shown, np.broadcast_to(truth, (len(shown), len(names))), strict=True):
        both = {name: (float(true[names.index(name)]), value) for name, value in read.items() if value is not None}
        wrong = {name: pair for name, pair in both.items() if _differ(name, *pair)}
        found.append({name: (_said(name, pair[0]), _said(name, pair[1])) for name, pair in wrong.items()})
    return found


def unclear(read: Reading) -> list[str]:
    """The quantities that a picture does not show."""
    return [name for name, value in read.items() if value is None]


def shares(shown: Sequence[Reading], truth: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Quantity -> shares of T readings that are `right`, `wrong` and `unclear`; scene states (T, N)."""
    wrong, missed, found = differences(shown, truth, names), [unclear(read) for read in shown], {}
    for name in VALUES:
        parts = [sum(name in each for each in some) / len(shown) for some in (wrong, missed)]
        found[name] = {"right": 1 - sum(parts), "wrong": parts[0], "unclear": parts[1]}
    return found


def agreement(wrong: Mapping[str, tuple[str, str]], missed: Sequence[str], same: str) -> str:
    """That a picture shows all it shows `same` as is known, in words; empty if it does not, or shows nothing."""
    if wrong or len(missed) == len(VALUES):
        return ""
    return f"the rest {same}" if missed else f"furniture and lamps {same}"


def remark(wrong: Mapping[str, tuple[str, str]], missed: Sequence[str], changed: bool = False) -> str:
    """A few words about a picture: what it shows wrong or, since the start, `changed`, and what is unclear."""
    shown = " · ".join(f"{name} {' → '.join(both) if changed else both[1]}" for name, both in wrong.items())
    said = [shown if changed else f"wrong: {shown}"] if wrong else []
    if missed:
        said.append(f"unclear: {', '.join(missed)}")
    return "; ".join(said)


def stated(scene: np.ndarray, names: Sequence[str]) -> str:
    """The quantities that a scene state (N,) knows of those that are read in pictures, in words."""
    return " · ".join(f"{name} {_said(name, float(scene[names.index(name)]))}" for name in VALUES if name in names)


def _differ(name: str, one: float, other: float) -> bool:
    return (one > 0.5) != (other > 0.5) if name in LAMPS else abs(one - other) > WRONG


def _said(name: str, value: float) -> str:
    return ("on" if value > 0.5 else "off") if name in LAMPS else f"{round(1000 * value)} mm"
