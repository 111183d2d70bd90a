"""`make fuzz`, motion: random goals, controllers and measured poses; counts published targets beyond a limit.

Measured poses are anything: still, plausible, jumping, in millimetres, in degrees, upside down, not finite. Limits are
box, tilt, and the norms of speed, acceleration and jerk in position and rotation (`diwa_data.motion.use_of_limits`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.interpolator import Interpolator
from diwa_data.limits import MotionLimits
from diwa_data.motion import SafetyFilter, limit_goal, use_of_limits
from diwa_data.pose import DOWN, Pose
from diwa_data.spec import Spec
from diwa_data.teleop.clutch import ControllerState, TeleopConfig, Teleoperator
from diwa_deploy.target import ArmedTarget

LIMITS, SPEC, RATE = MotionLimits(), Spec(), 60.0
TOLERANCE = 1e-6
"""Share of a limit that rounding may add."""
EVENTS = 12
"""Changes of mind in a sequence; each lasts up to ten steps of 1/60 s."""


def some_pose(rng: np.random.Generator, spread: float) -> Pose:
    """A pose near the middle of the workspace, or far away."""
    position = np.array([0.5, 0.0, 0.4]) + rng.normal(0, spread, 3)
    return Pose(position, Rotation.from_rotvec(rng.normal(0, 3 * spread, 3)) * DOWN)


def some_measured(rng: np.random.Generator, target: Pose) -> Pose:
    """The pose that an arm or a broken driver reports; mostly it is where it was told to be."""
    kind = rng.integers(12)
    if kind == 0:
        return some_pose(rng, 0.5)
    if kind == 1:
        return Pose(1000.0 * target.position, target.rotation)
    if kind == 2:
        return Pose(np.full(3, rng.choice([np.nan, np.inf, -np.inf])), target.rotation)
    if kind == 3:
        return Pose(target.position, Rotation.from_rotvec(np.degrees(target.rotation.as_rotvec())))
    if kind == 4:
        return Pose(target.position, Rotation.identity())
    return Pose(target.position + rng.normal(0, 0.005, 3), target.rotation)


def interpolator(rng: np.random.Generator) -> list[list[Pose]]:
    """Goals that jump, rush and stop, to the interpolator itself."""
    spread = 10 ** rng.uniform(-2, 0.5)
    made = Interpolator(LIMITS, RATE)
    made.reset(limit_goal(some_pose(rng, 0.3), LIMITS).pose)
    published = [made.target]
    for _ in range(EVENTS):
        event, goal = rng.integers(4), some_pose(rng, spread)
        if event == 0:
            made.hold()
        elif event < 3:
            made.command(goal, rng.choice([SPEC.tick, 1 / RATE, 0.5]))
        for _ in range(rng.integers(1, 11)):
            if event == 3:
                made.track(Pose(goal.position + rng.normal(0, 0.01, 3), goal.rotation))
            measured = None if event == 1 else some_measured(rng, published[-1])
            published.append(made.step(measured).pose)
    return [published]


def deployment(rng: np.random.Generator) -> list[list[Pose]]:
    """A policy's raw actions through safety filter and armed target, which is armed again after each fault."""
    arm, now, runs = ArmedTarget(LIMITS.within(SPEC), RATE), 0.0, []
    safety = SafetyFilter(LIMITS, SPEC)
    hand = limit_goal(some_pose(rng, 0.2), LIMITS).pose
    honest = rng.random() < 0.5
    for _ in range(2 * EVENTS):
        if arm.armed:
            raw = rng.normal(0, 10 ** rng.uniform(-1, 1), 7)
            raw[rng.integers(7)] *= rng.choice([1.0, 1.0, 1.0, np.nan, np.inf])
            arm.command(safety.step(raw, runs[-1][-1]).goal, SPEC.tick)
            if rng.random() < 0.1:
                arm.hold()
        elif not arm.problem():
            arm.arm()
            safety.reset(arm.target)
            runs.append([arm.target])
        for _ in range(rng.integers(1, 11)):
            now += rng.choice([1.0, 0.5, 2.0] if rng.random() < 0.99 else [0.0, -1.0, 60.0]) / RATE
            told = runs[-1][-1] if arm.armed else hand
            arm.update(told if honest or rng.random() < 0.97 else some_measured(rng, told), now)
            if motion := arm.step():
                runs[-1].append(motion.pose)
    return runs


def teleoperation(rng: np.random.Generator) -> list[list[Pose]]:
    """A hand that rushes, a tracker that jumps and flips, a clutch that chatters."""
    operator = Teleoperator(SPEC, TeleopConfig())
    operator.reset(limit_goal(some_pose(rng, 0.3), LIMITS).pose, 1.0)
    published = [operator.target]
    controller, speed = some_pose(rng, 0.3), 10 ** rng.uniform(-3, -1)
    for _ in range(EVENTS):
        held, valid, way = rng.random() < 0.8, rng.random() < 0.95, rng.normal(0, speed, (2, 3))
        if rng.random() < 0.2:
            controller = some_pose(rng, 1.0)
        for _ in range(rng.integers(1, 11)):
            controller = Pose(controller.position + way[0], Rotation.from_rotvec(way[1]) * controller.rotation)
            read = ControllerState(some_measured(rng, controller), held, rng.random(), (), valid)
            measured = some_measured(rng, published[-1])
            command = operator.brake() if rng.random() < 0.02 else operator.step(read, measured)
            published.append(command.target)
    return [published]


TARGETS: dict[str, tuple[Callable[[np.random.Generator], list[list[Pose]]], int]] = {
    "interpolator": (interpolator, 4000),
    "deployment": (deployment, 3000),
    "teleoperation": (teleoperation, 3000),
}
"""Name -> what makes a sequence (runs of published targets, each from arming on), and how many."""


def count(name: str, seed: int, number: int) -> tuple[int, int]:
    """Steps and violations of sequence `number`."""
    make, _ = TARGETS[name]
    runs = make(np.random.default_rng((seed, list(TARGETS).index(name), number)))
    used = [value for run in runs for value in use_of_limits(run, LIMITS, RATE).values()]
    return sum(len(run) - 1 for run in runs), sum(value > 1 + TOLERANCE for value in used)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the sequences")
    parser.add_argument("--out", type=Path, help="JSON file of rows")
    given = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(2) as pool:
        for name, (_, sequences) in TARGETS.items():
            numbers = range(max(1, round(sequences * given.share)))
            counts = np.array(list(pool.map(partial(count, name, given.seed), numbers, chunksize=50)))
            steps, violations = counts.sum(axis=0).tolist()
            rows.append({"target": name, "sequences": len(numbers), "steps": steps, "violations": violations})
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if given.out:
        given.out.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    return int(any(row["violations"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
