"""Run the phases of a sweep: finished ones are skipped, and a failed one stops only what depends on it.

Here: on this machine, stage by stage. Phases that use one core (trainings of small networks, replays) run
several at a time in processes of one thread each; the others one after the other in this process, with all cores.
Stacked, the trainings of a stage are one call in this process: what a GPU is for.
`on_ray.py` runs the same phases on Ray.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import torch

from diwa_cli.pipeline.jobs import Phase, Training
from diwa_cli.pipeline.plan import Stage
from diwa_cli.run_folder import SweepFolder, in_a_line
from diwa_data.errors import DiwaError
from diwa_data.processes import children_without_interrupts, end_with_parent
from diwa_data.progress import Bar, progress


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


def run_here(stages: Sequence[Stage], folder: SweepFolder, workers: int, stacked: bool = False) -> Outcome:
    """Run all phases on this machine, `workers` at a time of those that use one core, or trainings `stacked`."""
    found = Outcome(folder)
    for stage in stages:
        waiting = [phase for phase in stage.phases if found.is_waiting(phase)]
        if stacked:
            waiting = _stacked(waiting, found)
        small = [phase for phase in stage.phases if phase.cores == 1]
        together = {phase.name for phase in small} if min(workers, len(small)) > 1 else set()
        for phase in waiting:
            if phase.name not in together:
                print(f"\n[{phase.name}] {phase.command}", flush=True)
                found.ended(phase, attempt(phase, folder))
        if aside := [phase for phase in waiting if phase.name in together]:
            with progress(stage.name, len(aside), "phases") as bar:
                _side_by_side(aside, found, workers, bar)
    return found


def _stacked(waiting: Sequence[Phase], found: Outcome) -> list[Phase]:
    """Do the trainings among these phases all at once; returns what is still to do.

    That is all of them if one is at fault: each is then tried, and fails or continues, by itself.
    """
    trainings = {phase: phase.run for phase in waiting if isinstance(phase.run, Training)}
    if len(trainings) < 2:
        return list(waiting)
    first = next(iter(trainings.values()))
    print("\n" + "\n".join(f"[{phase.name}] {phase.command}" for phase in trainings), flush=True)
    try:
        with ExitStack() as logs:
            for phase in trainings:
                log = found.folder.log(phase.name)
                logs.enter_context(log.running(phase.name, phase.command, share=1 / len(trainings)))
            first.together([training.job for training in trainings.values()], first.world_model)
    except Exception as error:
        text = f"{len(trainings)} stacked trainings failed ({in_a_line(error)}): each is tried by itself"
        print(text, file=sys.stderr, flush=True)
        return list(waiting)
    for phase in trainings:
        found.ended(phase, "")
    return [phase for phase in waiting if phase not in trainings]


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


def _side_by_side(phases: Sequence[Phase], found: Outcome, workers: int, bar: Bar) -> None:
    """Run phases in processes of one thread, `workers` at a time. Ctrl-C lets each save, and is raised."""
    waiting = list(reversed(phases))
    busy: dict[Any, tuple[BaseProcess, Phase]] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                connection, process = _start_worker(found.folder)
                busy[connection] = process, _hand_out(waiting, connection)
            ready: list[Any] = wait(list(busy))
            for connection in ready:
                process, phase = busy.pop(connection)
                found.ended(phase, _answer(connection, process))
                bar.advance()
                if waiting and process.is_alive():
                    busy[connection] = process, _hand_out(waiting, connection)
                else:
                    connection.close()
    finally:
        for process, _ in busy.values():
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        for process, _ in busy.values():
            process.join()


def _start_worker(folder: SweepFolder) -> tuple[Any, BaseProcess]:
    """A process that performs the phases that it is sent, and our end of the pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, folder))
    with children_without_interrupts():
        process.start()
    theirs.close()
    return ours, process


def _hand_out(waiting: list[Phase], connection: Any) -> Phase:
    """Send the next phase to a worker."""
    phase = waiting.pop()
    print(f"[{phase.name}] {phase.command}", flush=True)
    connection.send(phase)
    return phase


def _answer(connection: Any, process: BaseProcess) -> str:
    """A worker's error in a line, empty if its phase is done."""
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        return f"its process ended with status {process.exitcode} (-9: killed, out of memory?)"


def _work(connection: Any, folder: SweepFolder) -> None:
    """A worker: one thread, Ctrl-C from the parent only, no life without it."""
    os.setpgid(0, 0)
    end_with_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background may ignore it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while True:
            connection.send(attempt_aside(connection.recv(), folder))
    except EOFError:
        return
    except KeyboardInterrupt:
        sys.exit(130)
