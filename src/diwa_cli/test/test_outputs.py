"""Outputs of commands: refused before the work where nothing may be replaced, or where another process writes."""

import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest

import diwa_cli.arguments
from diwa_cli.arguments import output_checks
from diwa_cli.main import COMMANDS
from diwa_cli.video import require_film
from diwa_data.files import FolderLock, require_output
from diwa_data.spec import CameraSpec, Spec
from diwa_data.testing.synthetic import record_synthetic

SMALL = Spec(cameras=(CameraSpec("static", (40, 48)), CameraSpec("gripper", (40, 48))))
OUTPUTS = {"out", "video", "save", "figure", "thumbnails"}
"""Names of parameters that are outputs."""
IN_PLACE = {"annotate", "recover", "report", "calibrate", "skills", "doctor", "seal", "push", "serve-policy"}
"""Commands that name no output: they change, complete, send or serve what is given, or write where a setting says."""


FUNCTIONS = [name for name, (place, _) in COMMANDS.items() if ":" not in place]
"""Commands that are not jobs."""


def signature(name, monkeypatch):
    """The parameters of a command, taken where its arguments would be parsed."""
    found = []
    monkeypatch.setattr(diwa_cli.arguments.tyro, "cli", lambda command, **_: found.append(inspect.signature(command)))
    getattr(importlib.import_module(f"diwa_cli.{COMMANDS[name][0]}"), name.replace("-", "_"))([])
    return list(found[0].parameters.values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_output_is_declared_as_one(name, monkeypatch):
    declared = {p.name for p in signature(name, monkeypatch) if output_checks(p)}
    assert declared == {p.name for p in signature(name, monkeypatch) if p.name in OUTPUTS and p.annotation is not bool}
    assert declared or name in IN_PLACE


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in (*FUNCTIONS, "run-skill", "experiment")])
def test_a_job_writes_nothing_where_nothing_may_be_written(name, tmp_path, diwa):
    module, _, job = COMMANDS[name][0].partition(":")
    job = getattr(importlib.import_module(module if module.startswith("diwa_") else f"diwa_cli.{module}"), job)
    kinds = {field.name: str(field.type) for field in dataclasses.fields(job)}
    inputs = [one for one, kind in kinds.items() if "Path" in kind and one != "out"]
    words = {one: [tmp_path / "any"] if one in job.positional else [f"--{one.replace('_', '-')}"] for one in inputs}
    for one in set(inputs) - set(job.positional):
        words[one] += ["base", tmp_path / "any"] if "dict" in kinds[one] else [tmp_path / "any"]
    out = tmp_path / "precious"
    if job.check_out in (require_output, require_film):  # of a single file
        out.mkdir()
    else:
        out.write_text("precious")
    ran = diwa(name, *(word for each in words.values() for word in each), "--out", out)
    assert ran.status == 2
    assert "is a file: name a folder" in ran.err or "is a folder, which is never replaced" in ran.err
    assert out.is_dir() or out.read_text() == "precious"


@pytest.fixture
def precious(tmp_path) -> Path:
    """A folder of the user's."""
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    yield folder
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("thesis.tex", "precious")]


@pytest.mark.parametrize(
    "words",
    [
        ["run-skill", "--skill", "turn_on_led", "--video"],
        ["build-dataset", "bags", "--out"],
        ["import-calvin", "calvin", "--out"],
        ["import-lerobot", "folder", "--out"],
        ["export-lerobot", "D.h5", "--out"],
        ["replay", "D.h5", "--out"],
        ["inspect", "bags", "--thumbnails"],
        ["view", "bags", "--save"],
        ["calibrate", "--calibration"],
        ["compare", "--each", "run", "--out"],
        ["compare", "run", "--out"],
        ["compare", "run", "--figure"],
        ["bundle", "--compact", "bundle", "--out"],
        ["bundle", "--skill", "open_drawer", "--world-model", "w", "--policy", "p", "--reward", "r", "--demonstrations",
         "d", "--out"],
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)  # fmt: skip
def test_a_folder_of_the_users_is_never_replaced(diwa, precious, words):
    ran = diwa(*words, precious)
    assert (ran.status, len(ran.err.splitlines())) == (2, 1), ran.err
    assert f"{precious} is a folder, which is never replaced" in ran.err or f"{precious} exists already" in ran.err


def test_nor_is_a_run_begun_in_it(diwa, precious, tmp_path, checkpoints):
    models = ["--world-model", checkpoints.world_model, "--reward", checkpoints.reward]
    for words in (
        ["demo", "--preset", "debug"],
        ["sweep", "--preset", "debug"],
        ["evaluate", "--policies", "base", checkpoints.policy, *models],
        ["check-world-model", "--world-model", checkpoints.world_model, "--play", "D.h5"],
        ["evaluate-world-model", "--world-model", checkpoints.world_model, "--dataset", "D.h5"],
    ):
        ran = diwa(*words, "--out", precious)
        assert (ran.status, len(ran.err.splitlines())) == (2, 1), ran.err
        assert f"{precious} holds thesis.tex, but no " in ran.err
    ran = diwa("record", "--out", precious / "thesis.tex", "--minutes", "1")
    assert f"{precious / 'thesis.tex'} is a file: name a folder" in ran.err


def test_one_process_at_a_time_in_a_run(diwa, tmp_path, checkpoints):
    bag = record_synthetic(tmp_path / "bags", SMALL, 1.0, {"source": "play", "skill": ""})
    models = ["--world-model", checkpoints.world_model, "--reward", checkpoints.reward]
    out = tmp_path / "out"
    with FolderLock(out), FolderLock(tmp_path / ".D.h5.parts"):
        for words in (
            ["record", "--skill", "open_drawer", "--out", out],
            ["demo", "--preset", "debug", "--out", out],
            ["sweep", "--preset", "debug", "--out", out],
            ["evaluate", "--policies", "base", checkpoints.policy, *models, "--out", out],
            ["build-dataset", bag, "--out", tmp_path / "D.h5"],
        ):
            ran = diwa(*words)
            assert (ran.status, len(ran.err.splitlines())) == (2, 1), ran.err
            assert "is in use by process " in ran.err
            assert "choose another folder" in ran.err
    assert not list(out.parent.glob("**/.lock"))
