"""Files that are there whole or not at all; progress on a log."""

import os
import socket
from pathlib import Path

import pytest

from diwa_data.errors import DiwaError
from diwa_data.files import (
    atomic_path,
    expanded,
    full_disk_as_error,
    remove,
    require_new,
    require_output,
    require_output_folder,
    require_space,
)
from diwa_data.progress import Standing, listening, progress


def test_atomic_file_replaces_only_on_success(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(TypeError), atomic_path(path) as temporary:
        temporary.write_text("half") + "no number"  # type: ignore[operator]
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_only_if_it_is_recognised(tmp_path: Path) -> None:
    def ours(folder: Path) -> bool:
        return {path.name for path in folder.iterdir()} <= {"first", "second"}

    for content in ("first", "second"):
        with atomic_path(tmp_path / "folder", replaces=ours) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["second"]
    (tmp_path / "folder" / "thesis.tex").write_text("precious")
    with pytest.raises(DiwaError, match="never replaced"), atomic_path(tmp_path / "folder", replaces=ours):
        pytest.fail("refused before the work")
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
    remove(tmp_path / "folder")
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "empty folder", "link to a folder", "dangling link", "pipe", "socket"])
@pytest.mark.parametrize("written", ["file", "folder"])
def test_nothing_but_a_file_is_ever_replaced(tmp_path: Path, kind: str, written: str) -> None:
    path, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.tex").write_text("precious")
    if kind.endswith("folder") and "link" not in kind:
        path.mkdir()
    if kind == "folder":
        (path / "thesis.tex").write_text("precious")
    if "link" in kind:
        path.symlink_to(elsewhere if "folder" in kind else tmp_path / "nowhere")
    if kind == "pipe":
        os.mkfifo(path)
    if kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    before = sorted((str(p), p.lstat().st_ino, p.lstat().st_mode) for p in tmp_path.rglob("*"))
    with pytest.raises(DiwaError, match=r"out is (a folder|not an ordinary file).*choose another name"):
        require_output(path)
    with pytest.raises(DiwaError), atomic_path(path):
        pytest.fail("refused before the work")
    with pytest.raises(DiwaError, match="exists already: delete it, or choose another --out"):
        require_new(path)

    remove(path)  # and when it comes while the work is done
    with pytest.raises(DiwaError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.mkdir() if written == "folder" else temporary.write_text("new")
        path.mkdir()
    assert path.is_dir()
    path.rmdir()
    assert {str(p) for p in tmp_path.rglob("*")} == {name for name, *_ in before if not name.startswith(str(path))}


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    with pytest.raises(DiwaError, match="not replaced by a folder"), atomic_path(tmp_path / "notes") as temporary:
        temporary.mkdir()
    assert (tmp_path / "notes").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [tmp_path / "notes"]


def test_where_nothing_can_be_written_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiwaError, match="file is not a folder"):
        require_output(tmp_path / "file" / "deep" / "out")
    monkeypatch.setattr("diwa_data.files.os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(DiwaError, match=f"no permission to write into {tmp_path}"):
        require_output(tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        steps.append("renamed")
        replace(source, target)

    monkeypatch.setattr("diwa_data.files.os.fsync", synced)
    monkeypatch.setattr("diwa_data.files.os.replace", renamed)
    with atomic_path(tmp_path / "out") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "a").touch()
        (temporary / "b").touch()
    *contents, name, parent = steps
    assert sorted(contents) == sorted([temporary.name, "inner", "a", "b"])
    assert (name, parent) == ("renamed", tmp_path.name)
    steps.clear()
    with atomic_path(tmp_path / "file") as temporary:
        temporary.touch()
    assert steps == [temporary.name, "renamed", tmp_path.name]


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


def test_home_folders_are_found_and_unknown_ones_stay_as_written(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert [str(expanded(path)) for path in ("~/a", "b", "~no-such-user/c")] == ["/home/ada/a", "b", "~no-such-user/c"]


def test_the_root_folder_is_an_output_like_others() -> None:
    require_output_folder(Path("/"))
    with pytest.raises(DiwaError, match="/ is a folder, which is never replaced"):
        require_output(Path("/"))
