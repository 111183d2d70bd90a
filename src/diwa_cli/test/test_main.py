"""The command as a user meets it: help, exit statuses, one line for every error, every command once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from diwa_cli.evaluation.rollouts import Setting, tape_rollouts
from diwa_cli.main import COMMANDS
from diwa_data.limits import MotionLimits
from diwa_deploy.bundle import SHIPPED, find_bundle, write_bundle, write_card
from diwa_deploy.control import check_bundle
from diwa_learning.world_model.model import load_world_model
from diwa_sim.table import SimConfig
from diwa_sim.tasks import SCENE_STATE

EVALUATE = ["--policies", "base", "p", "--world-model", "w", "--reward", "r", "--out", "o"]


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
    assert set(COMMANDS) <= set(done.stdout.split())
    assert len(done.stdout.splitlines()) < 24
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_whole_help_says_what_every_command_does(diwa):
    lines = diwa("--help-all").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [name for name in COMMANDS if not any(line.startswith(f"  {name} ") for line in lines)] == []


def test_heavy_libraries_wait_for_their_command():
    heavy = {"torch", "mujoco", "matplotlib"}
    code = f"import sys, diwa_cli.main as main; main.usage(); sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(diwa, name):
    ran = diwa(name, "--help")
    assert ran.status == 0
    assert f"usage: diwa {name}" in ran.out


def test_help_of_the_longest_command_fits_two_screens(diwa, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = diwa("finetune", "--help").out.splitlines()
    assert len(lines) < 48
    assert max(map(len, lines)) <= 80
    assert any(" --play none|PATH " in line for line in lines)


@pytest.mark.parametrize("words", [["--help"], ["finetune", "--help"], ["skills"], ["fly"]])
def test_a_reader_that_goes_away_ends_a_command_in_silence(words):
    reader, writer = os.pipe()
    os.close(reader)  # as `diwa --help | true`, but never too late
    both = {"stdout": writer, "stderr": writer if words == ["fly"] else subprocess.PIPE}
    done = subprocess.run([sys.executable, "-m", "diwa_cli.main", *words], **both, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr or b"") == (128 + signal.SIGPIPE, b"")


def test_a_disk_without_room_for_the_output_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "diwa_cli.main", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=300)
    assert (done.returncode, done.stderr) == (
        2,
        b"error: the output cannot be written: No space left on device\n",
    )


def test_old_names_go_on_with_a_line_on_stderr(diwa, tmp_path):
    ran = diwa("train-guard", "--help")
    assert (ran.status, "usage: diwa train-ensemble" in ran.out) == (0, True)
    assert ran.err == "diwa train-guard is deprecated: it is diwa train-ensemble now\n"
    paths = [
        word for name in ("policy", "reward", "world-model", "demonstrations", "out") for word in (f"--{name}", "x")
    ]
    for given in (["--guard", tmp_path], [f"--guard={tmp_path}"]):
        ran = diwa("finetune", *paths, *given)
        assert ran.status == 2
        assert ran.err.startswith("--guard is deprecated: it is --ensemble now\nerror: ")
    assert "diwa pack is deprecated: it is diwa bundle --compact now" in diwa("pack", "--help").err
    ran = diwa("sweep", "--stacked", "True")
    assert (ran.status, "`diwa sweep --stacked` is gone: many runs are many processes" in ran.err) == (2, True)
    ran = diwa("dppo", "--calvin.steps", "3", "--help")
    assert "--calvin is deprecated: it is --evaluate.calvin now" in ran.err
    ran = diwa("dppo-steps", "--run", "x")
    assert (ran.status, "`diwa dppo-steps` is gone: `diwa dppo --no-practise --until RATE" in ran.err) == (2, True)


def test_version(diwa):
    assert diwa("--version").out.startswith("diwa 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fly"], "unknown command 'fly'; choose one of demo, dream, skills"),
        (["recrod"], "pull. Did you mean 'record'?"),
        (["run-skill", "--skill", "open_drawr"], "--checkpoint. Did you mean 'open_drawer'?"),
        (["run-skill", "--skill", "Open-Drawer"], "'Open-Drawer' cannot name a skill"),
        (["demo", "--preset", "dbug"], "name a .yaml file. Did you mean 'debug'?"),
        (["view", "nowhere"], "nowhere does not exist"),
        (["inspect", "nowhere", "--thumbnails", "x.png"], "nowhere is not a bag"),
        (["report", "."], ". holds no run"),
        (["run-skill", "--skill", "open_drawer", "--video", "a.h5"], "a.h5 is not a .mp4 file"),
        (["run-skill", "--skill", "open_drawer", "--max-steps", "0"], "max_steps is 0; it must be 1 or more"),
        (
            ["run-skill", "--skill", "open_drawer", "--success-ticks", "-2"],
            "success_ticks is -2; it must be -1 or more",
        ),
        (["run-skill", "--skill", "open_drawer", "--seed", "9" * 20], "it must be 0 or more and have at most 63 bits"),
        (["run-skill", "--skill", "open_drawer", "--seed", "-1"], "seed is -1; it must be 0 or more"),
        (["evaluate", *EVALUATE, "--max-steps", "0"], "max_steps is 0; it must be 1 or more"),
        (["evaluate", *EVALUATE, "--workers", "0"], "workers is 0; it must be 1 or more"),
        (["evaluate", *EVALUATE, "--rollouts", "-3"], "choose 1 to "),
        (
            ["experiment", "world-model", "runs/demo"],
            "is gone: `diwa evaluate-world-model --world-model RUN/world_model",
        ),
        (["experiment", "alpha-bc", "runs/demo", "--alphas", "0"], "is gone: `diwa sweep --alphas 0 0.5 2"),
        (["experiment", "score", "nowhere"], "nowhere is not a finished run"),
        (["run-skill", "--skill", "open_drawer", "--video", "."], ". is a folder, which is never replaced"),
        (["run-skill", "--skill", "fly"], "unknown skill 'fly'; choose one of close_drawer, move_slider_left"),
        (["record", "--out", "x", "--skill", "fly"], "unknown simulated task 'fly'"),
        (["demo", "--preset", "huge"], "unknown preset 'huge'; choose one of calvin, calvin_laptop, debug"),
        (["finetune", "--config", "nowhere.yaml"], "no configuration file nowhere.yaml"),
        (["replay", "nowhere.h5"], "no dataset nowhere.h5"),
        (["export-lerobot", "nowhere.h5", "--out", "x"], "no dataset nowhere.h5"),
        (["inspect", "nowhere"], "nowhere does not exist"),
        (["recover", "nowhere"], "nowhere does not exist"),
        (["build-dataset", "nowhere", "--out", "x.h5"], "nowhere"),
        (["report", "nowhere"], "no run folder nowhere"),
        (["evaluate-world-model", "--world-model", "nowhere", "--dataset", "x.h5", "--out", "out"], "folder nowhere"),
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


@pytest.mark.parametrize(
    "words",
    [
        ["record", "--out", "", "--preset", "debug"],
        ["recover", ""],
        ["build-dataset", "bags", "", "--out", "x.h5"],
        ["evaluate", "--policies", "base", "", "--world-model", "w", "--reward", "r", "--out", "o"],
    ],
)
def test_an_empty_path_is_not_the_folder_where_we_are(diwa, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = diwa(*words)
    assert (ran.status, "a path is empty: name a file or folder" in ran.err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_empty_texts_are_texts(diwa):
    assert "no dataset nowhere.h5" in diwa("export-lerobot", "nowhere.h5", "--out", "x", "--repo-id", "").err


def test_odd_paths_are_one_error(diwa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    for words, message in (
        (["experiment", "score", "loop"], "loop is not a finished run"),
        (["inspect", "x" * 300], ": File name too long"),
        (["report", "loop"], "no run folder loop"),
    ):
        ran = diwa(*words)
        assert (ran.status, len(ran.err.splitlines())) == (2, 1)
        assert message in ran.err


def test_unknown_flags_are_refused(diwa):
    ran = diwa("record", "--out", "x", "--episods", "3")
    assert ran.status == 2
    assert "--episods" in ran.err
    assert "--episodes" in ran.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["record", "--out", "x", "--prest", "debug"], [("--prest", "--preset")]),
        (["record", "--ouut", "x", "--max_sped=3"], [("--ouut", "--out"), ("--max-sped", "--teleop.limits.max-speed")]),
        (["run-skill", "--skil", "open_drawer"], [("--skil", "--skill")]),
        (["skills", "--hlep", "--zzz"], [("--hlep", "--help")]),
        (["record", "--out", "x", "--episodes", "many"], []),
    ],
)
def test_misspelt_flags_are_told_from_right_ones(diwa, words, meant):
    ran = diwa(*words)
    assert ran.status == 2
    for wrong, right in meant:
        assert f"unknown flag {wrong}, did you mean {right}?" in ran.err
    assert ran.err.count("did you mean") == len(meant)


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
    assert (ran.status, "is a policy checkpoint, but a world_model checkpoint is needed" in ran.err) == (2, True)
    ran = diwa("train-reward", "--world-model", tmp_path / "nowhere", *data)
    assert (ran.status, "no checkpoint folder" in ran.err) == (2, True)
    ran = diwa("train-policy", "--world-model", checkpoints.world_model, "--demonstrations", "nowhere.h5", *data[2:])
    assert (ran.status, "no dataset nowhere.h5" in ran.err) == (2, True)


@pytest.mark.parametrize("kind", ["checkpoints", "hybrid_checkpoints"])
def test_evaluate_world_model(diwa, recorded, kind, request, tmp_path):
    world_model, dataset = request.getfixturevalue(kind).world_model, recorded / "demonstrations.h5"
    out = tmp_path / "a" / "out"
    words = ["evaluate-world-model", "--world-model", world_model, "--dataset", dataset, "--out", out]
    ran = diwa(*words, "--clips", "2", "--horizon", "5", "--context", "3")
    assert ran.status == 0, ran.err
    assert "from 1 episodes (all of the dataset: not trained on it), 5 imagined steps" in ran.out
    found, hybrid = json.loads((out / "result.json").read_text()), kind == "hybrid_checkpoints"
    assert len(found["open_loop_steps"]["kl"]) == 5
    drawn = {"psnr.svg", "ssim.svg", "kl.svg", "filmstrip.png", "film.mp4", "result.json"}
    drawn |= {"position_error.svg", "scene_error.svg"} if hybrid else set()
    assert {path.name for path in out.iterdir()} == drawn
    assert ("drawer error" in ran.out, "open_loop_led_error" in found) == (hybrid, hybrid)
    assert "  bulb shown      " in ran.out
    assert [sum(share.values()) for share in found["pictures"].values()] == pytest.approx([1.0] * 4)
    assert found["pictures"]["drawer"]["unclear"] > 0.5, "so small a model draws nothing clearly"

    for wrong, message in (
        (["--dataset", "nowhere.h5"], "no dataset nowhere.h5"),
        (["--world-model", request.getfixturevalue(kind).policy], "a world_model checkpoint is needed"),
        (["--horizon", "0"], "horizon is 0; it must be 1 or more"),
        (["--context", "5000"], "no episode has 5001 frames"),
    ):
        ran = diwa(*words, *wrong)
        assert (ran.status, len(ran.err.splitlines())) == (2, 1)
        assert message in ran.err
    broken = tmp_path / "broken"
    shutil.copytree(world_model, broken)
    (broken / "weights.safetensors").write_bytes(b"cut off")
    assert "is truncated or damaged" in diwa(*words, "--world-model", broken).err


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
    assert f"film                 {tmp_path / 'a.mp4'}" in ran.out
    monkeypatch.setenv("DIWA_HOME", str(tmp_path))
    assert diwa("run-skill", "--skill", "open_drawer", *steps).status == 0
    monkeypatch.setattr("diwa_deploy.bundle.SHIPPED", tmp_path / "nothing")
    assert (
        "unknown skill 'close_drawer'; choose one of open_drawer, or copy"
        in diwa("run-skill", "--skill", "close_drawer").err
    )


def test_a_film_that_cannot_be_written_fails_no_run(diwa, bundle, checkpoints, tmp_path, monkeypatch):
    def no_ffmpeg(*_, **__):
        raise RuntimeError("No ffmpeg exe could be found")
        yield

    monkeypatch.setattr("imageio_ffmpeg.write_frames", no_ffmpeg)
    steps = ["--max-steps", "2", "--success-ticks", "0", "--video", tmp_path / "a.mp4"]
    ran = diwa("run-skill", "--skill", "open_drawer", "--checkpoint", bundle.path, *steps)
    assert (ran.status, ran.err) == (
        0,
        f"warning: no {tmp_path / 'a.mp4'}: RuntimeError: No ffmpeg exe could be found\n",
    )
    assert ("open_drawer: ended by max_steps" in ran.out, "film" in ran.out) == (True, False)

    networks = ["--world-model", checkpoints.world_model, "--reward", checkpoints.reward, "--out", tmp_path / "out"]
    small = ["--rollouts", "1", "--max-steps", "2", "--videos", "1", "--workers", "1", "--seeds", "tuning"]
    ran = diwa("evaluate", "--policies", "base", checkpoints.policy, *networks, *small)
    assert (ran.status, "No ffmpeg exe" in ran.err) == (0, True)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["policies"]["base"]["rollouts"] == 1


def test_tasks_are_listed_with_a_line_each(diwa):
    ran = diwa("skills", "--tasks")
    assert ran.status == 0
    assert "\nlift_cube           grasp the red cube and lift it by 5 cm\n" in ran.out


def test_inspect_shows_bundles(diwa, bundle, tmp_path):
    ran = diwa("inspect", bundle.path)
    assert ran.status == 0
    for expected in (
        f"skill bundle {bundle.path}: open_drawer\n",
        "success in the simulator: - after imitation, - after fine-tuning",
        "starts: anywhere: the card names no region",
        f"world model: {bundle.path / 'world_model'}, ",
        "spec: panda_sim; static",
    ):
        assert expected in ran.out
    write_card(bundle.path, {"skill": "open_drawer", "base": {"rate": "high"}})
    ran = diwa("inspect", bundle.path.parent)
    assert (ran.status, "card.json has no rate for base" in ran.err, len(ran.err.splitlines())) == (2, True, 1)

    ran = diwa("inspect", SHIPPED)
    assert (ran.status, ran.out.count("skill bundle ")) == (0, 8)
    assert "success in the simulator: 46 % after imitation, 84 % after fine-tuning" in ran.out
    assert "hand in the box (0.28, -0.23, 0.19) to (0.55, 0.25, 0.41) m" in ran.out


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


def test_packed_bundles_share_a_world_model_and_decide_as_before(diwa, bundle, tmp_path, monkeypatch):
    parts = {name: getattr(bundle, name) for name in ("world_model", "policy", "reward")}
    rates = {name: {"rate": rate} for name, rate in (("base", 0.5), ("finetuned", 0.75))}
    other = write_bundle(tmp_path / "close_drawer", parts, {"skill": "close_drawer", **rates})
    skills = tmp_path / "home" / "skills"
    ran = diwa("pack", bundle.path, other.path, "--out", skills)
    assert ran.out.split() == [str(skills / "open_drawer"), str(skills / "close_drawer")]
    assert sorted(path.name for path in skills.iterdir()) == ["close_drawer", "open_drawer", "world_model"]

    monkeypatch.setenv("DIWA_HOME", str(tmp_path / "home"))
    assert f"close_drawer            50 %    75 %  {skills / 'close_drawer'}" in diwa("skills").out
    assert diwa("run-skill", "--skill", "close_drawer", "--max-steps", "2", "--success-ticks", "0").status == 0
    packed = find_bundle("close_drawer")
    assert packed.world_model == skills / "world_model"
    actions = []
    for one in (other, packed):
        setting = Setting("open_drawer", one.world_model, one.reward, 3, MotionLimits(), SimConfig())
        actions.append(tape_rollouts(one.policy, [1], setting)[0].action)
    np.testing.assert_allclose(*actions, atol=0.02)


def test_what_cannot_be_packed_together_is_named_and_leaves_nothing(diwa, bundle, hybrid_checkpoints, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert "2 of the bundles are of open_drawer: choose one" in diwa("pack", bundle.path, bundle.path, *out).err
    parts = {"world_model": bundle.world_model, "policy": hybrid_checkpoints.policy, "reward": bundle.reward}
    other = write_bundle(tmp_path / "close_drawer", parts, {"skill": "close_drawer"})
    assert "was trained on world model" in diwa("pack", bundle.path, other.path, *out).err
    assert not (tmp_path / "out").exists()
    assert "exists already" in diwa("pack", bundle.path, "--out", tmp_path).err


def test_a_hybrid_model_acts_where_the_scene_state_is_known_and_is_refused_elsewhere(
    diwa, hybrid_checkpoints, tmp_path
):
    parts = {name: getattr(hybrid_checkpoints, name) for name in ("world_model", "policy", "reward")}
    skill = write_bundle(tmp_path / "open_drawer", parts, {"skill": "open_drawer"})
    ran = diwa("run-skill", "--skill", "open_drawer", "--checkpoint", skill.path, "--max-steps", "3")
    assert ran.status == 0, ran.err
    setting = Setting("open_drawer", skill.world_model, skill.reward, 2, MotionLimits(), SimConfig())
    (episode,) = tape_rollouts(skill.policy, [1], setting)
    assert episode.scene_state.shape == (3, len(SCENE_STATE))

    check = check_bundle("open_drawer", skill.path, load_world_model(skill.world_model).spec, MotionLimits())
    assert not check.good
    assert "sees the scene state, which is not known here" in check.text


def test_report(diwa, run):
    assert diwa("report", run).out.strip() == str(run / "report.html")


def test_doctor(diwa):
    ran = diwa("doctor")
    assert ran.status == 0
    for expected in ("torch threads", "off-screen rendering works", "diwa_learning", "ROS 2", "GB free"):
        assert expected in ran.out


def test_sigterm_does_what_ctrl_c_does(tmp_path):
    words = ["record", "--out", tmp_path, "--minutes", "5", "--episode-seconds", "4", "--workers", "2"]
    command = [sys.executable, "-m", "diwa_cli.main", *words, "--preset", "debug"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as run:
        while not list(tmp_path.glob("0*")):
            assert run.poll() is None
            time.sleep(0.05)
        run.terminate()
        _, err = run.communicate(timeout=60)
    assert (run.returncode, err.strip()) == (130, "interrupted; the same command continues")
    assert not list(tmp_path.glob(".*"))
