"""Several training runs that advance together, step by step, because their networks are stacked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from diwa_data.dataset.dataset import Library
from diwa_learning.core.run import Stateful, TrainingRun, require_run_folder
from diwa_learning.core.stacking import Slice, Stream
from diwa_learning.world_model.checkpoint import LoadedWorldModel


class Member(Protocol):
    """One run of a stack, ready to train."""

    @property
    def run(self) -> TrainingRun: ...

    @property
    def draws(self) -> Stream: ...

    def form(self) -> Any:
        """Runs of equal form are stacked: same networks, same steps; seed, weights and data are each run's own."""


class Job(Protocol):
    """What a run is made of."""

    @property
    def out(self) -> Path: ...


M = TypeVar("M", bound=Member)
J = TypeVar("J", bound=Job)


def train_together(
    jobs: Sequence[J],
    world: LoadedWorldModel,
    prepare: Callable[[J, LoadedWorldModel, Library, ExitStack], M | None],
    train: Callable[[Sequence[M], LoadedWorldModel], None],
) -> None:
    """Prepare all jobs on one world model, then train those of one form stacked.

    `prepare` opens a job's run in the `ExitStack` and returns None if it is finished; a dataset is read once for all.
    """
    for job in jobs:
        require_run_folder(job.out)
    library = Library(world.spec)
    with ExitStack() as runs:
        members = [member for job in jobs if (member := prepare(job, world, library, runs))]
        library.clear()
        for group in groups(members):
            train(group, world)


def groups(members: Sequence[M]) -> list[list[M]]:
    """The members that can advance together: those of one form that stand at the same step."""
    found: dict[Any, list[M]] = {}
    for member in members:
        found.setdefault((member.form(), member.run.saved_step), []).append(member)
    return list(found.values())


def track(group: Sequence[Member], **parts: nn.Module | torch.optim.Optimizer) -> list[dict[str, Stateful]]:
    """Restore and save each member's share of `parts`, stacked modules and their optimisers, and its random numbers.

    Returns the shares. Each has the state_dict that it would have if its run were alone.
    """
    shares: list[dict[str, Stateful]] = [dict(parts)]
    if len(group) > 1:
        shares = [{name: Slice(part, index) for name, part in parts.items()} for index in range(len(group))]
    for member, mine in zip(group, shares, strict=True):
        member.run.track(**mine, draws=member.draws)
    return shares


def lockstep(group: Sequence[Member], total: int, unit: str, per_step: float = 1) -> Iterator[int]:
    """As `TrainingRun.steps` of the first, for members that stand at the same step: all save when it does."""
    first, *others = [member.run for member in group]
    started = time.monotonic()
    try:
        for step in first.steps(total, unit, per_step * len(group)):
            yield step
            now = time.monotonic()
            for run in others:
                run.step = step + 1
                run.seconds += now - started
                if run.step % run.config.save_every == 0 and run.step < total:
                    run.save()
            started = now
    except KeyboardInterrupt:
        for run in others:
            run.save()
        raise
