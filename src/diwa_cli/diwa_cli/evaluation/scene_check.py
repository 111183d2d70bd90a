"""Which furniture and lamps a picture of the simulated table shows: what a world model dreams against the truth.

A quantity is read by drawing the table with it at several values, as the first camera sees it: that whose drawing is
nearest to the picture, where the drawings differ, is what the picture shows. Nothing is learned, and no model is asked
about its own picture.
"""

from __future__ import annotations

from collections.abc import Sequence

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
"""Metres by which a length may be off before it is called wrong."""
VISIBLE, DISTINCT = 6, 40
"""A quantity is seen if its drawings differ in so many pixels, in each by this sum over the colours."""
CLEARLY = 0.1
"""Share of the difference between two drawings by which a picture must be nearer to one than to what is known."""


class SceneReader:
    """Draws the simulated table to read pictures of it."""

    def __init__(self, config: SimConfig):
        self._robot = SimulatedPanda(config)
        self._names, self._camera = self._robot.spec.scene_state, self._robot.spec.cameras[0]

    def read(
        self, pictures: np.ndarray, states: np.ndarray, scenes: np.ndarray, follow: bool = False
    ) -> list[dict[str, float]]:
        """Quantity -> value, of each of T pictures (T, H, W, 3) of the first camera.

        Robot states (T, 10) say where the arm is, scene states (T, N) where all else is that is not being read.
        With `follow` only the first scene is known, and each reading is what the next one begins with.
        """
        scene, found = np.array(scenes[0]), []
        for t in range(len(states)):
            scene = scene if follow else np.array(scenes[t])
            known = self._draw(states[t], scene)
            shown = {name: self._nearest(name, pictures[t], states[t], np.array(scene), known) for name in VALUES}
            scene[[self._names.index(name) for name in shown]] = list(shown.values())
            found.append(shown)
        return found

    def close(self) -> None:
        """Free the simulator."""
        self._robot.close()

    def _nearest(
        self, name: str, picture: np.ndarray, state: np.ndarray, scene: np.ndarray, known: np.ndarray
    ) -> float:
        """The value that a picture (H, W, 3) shows: that of the scene, which is drawn in `known`, unless the drawing of
        another one is clearly nearer.
        """
        column, drawings = self._names.index(name), [known]
        values = [float(scene[column]), *VALUES[name]]
        for value in VALUES[name]:
            scene[column] = value
            drawings.append(self._draw(state, scene))
        drawn = np.stack(drawings)  # (V, H, W, 3)
        differ = np.ptp(drawn, axis=0).sum(-1) > DISTINCT
        if differ.sum() < VISIBLE:
            return values[0]
        errors = np.abs(drawn[:, differ] - picture[differ]).mean((1, 2))
        best = errors.argmin()
        contrast = np.abs(drawn[best, differ] - drawn[0, differ]).mean()
        return float(values[best] if errors[0] - errors[best] > CLEARLY * contrast else values[0])

    def _draw(self, state: np.ndarray, scene: np.ndarray) -> np.ndarray:
        self._robot.show(Pose.from_state(state), float(state[9]) if len(state) > 9 else 0.0, scene)
        return self._robot.images((self._camera.name,), self._camera.size)[self._camera.name].astype(np.float32)


def differences(
    shown: Sequence[dict[str, float]], truth: np.ndarray, names: Sequence[str], between: str
) -> list[dict[str, str]]:
    """Quantity -> how each of T readings differs from the scene state, one for all frames or (T, N).

    `between` stands between the true value and the one that is shown.
    """
    found = []
    for read, true in zip(shown, np.broadcast_to(truth, (len(shown), len(names))), strict=True):
        known = {name: float(true[names.index(name)]) for name in read}
        wrong = {name: (known[name], value) for name, value in read.items() if _differ(name, known[name], value)}
        found.append({name: between.join(_said(name, value) for value in both) for name, both in wrong.items()})
    return found


def stated(scene: np.ndarray, names: Sequence[str]) -> str:
    """The quantities that a scene state (N,) knows of those that are read in pictures, in words."""
    return " · ".join(f"{name} {_said(name, float(scene[names.index(name)]))}" for name in VALUES if name in names)


def _differ(name: str, one: float, other: float) -> bool:
    return (one > 0.5) != (other > 0.5) if name in LAMPS else abs(one - other) > WRONG


def _said(name: str, value: float) -> str:
    return ("on" if value > 0.5 else "off") if name in LAMPS else f"{1000 * value:.0f} mm"
