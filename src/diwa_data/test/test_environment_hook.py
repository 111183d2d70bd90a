"""`source install/setup.bash` adds the building environment to the path, so that `ros2` finds its packages."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import setuptools

SETUP = Path(__file__).parents[1] / "setup.py"


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """`hook(version, path)`: lines of the hook where `ros2` runs under a Python of that version, with that path."""
    folder = tmp_path / "of ros2"
    folder.mkdir()
    ours = [str(tmp_path / "my venv" / "site-packages"), str(tmp_path / "base" / "dist-packages")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    monkeypatch.setattr(sys, "path", [*sys.path, *ours])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path not in ours))

    def build(version: tuple[int, int] | None, path: list[str]) -> list[str]:
        if version:
            python = tmp_path / "python"
            python.write_text(f"#!/bin/sh\necho '{json.dumps([version, path])}'\n")
            (folder / "ros2").write_text(f"#!{python}\nimport ros2cli\n")
            for file in (python, folder / "ros2"):
                file.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        runpy.run_path(str(SETUP))
        return Path("build/hook/environment.dsv").read_text().splitlines()

    return build


def test_what_ros2_lacks_is_put_behind_everything(hook, tmp_path):
    lines = hook(sys.version_info[:2], [str(tmp_path / "base" / "dist-packages")])
    assert lines == [f"append-non-duplicate;PYTHONPATH;{tmp_path}/my venv/site-packages"]


@pytest.mark.parametrize("version", [(3, sys.version_info[1] + 1), None])
def test_packages_of_another_python_are_not_put_on_the_path(hook, version):
    assert hook(version, []) == []


def test_colcon_knows_the_hook_and_the_package_installs_it(monkeypatch, tmp_path):
    told: dict = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: told.update(arguments))
    runpy.run_path(str(SETUP))
    (hook,) = json.loads((SETUP.parent / "colcon.pkg").read_text())["hooks"]
    folder = dict(told["data_files"])[os.path.dirname(hook)]
    assert [Path(file).name for file in folder] == [os.path.basename(hook)]
    assert Path(folder[0]).is_file()
