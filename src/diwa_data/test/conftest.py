"""Small real bags and a small spec that the tests of this package share."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from diwa_data.spec import CameraSpec, Spec
from diwa_data.testing.synthetic import record_synthetic

SMALL = Spec(
    cameras=(
        CameraSpec("static", record_size=(40, 48), size=(16, 16)),
        CameraSpec("gripper", record_size=(40, 48), size=(16, 16)),
    ),
    scene_state=("drawer", "slider"),
)


@pytest.fixture(scope="session")
def spec() -> Spec:
    """Two small cameras and two numbers of scene state."""
    return SMALL


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 000000, a demonstration of 3 s, success marked at 2 s (MCAP), and 000001, 2 s of play (sqlite3)."""
    folder = tmp_path_factory.mktemp("bags")
    labels = {"source": "demonstration", "skill": "open_drawer", "seed": 7}
    record_synthetic(folder, SMALL, 3.0, labels, success=2.0)
    record_synthetic(folder, SMALL, 2.0, {"source": "play", "skill": "", "seed": 8}, storage="sqlite3")
    return folder


@pytest.fixture
def bags(recorded: Path, tmp_path: Path) -> Path:
    """A copy of `recorded` that a test may damage."""
    return Path(shutil.copytree(recorded, tmp_path / "bags"))


@pytest.fixture
def tiny_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder on a disk of 1 MB, or of what is given indirectly."""
    size = getattr(request, "param", "1m")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount a tmpfs (root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
