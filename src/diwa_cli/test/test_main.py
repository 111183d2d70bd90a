"""The command as a user meets it: help, exit statuses, one line for every error, every command once."""

import json
import os
import subprocess
import sys
import time

import pytest

from diwa_cli.main import COMMANDS
from diwa_deploy.bundle import write_bundle


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """One demonstration: its bag and its dataset."""
    folder = tmp_path_factory.mktemp("recorded")
    for words in (
        ["record", "--skill", "open_drawer", "--episodes", "1", "--workers", "1", "--out", "bags"],
        ["build-dataset", "bags", "--out", "demonstrations.h5", "--workers", "1"],
    ):
        subprocess.run([sys.executable, "-m", "diwa_cli.main", *words], cwd=folder, check=True, timeout=120)
    return folder


@pytest.fixture
def bundle(checkpoints, tmp_path):
    """Untrained networks as a bundle for opening drawers."""
    parts = {name: getattr(checkpoints, name) for name in ("world_model", "policy", "reward")}
    return write_bundle(tmp_path / "skills" / "open_drawer", parts, {"skill": "open_drawer"})


def test_help_is_quick_and_lists_every_command(tmp_path):
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "diwa_cli.main", "--help"], capture_output=True, text=True, timeout=30)
    assert time.perf_counter() - started < 0.5 * (4 if "PYTEST_XDIST_WORKER" in os.environ else 2)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_heavy_libraries_wait_for_their_command():
    heavy = {"torch", "mujoco", "matplotlib"}
    code = f"import sys, diwa_cli.main as main; main.usage(); sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(diwa, name):
    ran = diwa(name, "--help")
    assert ran.status == 0
    assert f"usage: diwa {name}" in ran.out


def test_version(diwa):
    assert diwa("--version").out.startswith("diwa 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "unknown command 'fly'; choose one of record, calibrate"),
        (["run-skill", "--skill", "fly"], "unknown skill 'fly'; choose one of open_drawer, close_drawer"),
        (["record", "--out", "x", "--skill", "fly"], "unknown skill 'fly'"),
        (["demo", "--preset", "huge"], "unknown preset 'huge'; choose debug, laptop, paper"),
        (["finetune", "--config", "nowhere.yaml"], "no configuration file nowhere.yaml"),
        (["replay", "nowhere.h5"], "no dataset nowhere.h5"),
        (["inspect", "nowhere"], "nowhere does not exist"),
        (["recover", "nowhere"], "nowhere does not exist"),
        (["build-dataset", "nowhere", "--out", "x.h5"], "nowhere"),
        (["report", "nowhere"], "no run folder nowhere"),
    ],
)
def test_an_error_is_one_line_and_status_2(diwa, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = diwa(*words)
    assert ran.status == 2
    assert ran.err.startswith("error: ")
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_one_error(diwa, recorded, tmp_path):
    (tmp_path / "file").write_text("")
    ran = diwa("build-dataset", recorded / "bags", "--out", tmp_path / "file" / "x.h5")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert str(tmp_path / "file") in ran.err


def test_unknown_flags_are_refused(diwa):
    ran = diwa("record", "--out", "x", "--episods", "3")
    assert ran.status == 2
    assert "--episods" in ran.err
    assert "--episodes" in ran.err


def test_data_commands(diwa, recorded):
    dataset = recorded / "demonstrations.h5"
    assert "1 demonstration open_drawer" in diwa("inspect", dataset).out
    assert "1 bags" in diwa("inspect", recorded / "bags").out
    assert diwa("recover", recorded / "bags").err.startswith("error: nothing to recover")
    ran = diwa("replay", dataset, "--out", recorded / "replay.json")
    assert (ran.status, ran.out.splitlines()[-1].split()[:4]) == (0, ["open_drawer", "1", "of", "1"])
    assert json.loads((recorded / "replay.json").read_text())["shares"] == {"open_drawer": 1.0}
    assert diwa("replay", dataset, "--minimum", "1.1").status == 1


def test_learning_commands_refuse_checkpoints_of_another_phase(diwa, recorded, checkpoints, tmp_path):
    data = ["--demonstrations", recorded / "demonstrations.h5", "--out", tmp_path / "out"]
    ran = diwa("train-policy", "--world-model", checkpoints.policy, *data)
    assert (ran.status, "is a policy checkpoint, a world_model checkpoint is needed" in ran.err) == (2, True)
    ran = diwa("train-reward", "--world-model", tmp_path / "nowhere", *data)
    assert (ran.status, "no checkpoint folder" in ran.err) == (2, True)
    ran = diwa("train-policy", "--world-model", checkpoints.world_model, "--demonstrations", "nowhere.h5", *data[2:])
    assert (ran.status, "no dataset nowhere.h5" in ran.err) == (2, True)


def test_evaluate(diwa, checkpoints, tmp_path):
    networks = ["--world-model", checkpoints.world_model, "--reward", checkpoints.reward, "--out", tmp_path]
    policies = ["--policies", "base", checkpoints.policy, "finetuned", checkpoints.other_policy]
    small = ["--rollouts", "2", "--max-steps", "2", "--videos", "0", "--workers", "1", "--seeds", "tuning"]
    ran = diwa("evaluate", *policies, *networks, *small)
    assert ran.status == 0
    assert "finetuned - base: +0 points" in ran.out


def test_run_skill_with_a_bundle_and_with_an_installed_one(diwa, bundle, tmp_path, monkeypatch):
    steps = ["--max-steps", "3", "--success-ticks", "0"]
    ran = diwa(
        "run-skill", "--skill", "open_drawer", "--checkpoint", bundle.path, "--video", tmp_path / "a.mp4", *steps
    )
    assert ran.status == 0
    assert "open_drawer: ended by max_steps after 3 steps" in ran.out
    assert (tmp_path / "a.mp4").stat().st_size > 1000
    monkeypatch.setenv("DIWA_HOME", str(tmp_path))
    assert diwa("run-skill", "--skill", "open_drawer", *steps).status == 0
    assert "no bundle for skill 'close_drawer'" in diwa("run-skill", "--skill", "close_drawer").err


def test_bundle_installs_a_skill_once(diwa, checkpoints, recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("DIWA_HOME", str(tmp_path))
    demonstrations = recorded / "demonstrations.h5"
    parts = ["--world-model", checkpoints.world_model, "--policy", checkpoints.policy, "--reward", checkpoints.reward]
    parts += ["--demonstrations", demonstrations]
    ran = diwa("bundle", "--skill", "open_drawer", *parts)
    assert (ran.status, ran.out.strip()) == (0, str(tmp_path / "skills" / "open_drawer"))
    start = json.loads((tmp_path / "skills" / "open_drawer" / "card.json").read_text())["start"]
    assert start["low"] == start["high"] == pytest.approx([0.42, 0.0, 0.30], abs=0.27)
    assert diwa("run-skill", "--skill", "open_drawer", "--max-steps", "2", "--success-ticks", "0").status == 0
    ran = diwa("bundle", "--skill", "open_drawer", *parts)
    assert (ran.status, "exists already: delete it" in ran.err) == (2, True)
    wrong = [*parts[:3], checkpoints.reward, *parts[4:6]]
    assert diwa("bundle", "--skill", "close_drawer", *wrong, "--demonstrations", demonstrations).status == 2
    assert not (tmp_path / "skills" / "close_drawer").exists()


def test_report(diwa, run):
    assert diwa("report", run).out.strip() == str(run / "report.html")


def test_doctor(diwa):
    ran = diwa("doctor")
    assert ran.status == 0
    for expected in ("torch threads", "off-screen rendering works", "diwa_learning", "ROS 2", "GB free"):
        assert expected in ran.out
