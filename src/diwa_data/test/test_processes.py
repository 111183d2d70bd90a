"""Ctrl-C reaches this process, not the workers; they do not outlive it."""

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from diwa_data.errors import DiwaError
from diwa_data.processes import children_without_interrupts, run_unordered


def test_children_never_see_an_interrupt_and_this_process_gets_it_late():
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0.3,))
    with pytest.raises(KeyboardInterrupt):
        start_and_interrupt(child)
    child.join(20)
    assert child.exitcode == 0


def start_and_interrupt(child):
    """Ctrl-C, as a terminal sends it to both, while the child is starting."""
    with children_without_interrupts():
        child.start()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(child.pid, signal.SIGINT)
    time.sleep(20)  # a library's thread may take the signal, and pass it on a moment later


def test_the_processes_of_a_pool_end_when_this_one_is_killed(tmp_path: Path):
    owner = multiprocessing.get_context("spawn").Process(target=own_a_pool, args=(tmp_path,))
    owner.start()
    while not (pids := [int(path.name) for path in tmp_path.iterdir()]):
        assert owner.is_alive()
        time.sleep(0.02)
    owner.kill()
    owner.join()
    deadline = time.monotonic() + 20
    while any(map(runs, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.02)


def test_items_are_done_by_processes_and_an_error_ends_those_under_way(tmp_path: Path):
    left = [tmp_path / str(number) for number in range(4)]
    assert sorted(run_unordered(touch, left, 2, "died")) == ["0", "1", "2", "3"]
    with pytest.raises(DiwaError, match="no such item"):
        list(run_unordered(touch, [tmp_path / "wait", tmp_path / "wait too", tmp_path / "bad"], 3, "died"))
    assert not (tmp_path / "wait").exists()
    assert not (tmp_path / "wait too").exists()
    with pytest.raises(DiwaError, match="one of them died"):
        list(run_unordered(touch, [tmp_path / "kill", tmp_path / "0"], 2, "one of them died"))


def touch(path: Path) -> str:
    """Make a file; one whose name says so stays a minute, and is gone afterwards."""
    if path.name == "bad":
        while len(list(path.parent.glob("wait*"))) < 2:
            time.sleep(0.02)
        raise DiwaError("no such item")
    if path.name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    path.touch()
    try:
        time.sleep(60 * path.name.startswith("wait"))
    finally:
        if path.name.startswith("wait"):
            path.unlink()
    return path.name


def runs(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def own_a_pool(folder: Path) -> None:
    """Start two processes that would work for a minute, and wait for them."""
    list(run_unordered(time.sleep, [60, 60], 2, "died", partial(say_pid, folder)))


def say_pid(folder: Path) -> None:
    """Leave this process's number."""
    (folder / str(os.getpid())).touch()
