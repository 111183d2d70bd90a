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

from diwa_cli.pipeline.execute import Outcome, Phase, attempt_aside, run_inline
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
LEARNS = ("world_model", "ensemble", "policy", "reward", "finetune", "dppo")
"""Sections of jobs that train a network: a GPU helps."""


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The ray module, connected to `address`. Raises `DiwaError` if Ray is not installed or does not answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise DiwaError(f"--ray needs Ray: {how_to_install('scale')}") from error
    if ray.is_initialized():
        yield ray
        return
    cores = len(os.sched_getaffinity(0)) if address == HERE else None
    try:
        ray.init(address, num_cpus=cores, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise DiwaError(
            f"no Ray at {address!r} ({error}): use `--ray local`, or start a cluster with `ray start`"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def run_on_ray(phases: Sequence[Phase], folder: SweepFolder, source: Source, address: str, jobs: int) -> Outcome:
    """Run phases as Ray tasks, each as soon as the phases that it needs are done.

    Without an address, on this machine: `jobs` at a time at most, and together on no more cores than there are.
    """
    if all(phase.is_done(folder.log(phase.name)) for phase in phases):
        return run_inline(phases, folder, source)
    found, todo, running = Outcome(folder), list(phases), dict[Any, Phase]()
    print(f"{len(phases)} phases on Ray; what each prints is in {folder.path / 'phases'}", flush=True)
    with connected(address or HERE) as ray, stopping(ray, running), progress("sweep", len(phases), "phases") as bar:
        room, task = room_of(ray.nodes()), ray.remote(_task)
        while todo or running:
            settled = found.done | found.failed.keys() | found.left_out.keys()
            ready = [phase for phase in todo if settled.issuperset(phase.after)]
            for phase in ready if address else ready[: max(0, jobs - len(running))]:
                todo.remove(phase)
                if found.is_waiting(phase):
                    needs = resources(phase, room, 1.0 if address else 1 / jobs)
                    options = task.options(name=phase.name, max_retries=1, **needs)
                    running[options.remote(phase, folder, source, os.getcwd(), int(needs["num_cpus"]))] = phase
                else:
                    bar.advance()
            if running:
                (reference,), _ = ray.wait(list(running), num_returns=1)
                phase, accident = running.pop(reference), accident_of(ray, reference)
                found.ended(phase, accident or ray.get(reference))  # with Ray: a file system may show files late
                bar.advance()
    return found


def room_of(nodes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The largest number of CPUs and of GPUs that one living machine of a cluster has."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return {kind: max((node.get(kind, 0) for node in alive), default=0) for kind in ("CPU", "GPU")}


def resources(phase: Phase, room: dict[str, float], share: float) -> dict[str, float]:
    """Resources of a phase: its cores, at most those of a machine, and for training a GPU where there is one.

    Phases at a time on this machine share the GPU.
    """
    learns = getattr(phase.job, "section", "") in LEARNS and room["GPU"]
    return {
        "num_cpus": max(1, min(phase.cores, room["CPU"])),
        **({"num_gpus": min(1, share * learns)} if learns else {}),
    }


@dataclass(frozen=True)
class BuildOnRayJob(BuildDatasetJob):
    """Build a dataset at the control rate from bags."""

    ray: str = ""
    """Align bags as Ray tasks: `local` on this machine, or the address of a cluster with this file system (`auto`,
    ray://HOST:10001)."""

    def run(self) -> None:
        """Build, or continue."""
        if self.ray:
            build_dataset(self.bags, self.out, self.config, partial(build_parts_on_ray, self.ray), self.mapping)
        else:
            super().run()


def build_parts_on_ray(address: str, jobs: Sequence[PartJob], workers: int) -> Iterator[Built]:
    """`diwa_data.dataset.parts.build_parts` with a Ray task for each recording, in place of `workers` processes."""
    if not jobs:
        return
    with connected(address) as ray:
        task = ray.remote(build_part).options(max_retries=1)
        running = {task.remote(job.absolute()): job for job in jobs}
        with stopping(ray, running):
            while running:
                (reference,), _ = ray.wait(list(running), num_returns=1)
                del running[reference]
                if accident := accident_of(ray, reference):
                    raise DiwaError(accident)
                yield ray.get(reference)


def _task(phase: Phase, folder: SweepFolder, source: Source, cwd: str, cores: int) -> str:
    """The phase's error in a line, empty if it is done."""
    os.chdir(cwd)
    use_cores(cores)
    return attempt_aside(phase, folder, source)


def use_cores(count: int) -> None:
    """Threads of all libraries in this process, and in those that it starts."""
    import cv2
    import torch

    os.environ["OMP_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


@contextmanager
def stopping(ray: Any, running: Mapping[Any, Any]) -> Iterator[None]:
    """When the code inside ends, by Ctrl-C too: tasks that are still `running` save and end."""
    try:
        yield
    finally:
        for reference in running:
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=SAVING)


def accident_of(ray: Any, reference: Any) -> str:
    """The error of a task that raised one, or whose process died, in a line; empty otherwise."""
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        if isinstance(cause := getattr(error, "cause", None), DiwaError):
            return in_a_line(cause)
        return f"Ray: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    return ""
