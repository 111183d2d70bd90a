"""The rules of the project that no single package can keep: who imports whom, one version, one set of commands."""

import ast
import io
import re
import sys
import tokenize
import xml.etree.ElementTree
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import diwa_data

SOURCE = Path(__file__).parents[2]

MAY_IMPORT = {
    "diwa_data": {
        "numpy", "h5py", "scipy", "cv2", "rosbags", "yaml", "dacite", "rich", "openvr", "aiohttp", "cryptography",
        "rerun", "pyarrow", "huggingface_hub", "imageio_ffmpeg", "ruckig",
    },
    "diwa_sim": {"numpy", "scipy", "mujoco", "OpenGL", "gymnasium", "diwa_data"},
    "diwa_learning": {"numpy", "torch", "safetensors", "tensorboard", "matplotlib", "onnxruntime", "diwa_data"},
    "diwa_deploy": {"numpy", "torch", "diwa_data", "diwa_learning"},
    "diwa_cli": {
        "numpy", "scipy", "torch", "tyro", "rich", "matplotlib", "PIL", "imageio_ffmpeg", "cv2", "ray", "jinja2",
        "gymnasium", "huggingface_hub",
        "diwa_data", "diwa_sim", "diwa_learning", "diwa_deploy",
    },
}  # fmt: skip
ROS = {
    "rclpy", "rosbag2_py", "rosidl_runtime_py", "rcl_interfaces", "launch", "launch_ros", "ament_index_python",
    "action_msgs", "lifecycle_msgs", "diagnostic_msgs", "sensor_msgs", "geometry_msgs", "std_msgs", "std_srvs",
    "tf2_msgs", "diwa_interfaces", "franka_msgs", "panda_py",
}  # fmt: skip
ROOMS = {
    "diwa_data": ["", "teleop", "recording", "foreign", "dataset", "calvin lerobot view", "ros", "testing"],
    "diwa_sim": ["", "calvin", "environments", "mark_play operator replay", "ros"],
    "diwa_learning": ["core", "world_model", "policy reward ensemble", "agent finetune", "onnx_agent", "jobs", "ros"],
    "diwa_deploy": ["", "ros"],
    "diwa_cli": ["", "evaluation", "report", "pipeline", "experiments", "commands", "main"],
}
"""Package -> its rooms, lowest first: folders or modules; "" holds the modules that no other level names.

A room imports itself and what is lower, never its neighbours."""
NOT_LOCKED = ("panda",)  # a robot machine's own, installed on top
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
    if "ros" in path.relative_to(SOURCE).with_suffix("").parts:
        allowed |= ROS
    assert imported(path) <= allowed


def level(package: str, room: str) -> int:
    """Height of a room in its package."""
    return next((at for at, rooms in enumerate(ROOMS[package]) if room in rooms.split()), 0)


def rooms_imported(path: Path, package: str) -> set[str]:
    """Rooms of its own package that a module imports from, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            inside = node.module.split(".")[1:2]
            found |= set(inside) if inside else {name.name for name in node.names if not name.name.startswith("__")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_rooms_import_downwards_only(path):
    package, _, *inside = path.relative_to(SOURCE).with_suffix("").parts
    own = inside[0]
    for room in rooms_imported(path, package):
        same = room == own or (level(package, own) == level(package, room) == 0 and "" in ROOMS[package])
        assert same or level(package, room) < level(package, own), f"{own} imports {room}"


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_folders_and_files_are_of_a_size_to_be_read(package):
    folders = {path.parent for path in MODULES if package in path.parts}
    assert [str(folder) for folder in folders if len(list(folder.glob("*.py"))) > 18] == []
    assert [str(path) for path in MODULES if package in path.parts and len(path.read_text().splitlines()) > 400] == []


def test_the_lock_holds_every_dependency_but_torch_by_hash():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for name in extras if name not in NOT_LOCKED for each in extras[name])]
    entries = re.split(r"\n(?=\S)", (SOURCE.parent / "requirements.lock").read_text())
    locked: dict[str, list[Requirement]] = {}
    for entry in entries:
        if not entry.startswith("#"):
            assert "--hash=sha256:" in entry, entry
            requirement = Requirement(entry.split("\\\n")[0])
            locked.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    for requirement in map(Requirement, wanted):
        if requirement.name in ("torch", "diwa-ros2"):
            continue
        for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
            here = {"python_version": version, "python_full_version": f"{version}.0"}
            fits = [
                each
                for each in locked.get(canonicalize_name(requirement.name), [])
                if each.marker is None or each.marker.evaluate(here)
            ]
            assert len(fits) == 1, f"{requirement} for Python {version}: {fits}; run make lock"
            assert requirement.specifier.contains(str(fits[0].specifier).removeprefix("==")), f"{requirement}: {fits}"
    assert "torch" not in locked


def test_nobody_is_told_to_install_a_package_that_no_index_has():
    files = [path for path in SOURCE.parent.rglob("*") if path.suffix in (".py", ".md", ".html") and path.is_file()]
    told = [path for path in files if re.search(r"install .?diwa-ros2", path.read_text(errors="replace"))]
    assert [path for path in told if not {".venv", "build", "install"} & set(path.parts)] == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_both_builds_take_every_file_along(package):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    folder = SOURCE / package / package
    files = {path for path in folder.rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    found = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    patterns = found.get(package, [])
    assert files == {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    for pattern in patterns:
        assert f'"{pattern}"' in (SOURCE / package / "setup.py").read_text()


@pytest.mark.parametrize("package", [*MAY_IMPORT, "diwa_interfaces"])
def test_version_stands_once_and_its_copies_agree(package):
    manifest = xml.etree.ElementTree.parse(SOURCE / package / "package.xml")
    assert manifest.findtext("version") == diwa_data.__version__
    setup = SOURCE / package / "setup.py"
    if setup.exists():
        assert re.search(r'version="([^"]+)"', setup.read_text()).group(1) == diwa_data.__version__


NODE = {
    "_clients", "_clock", "_context", "_descriptors", "_guards", "_logger", "_parameters", "_publishers", "_services",
    "_subscriptions", "_time_source", "_timers",
}  # fmt: skip
"""Attributes of rclpy's Node, which a node of ours must not overwrite."""


@pytest.mark.parametrize("path", [path for path in MODULES if "ros" in path.parts], ids=lambda path: path.name)
def test_nodes_leave_the_attributes_of_rclpy_alone(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Node") for base in node.bases):
            stored = {
                each.attr
                for each in ast.walk(node)
                if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store)
            }
            assert not stored & NODE, node.name


STAMPED = {
    "clock.py", "teleop_node.py", "ros_robot.py", "panda_arm_node.py", "adapter_node.py", "sim_robot_node.py",
    "operator_node.py", "ros.py",
}  # fmt: skip
"""Modules that may ask the wall clock: for the stamps of what they publish, and nothing else."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_ages_deadlines_and_timers_do_not_hear_of_the_wall_clock(path):
    text = path.read_text()
    assert path.name in STAMPED or "time.time()" not in text
    assert path.name == "node.py" or ".create_timer(" not in text, "diwa_data.ros.node.every"
    assert not re.search(r"time\.time\(\) *[-<>]|[-<>] *time\.time\(\)", text) or path.name == "clock.py"


ROOT = SOURCE.parent
PAGES = ("README.md", "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
WRITTEN = [ROOT / name for name in (*PAGES, "Makefile")] + [
    path
    for folder in ("src", "benchmarks", "fuzz", "launch", "docs", "docker")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".yaml", ".html") and "build" not in path.parts
]
EXTENDING = ROOT / "docs/extending.md"
"""The page whose code blocks are files of a reader's."""
NOTES = r"\b(?:METHOD|ROBOT|DESIGN)\b(?!/)"
"""Names of notes that are not part of the repository; a path such as ROBOT/SKILL is none."""


def prose(path: Path) -> str:
    """A page, or the docstrings and comments of a module."""
    text = path.read_text()
    if path.suffix != ".py":
        return text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    return "\n".join(
        [token.string for token in tokens if token.type == tokenize.COMMENT]
        + [each.value for each in strings if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    )


def test_what_is_cited_is_here():
    known = {f"/{path.relative_to(ROOT)}" for path in WRITTEN if path.suffix == ".py"}
    known |= {f"/{name}" for name in re.findall(r'^```\w+ title="(.+)"$', EXTENDING.read_text(), re.MULTILINE)}
    missing: list[tuple] = []
    for path in WRITTEN:
        text = prose(path) if re.search(rf"\.py\b|docs/|\]\(|{NOTES}", path.read_text()) else ""
        missing += [(path, name) for name in re.findall(NOTES, text)]
        names = {name for name in re.findall(r"[\w./-]*\w\.py\b", text) if not name.startswith(("calvin_", "franka."))}
        missing += [(path, name) for name in names if not any(each.endswith(f"/{name}") for each in known)]
        links = [(ROOT / page, anchor) for page, anchor in re.findall(r"\b(docs/[\w/.-]+\.md)(?:#([\w-]+))?", text)]
        if path.suffix == ".md":
            relative = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", text)
            links += [(path.parent / target if target else path, anchor) for target, anchor in relative]
        missing += [(path, page) for page, _ in links if not page.exists()]
        missing += [(path, page, name) for page, name in links if name and page.exists() and name not in anchors(page)]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """Sections of a page as GitHub links them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
