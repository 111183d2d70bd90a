"""The rules of the project that no single package can keep: who imports whom, one version, one set of commands."""

import ast
import re
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

import diwa_data

SOURCE = Path(__file__).parents[2]

MAY_IMPORT = {
    "diwa_data": {
        "numpy", "h5py", "scipy", "cv2", "rosbags", "yaml", "dacite", "rich", "openvr", "aiohttp", "cryptography",
        "rerun", "pyarrow", "imageio_ffmpeg",
    },
    "diwa_sim": {"numpy", "scipy", "mujoco", "OpenGL", "diwa_data"},
    "diwa_learning": {"numpy", "torch", "safetensors", "tensorboard", "matplotlib", "diwa_data"},
    "diwa_deploy": {"numpy", "torch", "diwa_data", "diwa_learning"},
    "diwa_cli": {
        "numpy", "scipy", "torch", "tyro", "rich", "matplotlib", "PIL", "imageio_ffmpeg", "cv2", "ray",
        "diwa_data", "diwa_sim", "diwa_learning", "diwa_deploy",
    },
}  # fmt: skip
ROS = {
    "rclpy", "rosbag2_py", "rosidl_runtime_py", "rcl_interfaces", "launch", "launch_ros", "ament_index_python",
    "action_msgs", "lifecycle_msgs", "diagnostic_msgs", "sensor_msgs", "geometry_msgs", "std_msgs", "std_srvs",
    "diwa_interfaces", "franka_msgs", "panda_py",
}  # fmt: skip
MODULES = [path for package in MAY_IMPORT for path in sorted((SOURCE / package / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_follow_the_table(path):
    package = path.relative_to(SOURCE).parts[0]
    allowed = MAY_IMPORT[package] | {package} | set(sys.stdlib_module_names)
    if "ros" in path.relative_to(SOURCE).parts:
        allowed |= ROS
    assert imported(path) <= allowed


@pytest.mark.parametrize("package", [*MAY_IMPORT, "diwa_interfaces"])
def test_version_stands_once_and_its_copies_agree(package):
    manifest = xml.etree.ElementTree.parse(SOURCE / package / "package.xml")
    assert manifest.findtext("version") == diwa_data.__version__
    setup = SOURCE / package / "setup.py"
    if setup.exists():
        assert re.search(r'version="([^"]+)"', setup.read_text()).group(1) == diwa_data.__version__
