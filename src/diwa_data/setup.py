"""Build of the ROS 2 package; the pip install of the whole project is described in the root pyproject.toml."""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup

HOOK = Path("build/hook/environment.dsv")
"""Environment hook (colcon.pkg): what `source install/setup.bash` adds to PYTHONPATH."""
ABOUT = "import json, sys; print(json.dumps([list(sys.version_info[:2]), sys.path]))"


def building_environment() -> list[str]:
    """Folders of packages that the Python running this has, and the one that runs `ros2` has not.

    Empty where `ros2` runs under another minor version, for which compiled packages do not load.
    """
    ros2 = shutil.which("ros2")
    if ros2 is None:
        return []
    shebang = Path(ros2).read_bytes().split(b"\n")[0].decode(errors="replace")
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    told = subprocess.run([*shlex.split(shebang.lstrip("#!")), "-c", ABOUT], env=bare, capture_output=True, text=True)
    version, theirs = json.loads(told.stdout or "[[], []]")
    if version != list(sys.version_info[:2]):
        return []
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    ours = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    return [path for path in ours if path not in given + theirs]


def write_hook() -> None:
    """Write the hook: behind ROS 2 and the workspace, whose modules win where both have them."""
    HOOK.parent.mkdir(parents=True, exist_ok=True)
    HOOK.write_text("".join(f"append-non-duplicate;PYTHONPATH;{path}\n" for path in building_environment()))


def tell_missing() -> None:
    """Say on stderr, which colcon shows, what `rosdep install` has left to pip."""
    step = Path(__file__).resolve().parents[2] / "requirements-ros.txt"
    lines = step.read_text().splitlines() if step.is_file() else []
    names = [re.split(r"[<>=]", line)[0] for line in lines if line and not line.startswith("#")]
    if missing := [name for name in names if not any(importlib.metadata.distributions(name=name))]:
        print(f"no {', '.join(missing)} here: {sys.executable} -m pip install -r {step}", file=sys.stderr)


write_hook()
if "install" in sys.argv or "develop" in sys.argv:
    tell_missing()
setup(
    name="diwa_data",
    version="0.2.0",
    packages=find_packages(include=["diwa_data", "diwa_data.*"]),
    package_data={
        "diwa_data": [
            "py.typed",
            "config/*.yaml",
            "config/*.xml",
            "config/*.rviz",
            "config/*.json",
            "lerobot/mappings/*.yaml",
            "teleop/*.html",
            "view/*.html",
        ]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_data"]),
        ("share/diwa_data", ["package.xml"]),
        ("share/diwa_data/hook", [str(HOOK)]),
        (
            "share/diwa_data/config",
            [f"diwa_data/config/{name}" for name in ("cyclonedds.xml", "diwa.rviz", "foxglove.json")],
        ),
        ("share/diwa_data/launch", ["launch/teleop_record.launch.py", "launch/build_dataset.launch.py"]),
    ],
    zip_safe=True,
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "teleop_node = diwa_data.ros.teleop_node:main",
            "recorder_node = diwa_data.ros.recorder_node:main",
            "camera_node = diwa_data.ros.camera_node:main",
            "adapter_node = diwa_data.ros.adapter_node:main",
        ]
    },
)
