"""Run the phases of a sweep: finished ones are skipped, and a failed one stops only what depends on it.

Here: on this machine, stage by stage. Phases that use one core (small networks gain little from a second one) run
several at a time in processes of one thread each; the others one after the other in this process, with all cores.
`on_ray.py` runs the same phases on Ray.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import cv2
import torch

from diwa_cli.phases import Phase
from diwa_cli.run_folder import in_a_line
from diwa_cli.sweep_plan import Stage, SweepFolder
from diwa_data.errors import DiwaError
from diwa_data.processes import children_without_interrupts


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
            print(f"[{phase.name}] finished earlier, {log.seconds[phase.name]:.0f} s", flush=True)
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
            seconds = self.folder.log(phase.name).seconds.get(phase.name, 0.0)
            print(f"[{phase.name}] done, {seconds:.0f} s", flush=True)


def run_here(stages: Sequence[Stage], folder: SweepFolder, workers: int) -> Outcome:
    """Run all phases on this machine, `workers` at a time of those that use one core."""
    found = Outcome(folder)
    for stage in stages:
        small = [phase for phase in stage.phases if phase.cores == 1]
        together = {phase.name for phase in small} if min(workers, len(small)) > 1 else set()
        waiting = [phase for phase in stage.phases if found.is_waiting(phase)]
        for phase in waiting:
            if phase.name not in together:
                print(f"\n[{phase.name}] {phase.command}", flush=True)
                found.ended(phase, attempt(phase, folder))
        _side_by_side([phase for phase in waiting if phase.name in together], found, workers)
    return found


def attempt(phase: Phase, folder: SweepFolder) -> str:
    """Perform a phase; its error in a line, empty if it is done. The traceback of one not ours goes to stderr."""
    try:
        phase.perform(folder.log(phase.name))
    except Exception as error:
        if not isinstance(error, DiwaError):
            traceback.print_exc()
        return in_a_line(error)
    return ""


def attempt_aside(phase: Phase, folder: SweepFolder) -> str:
    """`attempt` with everything printed in a file of its own."""
    path = folder.output(phase.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        print(phase.command)
        return attempt(phase, folder)


def _side_by_side(phases: list[Phase], found: Outcome, workers: int) -> None:
    """Run phases in processes of one thread, `workers` at a time. Ctrl-C lets each save, and is raised."""
    context = multiprocessing.get_context("spawn")
    waiting, running = list(reversed(phases)), dict[int, tuple[BaseProcess, Phase]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                phase = waiting.pop()
                process = context.Process(target=_work, args=(phase, found.folder))
                print(f"[{phase.name}] {phase.command}", flush=True)
                with children_without_interrupts():
                    process.start()
                running[process.sentinel] = process, phase
            for sentinel in wait(list(running)):
                process, phase = running.pop(int(sentinel))  # type: ignore[call-overload]
                process.join()
                found.ended(phase, _error_left(phase, found.folder, process.exitcode))
    finally:
        for process, _ in running.values():
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        for process, _ in running.values():
            process.join()


def _error_left(phase: Phase, folder: SweepFolder, status: int | None) -> str:
    """Of a phase whose process has ended; empty if it is done."""
    log = folder.log(phase.name)
    if log.is_done(phase.name):
        return ""
    return log.error(phase.name) or f"its process ended with status {status} (-9: killed, out of memory?)"


def _work(phase: Phase, folder: SweepFolder) -> None:
    """In the process of one phase: one thread, Ctrl-C from the parent only, no life without it."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        attempt_aside(phase, folder)
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent() -> None:
    """End this process when its parent was killed: its successor will continue the phase."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
