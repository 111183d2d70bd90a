"""One process at a time in a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diwa_data.errors import DiwaError
from diwa_data.files import LOCK, FolderLock

HOLD = "import sys, time; from pathlib import Path; from diwa_data.files import FolderLock; "
HOLD += "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def test_the_second_process_is_told_who_holds_it_until_that_one_is_dead(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DiwaError, match=rf"{tmp_path} is in use by process {holder.pid} on .+ since 20\d\d-"):
            FolderLock(tmp_path)
        os.kill(holder.pid, signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    FolderLock(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_it_leaves_no_trace(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "new"):
        assert (tmp_path / "new" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    with FolderLock(tmp_path / "used"):
        (tmp_path / "used" / "file").touch()
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["file"]


def test_a_damaged_lock_file_still_locks(tmp_path: Path) -> None:
    with FolderLock(tmp_path):
        (tmp_path / LOCK).write_text("{")
        with pytest.raises(DiwaError, match="in use by another process"):
            FolderLock(tmp_path)
    (tmp_path / LOCK).write_text("{")
    FolderLock(tmp_path).release()
