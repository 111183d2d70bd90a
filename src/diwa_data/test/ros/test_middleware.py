"""The middleware's receive buffer: what it is, and that the shipped settings make it large enough."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from diwa_data.config import config_file

pytestmark = pytest.mark.ros

TELL = """
import rclpy
from diwa_data.ros import middleware
rclpy.init()
node = rclpy.create_node("told")
print("bytes", middleware.receive_buffer(), "problem:", middleware.small_buffer())
"""


def test_the_largest_buffer_of_this_process_is_found() -> None:
    from diwa_data.ros import middleware

    before = middleware.receive_buffer()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 150_000)
        assert middleware.receive_buffer() == max(before, 150_000)
    opened = len(os.listdir("/proc/self/fd"))
    with open(os.devnull):  # no socket
        for _ in range(20):
            middleware.receive_buffer()
    assert len(os.listdir("/proc/self/fd")) == opened, "it is asked once a second: nothing stays open"


@pytest.mark.parametrize("shipped", [True, False])
def test_the_shipped_settings_make_room_for_images(domain: int, monkeypatch, shipped: bool) -> None:
    from rclpy.utilities import get_rmw_implementation_identifier

    from diwa_data.testing.ros import Program

    if get_rmw_implementation_identifier() != "rmw_cyclonedds_cpp":
        pytest.skip("another middleware")
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
    if shipped:
        monkeypatch.setenv("CYCLONEDDS_URI", f"file://{config_file('cyclonedds.xml')}")
    program = Program(domain, sys.executable, "-c", TELL)
    said = program.wait_for("bytes")
    assert program.wait() == 0
    allowed = int(Path("/proc/sys/net/core/rmem_max").read_text())
    if shipped and allowed >= 4 << 20:
        assert said == f"bytes {4 << 20} problem:"
    else:
        assert "CycloneDDS's receive buffer is" in said
        assert "images of 720p need 4: sudo sysctl -w net.core.rmem_max=" in said
