"""Tests that need ROS 2 run wherever rclpy can be imported; elsewhere they are left out, and counted."""

from __future__ import annotations

import importlib.util

import pytest

NEEDS = {
    "ros": ("rclpy", "needs ROS 2 (rclpy)"),
    "workspace": ("diwa_interfaces", "needs ROS 2 and the workspace, built and sourced"),
}
"""Marker -> what must be there, and what is said if it is not."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, (module, reason) in NEEDS.items():
        if importlib.util.find_spec(module) is None:
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = [report for report in terminalreporter.getreports("skipped") if "needs ROS 2" in str(report.longrepr)]
    if left_out:
        terminalreporter.write_line(
            f"{len(left_out)} tests need ROS 2 and were left out: source a ROS 2 setup to run them"
        )
