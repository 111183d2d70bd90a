"""Simulated environments in processes of their own, which end with this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from diwa_data.errors import DiwaError
from diwa_data.motion import MotionLimits
from diwa_data.processes import children_without_interrupts, end_with_parent
from diwa_sim.calvin import CalvinConfig
from diwa_sim.table import SimConfig


@dataclass(frozen=True)
class Task:
    """What all environments do."""

    skill: str
    limits: MotionLimits
    sim: SimConfig | CalvinConfig


@contextmanager
def parallel_environments(task: Task, count: int, workers: int) -> Iterator[AsyncVectorEnv]:
    """`count` of `diwa/Table-v0`, a process each, `workers` of them at a time; they end with the block or this process.

    Raises `DiwaError` when one of the processes is gone.
    """
    if count < 1 or workers < 1:
        raise DiwaError(f"envs is {count} and workers {workers}: choose at least 1 of each")
    gymnasium.logger.min_level = gymnasium.logger.ERROR + 1  # it warns of every `DiwaError` with a traceback
    with children_without_interrupts():
        environments = AsyncVectorEnv(
            [partial(_make, task)] * count,
            context="spawn",
            autoreset_mode=AutoresetMode.DISABLED,
            max_concurrency=workers,
        )
    try:
        yield environments
    except (EOFError, ConnectionError) as error:
        ended = wait([process.sentinel for process in environments.processes], 5.0)
        code = next((process.exitcode for process in environments.processes if process.sentinel in ended), "unknown")
        raise DiwaError(
            f"a process with a simulator ended (exit code {code}; -9: killed, out of memory?): "
            "the same command continues; try fewer --envs"
        ) from error
    finally:
        environments.closed = True  # `close` would wait for answers
        for process in environments.processes:
            process.terminate()
        for process in environments.processes:
            process.join()


def _make(task: Task) -> gymnasium.Env:
    """One environment, in its process and once in this one, which asks it for its spaces."""
    end_with_parent()
    return gymnasium.make(
        "diwa/Table-v0", skill=task.skill, config=task.sim, limits=task.limits, disable_env_checker=True
    )
