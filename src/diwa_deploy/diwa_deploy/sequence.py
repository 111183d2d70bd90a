"""Skills one after the other on one robot: the classifier ends each, and a slow move leads to where the next begins.

The move is straight up, across at a safe height and straight down, through the safety filter that policies act through.
Nothing else moves: neither before the first skill nor after the last one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from diwa_data.config import require_at_least
from diwa_data.errors import DiwaError
from diwa_data.interpolator import way
from diwa_data.limits import MotionLimits
from diwa_data.motion import SafetyFilter, outside
from diwa_data.pose import Pose, rotation_distance, scaled_delta
from diwa_data.robot import Observation, Robot
from diwa_data.spec import Spec
from diwa_deploy.bundle import CARD, Bundle, StartRegion, find_bundle
from diwa_deploy.control import AS_TRAINED, THREADS, ControlResult, SkillRunner, Stopped, Tick
from diwa_learning.onnx_agent import Runtime

START_DISTANCE, START_ANGLE = 0.05, 0.2
"""Metres and radians outside of where its demonstrations began up to which a skill may begin."""
SUCCESS, OUT_OF_TIME = "success", "max_steps"
"""Reasons of a `ControlResult`: after the first the next skill follows, after the second it is tried again."""
REST = 2
"""Ticks at the end of a move in which the target comes to rest."""
_SLOWER, _PATIENCE = 1.5, 2.0  # times its shortest duration, and seconds beyond, in which a move must have ended


@dataclass(frozen=True)
class SequenceConfig:
    """Moves between the skills of a sequence, and how often each skill is tried."""

    tries: int = 2
    """Number of tries of a skill. Each but the first begins in the middle of where its demonstrations began."""
    speed: float = 0.1
    """Speed of the hand between two skills, in metres per second."""
    rotation_speed: float = 0.4
    """Rotation speed of the hand between two skills, in radians per second."""
    height: float = 0.0
    """Height above the base at which the fingertips cross, in metres; a hand that is higher stays higher.
    0 = the greatest height at which demonstrations of the next skill began."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "tries")
        for name in ("speed", "rotation_speed"):
            if not 0 < getattr(self, name) < math.inf:
                raise DiwaError(f"{name} is {getattr(self, name)}: it must be positive")
        if not math.isfinite(self.height):
            raise DiwaError(f"height is {self.height}: it must be finite")


@dataclass(frozen=True)
class Place:
    """Where a running sequence is."""

    index: int
    """Position in the sequence, from 0."""
    skill: str
    """Name of the skill there."""
    attempt: int
    """Number of the try, from 0."""
    moving: bool
    """The hand is on its way to where the skill begins."""


@dataclass(frozen=True)
class Part:
    """One skill of a sequence, after its last try."""

    index: int
    """Position in the sequence, from 0."""
    skill: str
    """Its name."""
    reason: str
    """`success`, or why the sequence ends here."""
    tries: tuple[ControlResult, ...]
    """Every try; none where the move to its start did not end well."""
    moving: int
    """Ticks that the hand was moved for, before the tries."""

    @property
    def done(self) -> bool:
        """The classifier ended it."""
        return self.reason == SUCCESS


def find_bundles(skills: Sequence[str], checkpoint: Path | None) -> dict[str, Bundle]:
    """Skill -> its bundle, for each of `skills`: of the folder `checkpoint`, which holds them, or installed if None.

    Raises `DiwaError` if one is missing.
    """
    if checkpoint and (checkpoint / CARD).is_file():
        raise DiwaError(
            f"{checkpoint} is the bundle of one skill: for a sequence, name the folder that holds the bundles"
        )
    return {skill: find_bundle(skill, checkpoint / skill if checkpoint else None) for skill in dict.fromkeys(skills)}


def load_runners(
    bundles: Mapping[str, Bundle],
    spec: Spec,
    limits: MotionLimits,
    policy: str = "finetuned",
    threads: int = THREADS,
    ddim_steps: int = 0,
    runtime: Runtime = "torch",
) -> dict[str, SkillRunner]:
    """A runner of each of `bundles`, before anything moves; as `SkillRunner`."""
    return {
        name: SkillRunner(one.skill, one.path, spec, limits, policy, threads, ddim_steps, runtime)
        for name, one in bundles.items()
    }


class SkillSequence:
    """Loaded skills in the order in which they are run."""

    def __init__(self, skills: Sequence[str], runners: Mapping[str, SkillRunner], config: SequenceConfig):
        """Raises `DiwaError` if there is no skill, one is not loaded, or the way to its start is out of bounds."""
        self.skills, self._runners, self._config = tuple(skills), runners, config
        if not self.skills:
            raise DiwaError("the sequence is empty: name at least one skill")
        for skill in self.skills:
            if skill not in runners:
                raise DiwaError(f"the skill {skill!r} of the sequence is not loaded: {', '.join(runners)} are")
            region, limits = runners[skill].start, runners[skill].limits
            if region is None:
                continue
            for pose in _corners(region.middle, region, config.height):
                if problem := outside(pose, limits):
                    raise DiwaError(f"the hand cannot be moved to where {skill} begins: {problem}")

    @property
    def about_starts(self) -> str:
        """Names the skills whose bundle does not say where they may begin; empty if all do."""
        unknown = [skill for skill in dict.fromkeys(self.skills) if self._runners[skill].start is None]
        if not unknown:
            return ""
        return (
            f"bundles that do not say where their demonstrations began: {', '.join(unknown)}. They begin where the "
            "hand is, and are not tried again; `diwa bundle --demonstrations` writes it"
        )

    def problem(self, pose: Pose, distance: float = START_DISTANCE, angle: float = START_ANGLE) -> str:
        """Why the sequence may not begin with the hand at `pose`; empty if it may. As `StartRegion.problem`."""
        region = self._runners[self.skills[0]].start
        return region.problem(pose, distance, angle) if region else ""

    def run(
        self,
        robot: Robot,
        max_steps: int,
        seed: int,
        success_ticks: int = AS_TRAINED,
        on_tick: Callable[[Place, Observation, Tick], None] | None = None,
    ) -> Iterator[Part]:
        """Run it; yields each skill as it ends. The first that is not done is the last.

        `max_steps` are those of one try; `on_tick` is told the ticks of moves too. Each try is as if the skill ran
        alone: the model begins at its zero state, with `seed` and the number of tries before it as seed.
        """
        tried, gripper = 0, robot.spec.action.gripper_open
        for index, skill in enumerate(self.skills):
            runner, tries, moving = self._runners[skill], list[ControlResult](), 0
            for attempt in range(self._config.tries if runner.start else 1):
                place = Place(index, skill, attempt, True)
                if tried and runner.start:
                    moved = self._move(robot, runner, gripper, attempt > 0, _telling(on_tick, place))
                    moving += moved.steps
                    if (reason := moved.reason) != SUCCESS:
                        break
                tell = _telling(on_tick, replace(place, moving=False))
                result = runner.run(robot, max_steps, seed + tried, success_ticks, tell)
                tries.append(result)
                tried, reason = tried + 1, result.reason
                if result.ticks:
                    gripper = robot.spec.action.gripper_command(result.ticks[-1].action)
                if reason != OUT_OF_TIME:
                    break
            yield Part(index, skill, reason, tuple(tries), moving)
            if reason != SUCCESS:
                return

    def _move(
        self, robot: Robot, runner: SkillRunner, gripper: float, always: bool, tell: Callable[[Observation, Tick], None]
    ) -> ControlResult:
        """Move to the middle of where the skill begins, or unless `always` stay where it may begin anyway.

        The gripper keeps its command. Each step begins at the published target, so that one which was held up, or is
        late, does not hurry after.
        """
        assert runner.start
        region, limits, spec, config = runner.start, runner.limits.within(robot.spec), robot.spec, self._config
        speed = min(config.speed, limits.max_speed / math.sqrt(3))
        turning = min(config.rotation_speed, limits.max_rotation_speed / math.sqrt(3))
        ticks: list[Tick] = []
        try:
            first, safety = robot.observe(), SafetyFilter(runner.limits, spec)
            if not always and not region.problem(first.pose, 0.0, 0.0):
                return ControlResult(SUCCESS, ticks)
            goal, rested = first.target, 0
            safety.reset(goal, gripper)
            corners = _corners(goal, region, config.height)
            legs = zip([goal, *corners], corners, strict=False)
            planned = sum(len(list(way(*leg, speed, turning, spec.tick))) for leg in legs)
            while len(ticks) < _SLOWER * planned + _PATIENCE * spec.rate:
                observation, started = robot.observe(), time.perf_counter()
                if _same(observation.target, corners[0]):
                    rested += len(corners) == 1
                    corners = corners[1:] or corners
                if rested > REST and not region.problem(observation.pose, START_DISTANCE, START_ANGLE):
                    return ControlResult(SUCCESS, ticks)
                wanted = next(way(observation.target, corners[0], speed, turning, spec.tick))
                action = np.append(scaled_delta(goal, wanted, spec.action), gripper)[: spec.action.dim]
                command = safety.step(action, observation.target)
                latency = time.perf_counter() - started
                robot.command(command.goal, command.gripper)
                ticks.append(Tick(command.action, 0.0, command.interventions, latency))
                tell(observation, ticks[-1])
                goal = command.goal
        except Stopped as error:
            return ControlResult(str(error), ticks)
        return ControlResult("the hand did not reach where its demonstrations began: something holds it", ticks)


def _telling(
    on_tick: Callable[[Place, Observation, Tick], None] | None, place: Place
) -> Callable[[Observation, Tick], None]:
    return partial(on_tick, place) if on_tick else lambda *_: None


def _corners(hand: Pose, region: StartRegion, height: float) -> list[Pose]:
    """The ends of the three straight legs from `hand` to the middle of `region`."""
    goal = region.middle
    top = max(height or region.high[2], hand.position[2], goal.position[2])
    up, across = ([*pose.position[:2], top] for pose in (hand, goal))
    return [Pose.from_unit(np.array(up), hand.quaternion), Pose.from_unit(np.array(across), goal.quaternion), goal]


def _same(pose: Pose, other: Pose) -> bool:
    """As near as a target comes that is on its way there."""
    turned = rotation_distance(pose.rotation, other.rotation)
    return bool(np.linalg.norm(pose.position - other.position) < 1e-3) and turned < 5e-3
