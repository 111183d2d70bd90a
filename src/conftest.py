"""Tests that need ROS 2 or CALVIN's environment run wherever it is installed; elsewhere they are left out, and counted.

Ctrl-C reaches the tests and the processes that they start, also where the shell ignores it.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # torch in each would use all cores, and wait for the others
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine fails no property
hypothesis.settings.load_profile("untimed")

NEEDS = {
    "ros": ("rclpy", "needs ROS 2 (rclpy)"),
    "workspace": ("diwa_interfaces", "needs ROS 2 and the workspace, built and sourced"),
    "calvin": ("calvin_env", "needs CALVIN's environment"),
}
"""Marker -> what must be there, and what is said if it is not."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, (module, reason) in NEEDS.items():
        if importlib.util.find_spec(module) is None:
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    cures = {"ROS 2": "source a ROS 2 setup", "CALVIN's environment": "install it (docs/calvin.md)"}
    for what, cure in cures.items():
        reports = terminalreporter.getreports("skipped")
        if left_out := [report for report in reports if f"needs {what}" in str(report.longrepr)]:
            terminalreporter.write_line(f"{len(left_out)} tests need {what} and were left out: {cure} to run them")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> Iterator[None]:
    """Its default handler: under `nohup` and in background jobs it is ignored, by child processes too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def domain() -> Iterator[int]:
    """A ROS domain of its own."""
    from diwa_data.testing.ros import own_domain

    with own_domain() as number:
        yield number


@pytest.fixture
def topics(domain: int) -> Iterator[Any]:
    """Publishes and subscribes in that domain."""
    from diwa_data.testing.ros import Topics

    made = Topics(domain)
    yield made
    made.close()
