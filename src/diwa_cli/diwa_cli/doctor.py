"""`diwa doctor`: where everything was imported from, and whether this machine can do what the project needs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from diwa_data import __version__
from diwa_data.errors import DiwaError
from diwa_data.robot_config import RobotConfig, load_robot, robot_file
from diwa_data.view.inspect import spec_lines
from diwa_deploy.checks import Check, check_robot

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


def examine_robot(name: str, seconds: float, namespace: str = "") -> bool:
    """Print a line for each thing that a robot's file says; whether all of them are so. Raises `DiwaError`.

    `namespace`: that of the robot's nodes and topics.
    """
    if not 0.5 <= seconds <= 600.0:
        raise DiwaError(f"--seconds is {seconds:g}; it must lie between 0.5 and 600")
    path = robot_file(name)
    robot = load_robot(path)
    print(f"{'file':<20} OK   {path}")
    print(f"{'contract':<20} OK   {'; '.join(spec_lines(robot.spec)).removeprefix('spec: ')}")
    if importlib.util.find_spec("rclpy") is None:
        print(f"{'graph':<20} ROS 2 is not sourced here: only the file was checked")
        return True
    graph = importlib.import_module("diwa_deploy.ros.look").look(robot, seconds, namespace)
    checks = [*check_robot(robot, graph), _packages(robot)]
    for check in checks:
        print(f"{check.name:<20} {'OK ' if check.good else 'BAD'}  {check.text}")
    return all(check.good for check in checks)


PACKAGES = ("diwa_data", "diwa_sim", "diwa_learning", "diwa_deploy", "diwa_cli")


def doctor() -> bool:
    """Print what is found; whether all of it is in order."""
    healthy = True
    for name, value in {**versions(), **machine()}.items():
        print(f"{name:<24} {value}")
    for name in PACKAGES:
        module = importlib.import_module(name)
        print(f"{name:<24} {Path(module.__file__ or '').parent}")
    checks = {"torch threads": _threads, "graphics": _graphics, "video": _video, "ROS 2": _ros, "disk": _disk}
    for name, check in checks.items():
        try:
            print(f"{name:<24} {check()}")
        except DiwaError as error:
            print(f"{name:<24} error: {error}")
            healthy = False
    return healthy


def _threads() -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{torch.get_num_threads()}, {device}"


def _graphics() -> str:
    """Render one picture."""
    import time

    from diwa_sim.table import SimulatedPanda

    robot = SimulatedPanda()
    try:
        robot.observe()
        started = time.perf_counter()
        robot.observe()
        seconds = time.perf_counter() - started
    finally:
        robot.close()
    return f"off-screen rendering works, {1e3 * seconds:.1f} ms for both cameras"


def _video() -> str:
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise DiwaError(f"no ffmpeg ({error}): pip install imageio-ffmpeg") from error


def _ros() -> str:
    found = importlib.util.find_spec("rclpy")
    if found is None:
        return "not sourced: only nodes and launch files need it"
    distribution = os.environ.get("ROS_DISTRO", "unknown distribution")
    return f"{distribution}, rclpy from {Path(str(found.origin)).parent}; {_packages(RobotConfig()).text}"


def _packages(robot: RobotConfig) -> Check:
    """Packages of others that real robots need."""
    check: Check = importlib.import_module("diwa_deploy.ros.packages").check_packages(robot)
    return check


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < 2:
        raise DiwaError(f"{free:.1f} GB free here; a demo takes up to 1 GB")
    return f"{free:.0f} GB free here"
