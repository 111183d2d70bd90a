"""Ctrl-C reaches this process, not the workers."""

import multiprocessing
import os
import signal
import time

import pytest

from diwa_data.processes import children_without_interrupts


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
