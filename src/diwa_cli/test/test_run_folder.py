"""The files of a run, whatever is in them: read, or one clear error."""

import json

import pytest

from diwa_cli.pipeline.sweep import claim
from diwa_cli.run_folder import PhaseLog, SweepFolder
from diwa_data.errors import DiwaError

DAMAGED = [
    b"{", b"\xff{}", b"[]", b"3", b'{"config": 3}', b'{"config": {"demo": 3}}', b'{"konfig": {}}', b"[" * 100_000,
    b"9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_description_is_one_error(tmp_path, content):
    folder = SweepFolder(tmp_path)
    folder.description.write_bytes(content)
    for read in (lambda: folder.learned_path, lambda: folder.is_sweep, lambda: claim(folder, "diwa sweep", {})):
        with pytest.raises(DiwaError, match=r"run\.json is damaged .*: delete it and run again"):
            read()


@pytest.mark.parametrize(
    "content",
    [*DAMAGED[:4], b'{"a": 3}', b'{"a": {}}', b'{"a": {"seconds": "x"}}', b'{"a": {"sekonds": 1}}', b'{"a": [1]}'],
)
def test_a_damaged_log_of_phases_is_one_error(tmp_path, content):
    path = tmp_path / "phases.json"
    path.write_bytes(content if content != b"[]" else b"[1]")
    with pytest.raises(DiwaError, match=r"phases\.json is damaged .*: delete it and run again"):
        PhaseLog(path, "a")


def test_a_run_is_begun_once_and_goes_on_with_the_same_settings(tmp_path):
    folder = SweepFolder(tmp_path / "run")
    for _ in range(2):
        claim(folder, "diwa sweep", {"sweep": {"seed": 0, "jobs": 1}})
    assert json.loads(folder.description.read_text())["config"] == {"sweep": {"seed": 0, "jobs": 1}}
    claim(folder, "diwa sweep", {"sweep": {"seed": 0, "jobs": 2}}, free=("jobs",))
    with pytest.raises(DiwaError, match=r"sweep\.seed was 0, is 1"):
        claim(folder, "diwa sweep", {"sweep": {"seed": 1, "jobs": 2}})
