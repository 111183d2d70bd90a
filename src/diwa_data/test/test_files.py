"""Files that are there whole or not at all; progress on a log."""

from pathlib import Path

import pytest

from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path, full_disk_as_error, remove, require_space
from diwa_data.progress import Standing, listening, progress
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


def test_listeners_hear_each_step_of_the_bars_made_inside() -> None:
    heard: list[Standing] = []
    with listening(heard.append):
        with progress("count", 40, "things", done=10) as bar:
            bar.update(20, values={"loss": 0.5})
        with pytest.raises(ZeroDivisionError), listening(lambda _: 1 // 0), progress("other", 1, "things"):
            pass
    with progress("later", 1, "things") as unheard:
        unheard.advance()
    assert [(s.title, s.done, s.total, s.unit) for s in heard] == [
        ("count", 10, 40, "things"),
        ("count", 20, 40, "things"),
        ("other", 0, 1, "things"),
    ]
    assert heard[0].eta == float("inf")
    assert heard[1].rate > 0
    assert heard[1].eta == pytest.approx(2 * 10 / heard[1].rate)
    assert heard[1].values == {"loss": 0.5}


def test_time_left_is_told_in_minutes_and_seconds() -> None:
    assert Standing("count", 10, 200, "things", rate=2.0).clock() == "1:35"
    assert Standing("count", 10, 200, "things", rate=0.0).clock() == "unknown"


def test_unknown_skill_lists_the_known_ones() -> None:
    assert len(SKILLS) == 8
    assert require_skill("open_drawer") == "open_drawer"
    with pytest.raises(DiwaError, match="'open_door'; choose one of open_drawer, close_drawer"):
        require_skill("open_door")
