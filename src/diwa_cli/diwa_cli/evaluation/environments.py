"""Simulated environments spread over worker processes, which end with this one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.images import Frame, preprocess_observation
from diwa_data.motion import MotionLimits
from diwa_data.pose import Pose
from diwa_data.processes import children_without_interrupts
from diwa_data.robot import Environment, Frames, Played
from diwa_data.spec import Spec
from diwa_deploy.safety import SafetyFilter
from diwa_sim.calvin.environment import CalvinConfig
from diwa_sim.environments import open_environment
from diwa_sim.table import SimConfig


@dataclass(frozen=True)
class Task:
    """What all environments do."""

    skill: str
    limits: MotionLimits
    sim: SimConfig | CalvinConfig


class LimitedEnvironment:
    """One environment behind the safety filter, as the control loop runs it; cameras render at control ticks only."""

    def __init__(self, environment: Environment, task: Task):
        self._environment, self._skill = environment, task.skill
        self._safety = SafetyFilter(task.limits, environment.spec)
        self._target: Pose

    def reset(self, seed: int) -> Frame:
        """Start anew; the first frame."""
        self._environment.reset(self._skill, seed)
        frame = self._observe()
        self._safety.reset(self._target)
        return frame

    def play(self, chunk: np.ndarray) -> tuple[Frames, np.ndarray]:
        """Frames (H,) after each raw action of a chunk (H, 7), and the actions as executed (H, 7)."""
        frames, executed = [], []
        for action in chunk:
            command = self._safety.step(action, self._target)
            self._environment.command(command.goal, command.gripper)
            frames.append(self._observe())
            executed.append(self._safety.executed(self._target))
        return gather(frames, np.stack), np.stack(executed)

    def succeeded(self) -> bool:
        """The oracle has been true since the reset."""
        return self._environment.succeeded()

    def _observe(self) -> Frame:
        observation = self._environment.observe()
        self._target = observation.target
        return preprocess_observation(observation, self._environment.spec)


class SimulatedEnvironments:
    """`VectorEnvironment` of N simulated Pandas in this process, one after the other."""

    def __init__(self, task: Task, count: int):
        self._environments = [open_environment(task.sim, task.limits) for _ in range(count)]
        self._limited = [LimitedEnvironment(environment, task) for environment in self._environments]
        self.spec, self.count = self._environments[0].spec, count

    def reset(self, rows: np.ndarray, seeds: np.ndarray) -> Frames:
        """Start the environments `rows` (M,) anew; their first frames (M,)."""
        return gather([self._limited[row].reset(int(seed)) for row, seed in zip(rows, seeds, strict=True)], np.stack)

    def play(self, actions: np.ndarray) -> Played:
        """Execute chunks of raw actions (N, H, 7)."""
        played = [one.play(chunk) for one, chunk in zip(self._limited, actions, strict=True)]
        return Played(
            gather([frames for frames, _ in played], np.stack),
            np.stack([executed for _, executed in played]),
            np.array([one.succeeded() for one in self._limited]),
        )

    def close(self) -> None:
        """Free the simulators."""
        for environment in self._environments:
            environment.close()


def gather(parts: Sequence[Frame | Frames], how: Callable[[list[np.ndarray]], np.ndarray]) -> Frames:
    """Frames as one, by `np.stack` or `np.concatenate`."""
    scenes = [part.scene_state for part in parts if part.scene_state is not None]
    return Frames(
        {name: how([part.images[name] for part in parts]) for name in parts[0].images},
        how([part.state for part in parts]),
        how(scenes) if scenes else None,
    )


class Worker:
    """A process with some of the environments; `ask` and `answer` take turns."""

    def __init__(self, task: Task, count: int):
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process: BaseProcess = context.Process(target=serve, args=(there, task, count), daemon=True)
        self._process.start()
        there.close()  # now the process alone holds it: when it dies, reading here ends

    def ask(self, method: str, *arguments: Any) -> None:
        """Call a method of its `SimulatedEnvironments`, without waiting."""
        try:
            self._here.send((method, arguments))
        except OSError as error:
            raise self._dead() from error

    def answer(self) -> Any:
        """What the last call returned; raises the `DiwaError` that it raised, or one for a process that is gone."""
        try:
            value = self._here.recv()
        except (EOFError, OSError) as error:
            raise self._dead() from error
        if isinstance(value, DiwaError):
            raise value
        return value

    def close(self) -> None:
        """End the process."""
        self._here.close()
        self._process.terminate()
        self._process.join()

    def _dead(self) -> DiwaError:
        self._process.join(5.0)
        return DiwaError(
            f"a process with simulators ended (exit code {self._process.exitcode}; -9: killed, out of memory?): "
            "the same command continues; try fewer --workers or --envs"
        )


class ParallelEnvironments:
    """`VectorEnvironment` of simulated Pandas, spread over workers; the results do not depend on their number."""

    def __init__(self, workers: Sequence[Worker], counts: Sequence[int]):
        self._workers = workers
        self._bounds = np.concatenate([[0], np.cumsum(counts)])
        self.count = int(self._bounds[-1])
        self.spec: Spec = workers[0].answer()
        for worker in workers[1:]:
            worker.answer()

    def reset(self, rows: np.ndarray, seeds: np.ndarray) -> Frames:
        """Start the environments `rows` (M,), in ascending order, anew; their first frames (M,)."""
        asked = []
        for worker, first, stop in zip(self._workers, self._bounds, self._bounds[1:], strict=False):
            mine = (rows >= first) & (rows < stop)
            if mine.any():
                worker.ask("reset", rows[mine] - first, seeds[mine])
                asked.append(worker)
        return gather([worker.answer() for worker in asked], np.concatenate)

    def play(self, actions: np.ndarray) -> Played:
        """Execute chunks of raw actions (N, H, 7)."""
        for worker, first, stop in zip(self._workers, self._bounds, self._bounds[1:], strict=False):
            worker.ask("play", actions[first:stop])
        played: list[Played] = [worker.answer() for worker in self._workers]
        return Played(
            gather([each.frames for each in played], np.concatenate),
            np.concatenate([each.executed for each in played]),
            np.concatenate([each.success for each in played]),
        )


@contextmanager
def parallel_environments(task: Task, count: int, workers: int) -> Iterator[ParallelEnvironments]:
    """`count` environments in at most `workers` processes, which end with the block, or when this process dies."""
    if count < 1 or workers < 1:
        raise DiwaError(f"envs is {count} and workers {workers}: choose at least 1 of each")
    counts = [len(part) for part in np.array_split(np.arange(count), min(workers, count))]
    started: list[Worker] = []
    try:
        with children_without_interrupts():
            for each in counts:
                started.append(Worker(task, each))
        yield ParallelEnvironments(started, counts)
    finally:
        for worker in started:
            worker.close()


def serve(connection: Connection, task: Task, count: int) -> None:
    """A worker's life: tell the spec, then answer calls until the other end is gone."""
    try:
        environments = SimulatedEnvironments(task, count)
        connection.send(environments.spec)
        while True:
            method, arguments = connection.recv()
            connection.send(getattr(environments, method)(*arguments))
    except DiwaError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        return
