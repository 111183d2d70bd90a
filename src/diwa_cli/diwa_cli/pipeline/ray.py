"""Phases of a sweep, and bags of a dataset, as tasks on Ray (optional: the extra `scale`).

On this machine, or on a cluster. Every machine of a cluster needs the same installation and the sweep's folder under
the same path, on a shared file system: files are what phases hand on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from diwa_cli.pipeline.execute import Outcome, Phase, attempt_aside
from diwa_cli.run_folder import SweepFolder, in_a_line
from diwa_data.config import Source
from diwa_data.dataset.dataset import BuildDatasetJob, build_dataset
from diwa_data.dataset.parts import Built, PartJob, build_part
from diwa_data.errors import DiwaError, how_to_install
from diwa_data.progress import progress

SAVING = 120.0
"""Seconds in which interrupted tasks may save."""
HERE = "local"
"""Address of a Ray that is started on this machine, and ends with the command."""
SLOT = "phases"
"""Resource of a Ray on this machine: phases at a time."""
LEARNS = ("world_model", "ensemble", "policy", "reward", "finetune", "dppo")
"""Sections of jobs that train a network: a GPU helps."""


@contextmanager
def connected(address: str, jobs: int = 1) -> Iterator[Any]:
    """The ray module, connected to `address`, or to a Ray on this machine with room for so many `jobs` at a time.

    Raises `DiwaError` if Ray is not installed or does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise DiwaError(f"--ray needs Ray: {how_to_install('scale')}") from error
    ours = not ray.is_initialized()
    if ours:
        here: dict[str, Any] = (
            {"num_cpus": len(os.sched_getaffinity(0)), "resources": {SLOT: jobs}} if address == HERE else {}
        )
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, **here)
        except (ConnectionError, ValueError) as error:
            raise DiwaError(
                f"no Ray at {address!r} ({error}): use `--ray local`, or start a cluster with `ray start`"
            ) from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def run_on_ray(phases: Sequence[Phase], folder: SweepFolder, source: Source, address: str, jobs: int) -> Outcome:
    """Run all phases as Ray tasks, each as soon as the phases that it needs are done.

    Without an address, on this machine: `jobs` at a time at most, and together on no more cores than there are.
    """
    found = Outcome(folder)
    waiting = [phase for phase in phases if found.is_waiting(phase)]
    if not waiting:
        return found
    with connected(address or HERE, jobs) as ray:
        task, room = ray.remote(_task), room_of(ray.nodes())
        tasks: dict[str, Any] = {}
        for phase in waiting:
            before = [tasks[name] for name in phase.after if name in tasks]
            needs = resources(phase, room)
            options = task.options(name=phase.name, max_retries=1, **needs)
            tasks[phase.name] = options.remote(phase, folder, source, os.getcwd(), int(needs["num_cpus"]), *before)
        print(f"{len(waiting)} phases on Ray; what each prints is in {folder.path / 'phases'}", flush=True)
        _follow(ray, waiting, tasks, found)
    for phase in waiting:
        if phase.name not in found.done | found.failed.keys():
            found.is_waiting(phase)  # no: what it needed failed
    return found


def _follow(ray: Any, phases: Sequence[Phase], tasks: Mapping[str, Any], found: Outcome) -> None:
    """Take how each task ended, unless it was not tried."""
    by_task = {tasks[phase.name]: phase for phase in phases}
    with progress("sweep", len(phases), "phases") as bar:
        for reference, accident in _ended(ray, list(by_task)):
            phase = by_task[reference]
            # A task that needs a broken one breaks too. Results travel with Ray, as a file system may show files late.
            if found.done.issuperset(set(phase.after) & tasks.keys()):
                found.ended(phase, accident or ray.get(reference))
            bar.advance()


def room_of(nodes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The largest number of CPUs, of GPUs and of phases at a time that one living machine of a cluster has."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return {kind: max((node.get(kind, 0) for node in alive), default=0) for kind in ("CPU", "GPU", SLOT)}


def resources(phase: Phase, room: dict[str, float]) -> dict[str, Any]:
    """What a phase asks Ray for: its cores, at most those of a machine, and for training a GPU where there is one.

    On this machine phases at a time share the GPU.
    """
    slots, gpu = room[SLOT], getattr(phase.job, "section", "") in LEARNS and room["GPU"]
    return {
        "num_cpus": max(1, min(phase.cores, room["CPU"])),
        **({"num_gpus": min(1.0, gpu / slots) if slots else 1} if gpu else {}),
        **({"resources": {SLOT: 1}} if slots else {}),
    }


@dataclass(frozen=True)
class BuildOnRayJob(BuildDatasetJob):
    """Build a dataset at the control rate from bags."""

    ray: str = ""
    """Align bags as Ray tasks: `local` on this machine, an address (`auto`, ray://HOST:10001) on a cluster that shares
    this file system."""

    def run(self) -> None:
        """Build, or continue."""
        if self.ray:
            build_dataset(self.bags, self.out, self.config, partial(build_parts_on_ray, self.ray))
        else:
            super().run()


def build_parts_on_ray(address: str, jobs: Sequence[PartJob], workers: int) -> Iterator[Built]:
    """`diwa_data.dataset.parts.build_parts` with a Ray task for each recording, in place of `workers` processes."""
    if not jobs:
        return
    with connected(address) as ray:
        task = ray.remote(build_part).options(max_retries=1)
        for reference, accident in _ended(ray, [task.remote(job.absolute()) for job in jobs]):
            if accident:
                raise DiwaError(accident)
            yield ray.get(reference)


def _task(phase: Phase, folder: SweepFolder, source: Source, cwd: str, cores: int, *before: str) -> str:
    """The phase's error in a line, empty if it is done; it is not tried if a task `before` it has one."""
    os.chdir(cwd)
    if any(before):
        return "left out"
    use_cores(cores)
    return attempt_aside(phase, folder, source)


def use_cores(count: int) -> None:
    """Threads of all libraries in this process, and in those that it starts."""
    import cv2
    import torch

    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def _ended(ray: Any, references: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Each reference as it ends, with its error in a line if it has one. Ctrl-C lets tasks save, and is raised."""
    left = list(references)
    try:
        while left:
            (reference,), left = ray.wait(left, num_returns=1)
            try:
                ray.get(reference)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                yield reference, in_a_line(cause) if isinstance(cause, DiwaError) else _first_line(error)
            else:
                yield reference, ""
    finally:
        for reference in left:
            ray.cancel(reference)
        if left:
            ray.wait(left, num_returns=len(left), timeout=SAVING)


def _first_line(error: Exception) -> str:
    return f"Ray: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
