"""Files that are there whole or not at all; progress on a log."""

from pathlib import Path

import pytest

from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path, full_disk_as_error, remove, require_space
from diwa_data.progress import progress
from diwa_data.skills import SKILLS, require_skill


def test_atomic_file_replaces_only_on_success(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(TypeError), atomic_path(path) as temporary:
        temporary.write_text("half") + "no number"  # type: ignore[operator]
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_atomic_folder(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["second"]
    remove(tmp_path / "folder")
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_named(tiny_disk: Path) -> None:
    with pytest.raises(DiwaError, match=r"no space left to write .*file"), atomic_path(tiny_disk / "file") as temporary:
        temporary.write_bytes(bytes(2_000_000))
    assert list(tiny_disk.iterdir()) == []
    with pytest.raises(DiwaError, match="no space left"):
        require_space(tiny_disk / "file", 500_000)
    with pytest.raises(DiwaError, match="no space left"), full_disk_as_error(tiny_disk / "file"):
        raise RuntimeError("errno = 28, error message = 'No space left on device'")
    with pytest.raises(RuntimeError, match="other"), full_disk_as_error(tiny_disk / "file"):
        raise RuntimeError("other")


def test_progress_prints_rate_and_eta(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("count", 3, "things") as bar:
        for _ in range(3):
            bar.advance(note="fine")
    assert "count: 3/3 things" in capsys.readouterr().out


def test_unknown_skill_lists_the_known_ones() -> None:
    assert len(SKILLS) == 8
    assert require_skill("open_drawer") == "open_drawer"
    with pytest.raises(DiwaError, match="'open_door'; choose one of open_drawer, close_drawer"):
        require_skill("open_door")
