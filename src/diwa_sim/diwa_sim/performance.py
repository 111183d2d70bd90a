"""One episode of the scripted operator: a demonstration of a skill, or play."""

from __future__ import annotations

import numpy as np

from diwa_data.teleop import ControllerState
from diwa_sim.operator import DT, Habits, Scene, ScriptedOperator
from diwa_sim.plans import demonstration
from diwa_sim.play import play

MAX_DEMONSTRATION = 18.0
"""Seconds after which the operator gives a demonstration up; the slower ones take longer than a policy may."""


class Performance:
    """Reads like a controller, 1/60 s at a time, until it is `over`."""

    def __init__(self, scene: Scene, skill: str, seconds: float, rng: np.random.Generator):
        """`skill`: to demonstrate, or empty for play of `seconds`."""
        habits = Habits.draw(rng) if skill else Habits.at_play(rng)
        plan = demonstration(scene, skill, habits, rng) if skill else play(scene, habits, rng)
        self._operator = ScriptedOperator(scene, plan, habits, rng)
        self._skill, self._marked = skill, False
        self._steps, self._limit = 0, round((MAX_DEMONSTRATION if skill else seconds) / DT)

    @property
    def over(self) -> bool:
        """The plan is through, or the time is up."""
        return self._operator.finished or self._steps >= self._limit

    @property
    def good(self) -> bool:
        """Play always is; a demonstration if it was marked a success and the hand held still, all in time."""
        return not self._skill or (self._marked and self._operator.finished)

    def read(self) -> ControllerState:
        """The controller 1/60 s later."""
        controller = self._operator.read()
        self._steps += 1
        self._marked = self._marked or "success" in controller.events
        return controller
