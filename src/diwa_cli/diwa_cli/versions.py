"""What a run was made with: software versions and machine."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from diwa_data import __version__

LIBRARIES = ("numpy", "scipy", "h5py", "opencv-python-headless", "rosbags", "torch", "mujoco", "safetensors", "tyro")


def versions() -> dict[str, str]:
    """Python, this project and the libraries that decide its results."""
    found = {"diwa-ros2": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, str | int]:
    """Operating system, processor and cores that this process may use."""
    return {"system": platform.platform(), "processor": _processor(), "cores": len(os.sched_getaffinity(0))}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
