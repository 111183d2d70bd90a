"""Every import is declared where ROS looks for it: in package.xml, or in the one pip step that docs/ros2.md names."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ("diwa_data", "diwa_sim", "diwa_learning", "diwa_deploy", "diwa_cli")
MODULES = {
    "opencv-python-headless": "cv2", "imageio-ffmpeg": "imageio_ffmpeg", "openvr": "openvr", "rerun-sdk": "rerun",
    "panda-python": "panda_py", "huggingface-hub": "huggingface_hub", "python3-yaml": "yaml", "pyyaml": "yaml",
    "python3-pil": "PIL", "pillow": "PIL",
}  # fmt: skip
"""Names of distributions and rosdep keys whose module is called otherwise."""
OPTIONAL = ("view", "onnx", "lerobot", "hub", "scale", "panda", "vive", "webxr")
"""Extras of pyproject.toml: imported where they are used, with an error that names them."""


def name_of(requirement: str) -> str:
    return re.split(r"[<>=\[ ]", requirement)[0]


def module_of(name: str) -> str:
    return MODULES.get(name, name.removeprefix("python3-"))


@pytest.fixture(scope="module")
def project() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def by_pip() -> list[str]:
    lines = (ROOT / "requirements-ros.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def declared(package: str) -> set[str]:
    """Names in package.xml."""
    root = ElementTree.parse(ROOT / "src" / package / "package.xml").getroot()
    return {str(element.text) for element in root if element.tag in ("depend", "exec_depend")}


def imported(package: str) -> set[str]:
    """Top-level modules that the package and its launch files import."""
    files = [*(ROOT / "src" / package / package).rglob("*.py")]
    setup = (ROOT / "src" / package / "setup.py").read_text()
    files += [ROOT / "launch" / name for name in re.findall(r'launch/(\w+\.launch\.py)"', setup)]
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            found |= {name.partition(".")[0] for name in names}
    return found - {*sys.stdlib_module_names, package, "__future__"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_declared(package: str, project: dict, by_pip: list[str]) -> None:
    extras = [name for extra in OPTIONAL for name in project["optional-dependencies"][extra]]
    known = {module_of(name) for name in declared(package)}
    known |= {module_of(name_of(requirement)) for requirement in (*by_pip, *extras)}
    assert imported(package) <= known


def test_the_pip_step_holds_what_rosdep_does_not(project: dict, by_pip: list[str]) -> None:
    wanted = {*project["dependencies"], *project["optional-dependencies"]["sim"]}
    assert {*by_pip} <= wanted, "the versions are pyproject's"
    keys = {module_of(name) for package in PACKAGES for name in declared(package)}
    left = {name_of(requirement) for requirement in wanted - {*by_pip}}
    assert {name for name in left if module_of(name) not in keys} == set()


CONDA = {"pytorch-cpu": "torch", "python3-pil": "pillow", "python3-yaml": "pyyaml"}
"""Names of one package in conda's, rosdep's and pip's words."""


def test_pixi_holds_what_ros_and_pip_would_install_and_its_tasks_launch_what_there_is(by_pip: list[str]) -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    text = (ROOT / "pixi.toml").read_text()
    found = tomllib.loads(text)
    conda, pip = found["dependencies"], found["pypi-dependencies"]
    ros = {name for name in conda if name.startswith("ros-jazzy-")}
    roots = [ElementTree.parse(file).getroot() for file in sorted((ROOT / "src").glob("*/package.xml"))]
    kinds = ("depend", "exec_depend", "build_depend", "buildtool_depend")
    keys = {str(element.text) for root in roots for element in root if element.tag in kinds}
    keys -= {str(root.findtext("name")) for root in roots}
    named = {CONDA.get(key, key.removeprefix("python3-")) for key in keys if key.startswith("python3-")}
    wanted = {f"ros-jazzy-{key.replace('_', '-')}" for key in keys if not key.startswith("python3-")}
    looked_at = {"ros-jazzy-ros2cli-common-extensions", "ros-jazzy-rmw-cyclonedds-cpp"}
    assert ros == wanted | looked_at
    assert named <= set(conda)
    versions = {CONDA.get(name, name): version for name, version in {**conda, **pip}.items()}
    for requirement in by_pip:
        assert versions[name_of(requirement)] == requirement.removeprefix(name_of(requirement))
    assert "UNSOLVED" in text
    for task in ("teleop-sim", "skill-sim"):
        package, launch = re.findall(r"ros2 launch (\w+) (\w+\.launch\.py)", found["tasks"][task]["cmd"])[0]
        assert (
            f'"launch/{launch}"' in (ROOT / "src" / package / "setup.py").read_text()
            or (ROOT / "src" / package / "launch" / launch).is_file()
        )
        arguments = re.findall(r"(\w+):=", found["tasks"][task]["cmd"])
        assert all(f'"{name}"' in (ROOT / "launch" / launch).read_text() for name in arguments), arguments
