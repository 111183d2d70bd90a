"""Phases of a sweep, one after the other in this process; `ray.py` runs the same ones side by side.

Finished phases are skipped, and a failed one stops only what depends on it.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from diwa_cli.run_folder import PhaseLog, SweepFolder, in_a_line
from diwa_data.config import Job, Source
from diwa_data.errors import DiwaError

ALL_CORES = 1024
"""Cores of a phase that uses as many as there are."""


@dataclass(frozen=True)
class Phase:
    """One step of a sweep; can be sent to another process."""

    name: str
    """Unique in the sweep: `record_play`, `open_drawer/seed_0/train_policy`."""
    job: Job
    """Does it, or continues it."""
    after: tuple[str, ...] = ()
    """Names of the phases whose outputs it reads."""
    cores: int = 1
    """Cores that it uses well by itself, with processes or threads of its own."""

    @property
    def stage(self) -> str:
        """Name of its kind of work, the same for play and all skills and seeds."""
        return self.name.rpartition("/")[2].removesuffix("_play")

    def is_done(self, log: PhaseLog) -> bool:
        """Whether it was finished earlier and its output is still there."""
        return log.is_done and self.job.out.exists()


class Outcome:
    """Which phases are done, which failed or were left out so far, and why."""

    def __init__(self, folder: SweepFolder):
        self.folder = folder
        self.done: set[str] = set()
        """Names of those that are done, now or earlier."""
        self.failed: dict[str, str] = {}
        """Name -> error in a line."""
        self.left_out: dict[str, str] = {}
        """Name -> the failed phase that it needed."""

    def is_waiting(self, phase: Phase) -> bool:
        """Whether there is something to do; says so if it was finished earlier or cannot be done."""
        if phase.is_done(log := self.folder.log(phase.name)):
            self.done.add(phase.name)
            print(f"[{phase.name}] finished earlier, {log.seconds:.0f} s", flush=True)
            return False
        for name in phase.after:
            if cause := name if name in self.failed else self.left_out.get(name):
                self.left_out[phase.name] = cause
                print(f"[{phase.name}] left out: {cause} failed", flush=True)
                return False
        return True

    def ended(self, phase: Phase, error: str) -> None:
        """Take how a phase ended: `error` in a line, empty if it is done."""
        if error:
            self.failed[phase.name] = error
            print(f"[{phase.name}] failed: {error}", file=sys.stderr, flush=True)
        else:
            self.done.add(phase.name)
            print(f"[{phase.name}] done, {self.folder.log(phase.name).seconds:.0f} s", flush=True)


def run_inline(phases: Sequence[Phase], folder: SweepFolder, source: Source) -> Outcome:
    """Run phases in this order, which must be one in which each finds its inputs finished."""
    found = Outcome(folder)
    for phase in phases:
        if found.is_waiting(phase):
            print(f"\n[{phase.name}] {phase.job.command(source)}", flush=True)
            found.ended(phase, attempt(phase, folder, source))
    return found


def attempt(phase: Phase, folder: SweepFolder, source: Source) -> str:
    """Do a phase; its error in a line, empty if it is done. The traceback of one not ours goes to stderr."""
    try:
        with folder.log(phase.name).running(phase.job.command(source)):
            phase.job.run()
    except Exception as error:
        if not isinstance(error, DiwaError):
            traceback.print_exc()
        return in_a_line(error)
    return ""


def attempt_aside(phase: Phase, folder: SweepFolder, source: Source) -> str:
    """`attempt` with everything printed in a file of its own."""
    path = folder.output(phase.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        print(phase.job.command(source))
        return attempt(phase, folder, source)
