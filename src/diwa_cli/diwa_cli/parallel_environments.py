"""Simulated environments spread over worker processes, which end with this one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from diwa_cli.simulated_environments import SimulatedEnvironments, Task, gather
from diwa_data.errors import DiwaError
from diwa_data.processes import children_without_interrupts
from diwa_data.robot import Frames, Played
from diwa_data.spec import Spec


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
