"""Phases of a sweep, and bags of a dataset, as tasks on Ray (optional: the extra `scale`).

`local` starts Ray on this machine, an address uses a cluster. Every machine of a cluster needs the same installation
and the sweep's folder under the same path, on a shared file system: files are what phases hand on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from diwa_cli.pipeline.execute import Outcome, attempt_aside
from diwa_cli.pipeline.jobs import Phase
from diwa_cli.pipeline.plan import Stage
from diwa_cli.run_folder import SweepFolder, in_a_line
from diwa_data.dataset.parts import Built, PartJob, build_part
from diwa_data.errors import DiwaError, how_to_install
from diwa_data.progress import progress

SAVING = 120.0
"""Seconds in which interrupted tasks may save."""


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The ray module, connected to `address`. Raises `DiwaError` if Ray is not installed or does not answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise DiwaError(f"--ray needs Ray: {how_to_install('scale')}") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise DiwaError(
            f"no Ray at {address!r} ({error}): use `--ray local`, or start a cluster with `ray start`"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def run_on_ray(stages: Sequence[Stage], folder: SweepFolder, address: str) -> Outcome:
    """Run all phases as Ray tasks, each as soon as the phases that it needs are done."""
    found = Outcome(folder)
    phases = [phase for stage in stages for phase in stage.phases if found.is_waiting(phase)]
    if not phases:
        return found
    with connected(address) as ray:
        task, room = ray.remote(_task), room_of(ray.nodes())
        tasks: dict[str, Any] = {}
        for phase in phases:
            before = [tasks[name] for name in phase.after if name in tasks]
            options = task.options(name=phase.name, max_retries=1, **resources(phase, room))
            tasks[phase.name] = options.remote(phase, folder, os.getcwd(), *before)
        print(f"{len(phases)} phases on Ray; what each prints is in {folder.path / 'phases'}", flush=True)
        _follow(ray, phases, tasks, found)
    for phase in phases:
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
    """The largest number of CPUs and of GPUs that one living machine of a cluster has."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return {kind: max((node.get(kind, 0) for node in alive), default=0) for kind in ("CPU", "GPU")}


def resources(phase: Phase, room: dict[str, float]) -> dict[str, float]:
    """What a phase asks Ray for: its cores, at most those of one machine, and for training a GPU where there is one."""
    gpu = {"num_gpus": 1} if phase.learns and room["GPU"] else {}
    return {"num_cpus": max(1, min(phase.cores, room["CPU"])), **gpu}


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


def _task(phase: Phase, folder: SweepFolder, cwd: str, *before: str) -> str:
    """The phase's error in a line, empty if it is done; it is not tried if a task `before` it has one."""
    os.chdir(cwd)
    return "left out" if any(before) else attempt_aside(phase, folder)


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
