"""Whether the middleware of this process can receive large images, measured on its own sockets."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from rclpy.utilities import get_rmw_implementation_identifier

CYCLONE = "rmw_cyclonedds_cpp"
NEEDED = 4_000_000
"""Bytes of a socket's receive buffer that hold an image of 1280x720 bgra8, which comes in one burst."""
CURE = (
    "sudo sysctl -w net.core.rmem_max=8388608, and in every shell export "
    "CYCLONEDDS_URI=file://$(ros2 pkg prefix --share diwa_data)/config/cyclonedds.xml"
)
_FILES = "/proc/self/fd"
_KERNEL = Path("/proc/sys/net/core/rmem_max")


def receive_buffer() -> int:
    """Bytes of the largest receive buffer among the UDP sockets of this process; 0 if it has none."""
    sizes = [0]
    for number in map(int, os.listdir(_FILES)):
        with suppress(OSError):  # it may be closed by now
            if os.readlink(f"{_FILES}/{number}").startswith("socket:"):
                with socket.socket(fileno=os.dup(number)) as one:
                    is_udp = one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_DGRAM
                    sizes += [one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2] * is_udp  # Linux says double
    return max(sizes)


def small_buffer() -> str:
    """Reason why large images from other processes may be lost here, with the cure; empty if they are not.

    CycloneDDS sends an image in one burst of packets, of which the default buffer holds a part. There must be a node.
    """
    if get_rmw_implementation_identifier() != CYCLONE or not 0 < (found := receive_buffer()) < NEEDED:
        return ""
    kernel = f" (the kernel allows {int(_KERNEL.read_text()) / 1e6:.1f})" if _KERNEL.is_file() else ""
    return (
        f"CycloneDDS's receive buffer is {found / 1e6:.1f} MB{kernel}, images of 720p need {NEEDED / 1e6:.0f}: {CURE}"
    )
