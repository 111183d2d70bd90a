"""Tests that need ROS 2 run wherever rclpy can be imported; elsewhere they are left out, and counted."""

from __future__ import annotations

import importlib.util

import pytest

HAVE_ROS = importlib.util.find_spec("rclpy") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not HAVE_ROS:
        for item in items:
            if item.get_closest_marker("ros"):
                item.add_marker(pytest.mark.skip(reason="needs ROS 2 (rclpy)"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = [report for report in terminalreporter.getreports("skipped") if "needs ROS 2" in str(report.longrepr)]
    if left_out:
        terminalreporter.write_line(
            f"{len(left_out)} tests need ROS 2 and were left out: source a ROS 2 setup to run them"
        )
