"""The control loop: observe, decide, limit, command. The same one evaluates policies and drives the arm.

A `SkillRunner` is a skill that is loaded and ready for it; the checks say beforehand whether machine and bundle can.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diwa_data.errors import DiwaError
from diwa_data.files import free_mb
from diwa_data.limits import MotionLimits
from diwa_data.motion import SafetyFilter
from diwa_data.pose import Pose
from diwa_data.robot import Observation, Robot
from diwa_data.spec import Spec
from diwa_deploy.bundle import CARD, StartRegion, find_bundle
from diwa_deploy.checks import Check
from diwa_deploy.remote import RemoteAgent
from diwa_learning.agent import Agent, load_agent
from diwa_learning.onnx_agent import Runtime, in_runtime
from diwa_learning.reward.done import run_length

OPEN_WIDTH = 0.07
"""Metres between fingers that count as open where the last command is not known; else the gripper is kept closed."""


class Stopped(Exception):
    """Raised by a robot that cannot go on: by `observe` or `command`, with the reason as its text."""


@dataclass(frozen=True)
class Tick:
    """Record of one control tick."""

    action: np.ndarray
    """(A,) float32: the action that was commanded, after step, box and tilt limits."""
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
    agent: Agent | RemoteAgent,
    safety: SafetyFilter,
    max_steps: int,
    seed: int = 0,
    success_ticks: int = 0,
    on_tick: Callable[[Observation, Tick], None] | None = None,
    stop: Callable[[], str | None] | None = None,
) -> ControlResult:
    """Run the agent for at most `max_steps` ticks.

    Ends with `success` once the classifier has been sure for `success_ticks` ticks running (with 0 never), or with the
    reason that `stop` returns or the robot raises. After every command `on_tick` gets its observation and
    record, then `stop` is asked.
    """
    ticks: list[Tick] = []
    try:
        agent.reset(seed)
        first = robot.observe()
        width = first.gripper_width
        gripper = (
            1.0 if width is None or width > OPEN_WIDTH else -1.0
        )  # what it holds is not dropped by an action of NaN
        executed = safety.reset(first.target, gripper)
        running = 0
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
            running = run_length(decision.success_probability > agent.success_threshold, running)
            if 0 < success_ticks <= running:
                return ControlResult("success", ticks)
            if stop and (reason := stop()):
                return ControlResult(reason, ticks)
    except Stopped as error:
        return ControlResult(str(error), ticks)
    return ControlResult("max_steps", ticks)


AS_TRAINED = -1
"""Success ticks that stand for those that the classifier was made with."""
THREADS = 1
"""Threads of a decision. Several wait for each other at every layer: one that is kept off its core delays them all."""


@contextmanager
def deciding_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads, as before afterwards. Call it in the thread that decides."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_WARM_UP_TICKS = 8  # two chunks: every path of a decision


class SkillRunner:
    """World model, policy, classifier and safety limits of one skill on one robot."""

    def __init__(
        self,
        skill: str,
        checkpoint: Path | None,
        spec: Spec,
        limits: MotionLimits,
        policy: str = "finetuned",
        threads: int = THREADS,
        ddim_steps: int = 0,
        runtime: Runtime = "torch",
        server: str = "",
    ):
        """`checkpoint`: folder of the bundle; None takes the installed one. `policy`: finetuned or base.

        `threads`: those of a decision. `ddim_steps`: as of `Agent`. `runtime`: as of `in_runtime`. `server`: address of
        `diwa serve-policy` on another machine, which has the bundle and decides. Raises `DiwaError` if there is no
        bundle, or it is of another contract.
        """
        self._agent: Agent | RemoteAgent
        self.start: StartRegion | None
        """Where its demonstrations began; None if the bundle does not say."""
        if server:
            self._agent = remote = RemoteAgent(server, skill, spec)
            self.start, self.runtime = remote.start, remote.runtime
        else:
            bundle = find_bundle(skill, checkpoint)
            self.start = StartRegion.from_card(bundle.card, str(bundle.path / CARD))
            agent = load_agent(bundle.world_model, bundle.policy_named(policy), bundle.reward, spec, ddim_steps)
            self._agent, self.runtime = in_runtime(agent, runtime, threads)
        self.limits = limits
        """Limits of speed and place, in force from the next run on."""
        self._spec, self._threads = spec, threads

    @property
    def about_limits(self) -> str:
        """As `MotionLimits.compared`, of those in force and those of the recordings that the skill was learned from."""
        agent = self._agent
        recorded = agent.limits if isinstance(agent, RemoteAgent) else agent.world_model.spec.limits
        return self.limits.compared(recorded)

    def warm_up(self) -> float:
        """Decide on black images a few times; returns the seconds of the last decision."""
        images = {camera.name: np.zeros((*camera.record_size, 3), np.uint8) for camera in self._spec.cameras}
        pose = Pose.from_quaternion(np.array([0.4, 0.0, 0.3]), np.array([1.0, 0.0, 0.0, 0.0]))  # gripper down
        observation = Observation(images, pose, pose, 0.08, 0.0, 0.0)
        with deciding_threads(self._threads):
            for _ in range(_WARM_UP_TICKS):
                started = time.perf_counter()
                self._agent.act(observation, self._spec.action.null)
            return time.perf_counter() - started

    def run(
        self,
        robot: Robot,
        max_steps: int,
        seed: int,
        success_ticks: int = AS_TRAINED,
        on_tick: Callable[[Observation, Tick], None] | None = None,
    ) -> ControlResult:
        """Run the skill once; as `control_loop`, with `AS_TRAINED` success ticks as many as the classifier's own."""
        safety, own = SafetyFilter(self.limits, self._spec), self._agent.success_ticks
        ticks = own if success_ticks == AS_TRAINED else success_ticks
        with deciding_threads(self._threads):
            return control_loop(robot, self._agent, safety, max_steps, seed, ticks, on_tick)


NEEDED_MB = 1000.0
"""Free disk, megabytes."""


def check_machine() -> Iterator[Check]:
    """GPU and disk; skills of the paper's size run on two cores."""
    gpu = torch.cuda.is_available()
    yield Check("GPU", True, torch.cuda.get_device_name() if gpu else "none: decisions are made on the CPU")
    free, home = free_mb(Path.home()), Path.home()
    good = free > NEEDED_MB
    yield Check("disk", good, f"{free / 1000:.1f} GB free at {home}" + ("" if good else ": free some"))


def check_bundle(skill: str, checkpoint: Path | None, spec: Spec, limits: MotionLimits) -> Check:
    """The bundle loads for this robot, and decides within half a tick."""
    try:
        runner = SkillRunner(skill, checkpoint, spec, limits)
        seconds = runner.warm_up()
    except DiwaError as error:
        return Check(skill, False, str(error))
    found = f"{1e3 * seconds:.0f} ms a decision"
    if seconds > spec.tick / 2:
        return Check(skill, False, f"{found}, a tick is {1e3 * spec.tick:.0f} ms: end what else runs here")
    return Check(skill, True, f"{found}; {runner.about_limits}" if runner.about_limits else found)
