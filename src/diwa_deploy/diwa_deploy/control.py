"""The control loop: observe, decide, limit, command. The same one evaluates policies and drives the arm."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from diwa_data.motion import SafetyFilter
from diwa_data.robot import Observation, Robot

OPEN_WIDTH = 0.07
"""Metres between fingers that count as open where the last command is not known; else the gripper is kept closed."""


class Decision(Protocol):
    """What an agent answers to an observation."""

    @property
    def action(self) -> np.ndarray:
        """(7,) raw action."""

    @property
    def success_probability(self) -> float:
        """Of the skill being done, by the classifier, at this observation."""


class Agent(Protocol):
    """A policy with its filter; `diwa_learning.agent.Agent` is one."""

    def reset(self, seed: int) -> None:
        """Forget the past; `seed` fixes all later sampling."""

    def act(self, observation: Observation, executed: np.ndarray) -> Decision:
        """Decide after `executed` (7,), the action that led to `observation`."""


class Stopped(Exception):
    """Raised by a robot that cannot go on: by `observe` or `command`, with the reason as its text."""


@dataclass(frozen=True)
class SuccessRule:
    """When the classifier ends a skill."""

    threshold: float
    """Success probability that counts."""
    ticks: int = 3
    """Consecutive ticks at or above the threshold."""


@dataclass(frozen=True)
class Tick:
    """What happened in one control tick."""

    action: np.ndarray
    """(7,) float32: the action that was commanded, after step, box and tilt limits."""
    success_probability: float
    """The classifier's, before the action."""
    interventions: tuple[str, ...]
    """Names of the safety limits that changed the action."""
    latency: float
    """Seconds from the observation to the command that answers it."""


@dataclass(frozen=True)
class ControlResult:
    """A skill's execution: why it ended, and every tick of it."""

    reason: str
    """`success`, `max_steps`, or what the stop callback or the robot (`Stopped`) said."""
    ticks: list[Tick]

    @property
    def steps(self) -> int:
        """Control ticks executed."""
        return len(self.ticks)

    @property
    def interventions(self) -> Counter[str]:
        """How many ticks each safety limit intervened in."""
        return Counter(name for tick in self.ticks for name in tick.interventions)


def control_loop(
    robot: Robot,
    agent: Agent,
    safety: SafetyFilter,
    max_steps: int,
    seed: int = 0,
    success: SuccessRule | None = None,
    on_tick: Callable[[Observation, Tick], None] | None = None,
    stop: Callable[[], str | None] | None = None,
) -> ControlResult:
    """Run the agent for at most `max_steps` ticks.

    Ends with `success` when the rule holds (None: the classifier ends nothing), or with the reason that `stop`
    returns or the robot raises. After every command `on_tick` gets its observation and record, then `stop` is asked.
    """
    ticks: list[Tick] = []
    try:
        agent.reset(seed)
        first = robot.observe()
        gripper = 1.0 if first.gripper_width > OPEN_WIDTH else -1.0  # what it holds is not dropped by an action of NaN
        executed = safety.reset(first.target, gripper)
        sure = 0
        while len(ticks) < max_steps:
            observation, started = robot.observe(), time.perf_counter()
            executed = safety.executed(observation.target) if ticks else executed
            decision = agent.act(observation, executed)
            command = safety.step(decision.action, observation.target)
            latency = time.perf_counter() - started
            robot.command(command.goal, command.gripper)

            ticks.append(Tick(command.action, decision.success_probability, command.interventions, latency))
            if on_tick:
                on_tick(observation, ticks[-1])
            sure = sure + 1 if success and decision.success_probability >= success.threshold else 0
            if success and sure >= success.ticks:
                return ControlResult("success", ticks)
            if stop and (reason := stop()):
                return ControlResult(reason, ticks)
    except Stopped as error:
        return ControlResult(str(error), ticks)
    return ControlResult("max_steps", ticks)
