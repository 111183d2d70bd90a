"""`make setup` on a machine that lacks something names the one line that cures it, and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[3] / ".ci" / "setup"
NO_VENV = """
import sys
sys.modules["ensurepip"] = None
"""
NO_LIBRARIES = """
import ctypes
def refuse(name, *_):
    raise OSError(name)
ctypes.CDLL = refuse
"""
OLD_PYTHON = """
import sys
sys.version_info = (3, 9, 2, "final", 0)
"""


@pytest.fixture
def setup(tmp_path):
    """Run the script as an ordinary user on a Python whose start-up runs some code first."""

    def run(code: str) -> subprocess.CompletedProcess:
        (tmp_path / "sitecustomize.py").write_text(code)
        user = tmp_path / "bin" / "id"
        user.parent.mkdir()
        user.write_text("#!/bin/sh\necho 1000\n")
        user.chmod(0o755)
        environment = {
            "PATH": f"{user.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(tmp_path),
            "PYTHON": sys.executable,
        }
        done = subprocess.run([SETUP, tmp_path / "venv"], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "venv").exists()
        return done

    return run


@pytest.mark.parametrize(
    ("code", "packages"),
    [
        (NO_VENV, "python3-venv"),
        (NO_LIBRARIES, "libegl1 libgl1 libgl1-mesa-dri"),
        (NO_VENV + NO_LIBRARIES, "python3-venv libegl1 libgl1 libgl1-mesa-dri"),
    ],
)
def test_a_missing_package_is_one_apt_line(setup, code, packages):
    assert f"sudo apt-get install -y --no-install-recommends {packages}\n" in setup(code).stderr


def test_another_python_is_refused_with_the_cure(setup):
    assert "Python 3.10 to 3.14 is needed" in setup(OLD_PYTHON).stderr


@pytest.mark.parametrize("index", ["", "https://download.pytorch.org/whl/cpu"])
def test_torch_alone_comes_from_the_index_that_is_named(tmp_path, index):
    stubs = {"python": "exit 1", "pip": f'echo "$@" >> {tmp_path}/asked', "diwa": "exit 0"}  # there is no torch yet
    (tmp_path / "bin").mkdir()
    for name, does in stubs.items():
        stub = tmp_path / "bin" / name
        stub.write_text(f"#!/bin/sh\n{does}\n")
        stub.chmod(0o755)
    environment = {**os.environ, "PYTHON": sys.executable, "TORCH_INDEX": index}
    subprocess.run(
        [SETUP, tmp_path], env=environment, capture_output=True, check=True, timeout=60, cwd=SETUP.parents[1]
    )
    torch, *others = (tmp_path / "asked").read_text().splitlines()
    assert torch.endswith(f"install -q {'--index-url ' + index + ' ' if index else ''}-r requirements-torch.txt")
    assert len(others) == 2
    assert "--index-url" not in " ".join(others)
