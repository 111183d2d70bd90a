"""Running a node until Ctrl-C, or until its work is done."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.signals import SignalHandlerOptions

from diwa_data.errors import DiwaError

_LOOK_UP_EVERY = 0.2  # seconds: how soon a silent node notices a signal


def every(node: Any, seconds: float, callback: Callable[[], None]) -> None:
    """Call `callback` every so many seconds.

    The timers of rclpy stand still while the wall clock is behind where it was, or waits for `/clock`; these do not.
    """
    node.create_timer(seconds, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))


class ClosableNode(Protocol):
    """A node that has something to finish or to give back."""

    def close(self) -> None:
        """Finish; called once, whatever ended the node."""

    def destroy_node(self) -> None:
        """Of `rclpy.node.Node`."""


class WorkingNode(ClosableNode, Protocol):
    """A node that does one thing and ends."""

    def work(self) -> None:
        """That one thing; KeyboardInterrupt may end it anywhere."""


def run_work(make: Callable[[], WorkingNode]) -> None:
    """Make a node, have it work in this thread while another spins it, and exit.

    0 when it is done, and after Ctrl-C or SIGTERM, which raise KeyboardInterrupt in the work unless it has handlers of
    its own; 2 with one line after a `DiwaError`, or an error of a file.
    """
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    node: WorkingNode | None = None
    ended, status = threading.Event(), 0
    spinning = threading.Thread(target=lambda: _spin(node, ended), daemon=True)
    try:
        node = make()
        spinning.start()
        node.work()
    except KeyboardInterrupt:
        pass
    except (DiwaError, OSError) as error:
        get_logger("diwa").fatal(str(error))
        status = 2
    finally:
        leave_in_peace()
        ended.set()
        if spinning.ident is not None:
            spinning.join()
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    sys.exit(status)


def leave_in_peace() -> None:
    """From now on signals are ignored: a second Ctrl-C must not change the status of a process that is ending."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _spin(node: Any, ended: threading.Event) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not ended.is_set():
        executor.spin_once(timeout_sec=_LOOK_UP_EVERY)


def run_node(make: Callable[[], ClosableNode]) -> None:
    """Make a node, spin it and exit: 0 after Ctrl-C, SIGTERM or `SystemExit`, 2 with one line after a `DiwaError`.

    A signal waits for the running callback, and the node can still publish while it closes.
    """
    stopped: list[int] = []
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    node: ClosableNode | None = None
    status = 0
    try:
        node = make()
        every(node, _LOOK_UP_EVERY, lambda: None)  # cheaper than a timeout, which is a new timer at every spin
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not stopped:
            executor.spin_once()
    except SystemExit:
        pass
    except DiwaError as error:
        get_logger("diwa").fatal(str(error))
        status = 2
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
        leave_in_peace()
    sys.exit(status)
