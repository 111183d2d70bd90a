"""The demo as a user meets it: interrupted, continued, finished; and its files with the other commands."""

import json
import shlex
import time
from pathlib import Path

import numpy as np
import pytest

from diwa_cli.evaluation.evaluate import curve_policies
from diwa_cli.run_folder import PhaseLog, SweepFolder, find_run
from diwa_data.dataset.dataset import load_dataset

DEMO = ["demo", "--preset", "debug", "--config", str(Path(__file__).parents[1] / "tiny.yaml")]


def test_demo_interrupted_and_continued(diwa, interrupt_in_phase, tmp_path):
    out = tmp_path / "demo"
    interrupt_in_phase([*DEMO, "--out", out], "train_world_model")
    assert not (out / "results.json").exists()
    seconds = SweepFolder(out).log("train_world_model").seconds

    ran = diwa(*DEMO, "--out", out)
    assert ran.status == 0, ran.err
    assert "[record_play] finished earlier" in ran.out
    assert "[open_drawer/seed_0/train_policy] diwa train-policy --demonstrations" in ran.out
    assert "open_drawer: " in ran.out
    assert "after imitation" in ran.out
    assert SweepFolder(out).log("train_world_model").seconds >= seconds
    check_results(out)
    check_commands_on_its_files(diwa, out)
    check_experiments(diwa, out)

    ran = diwa(*DEMO, "--out", out)
    assert ran.out.count("finished earlier") == 14
    assert ran.out.startswith("preset debug: toy networks on toy data, which cannot learn a skill.")
    assert "toy sizes cannot succeed" in "".join(ran.out.splitlines()[-3:])
    check_another_skill(diwa, out, tmp_path / "close")
    ran = diwa(*DEMO, "--out", out, "--rollouts", "3")
    assert (ran.status, "begun with other settings: sweep.rollouts was 2, is 3" in ran.err) == (2, True)


def check_results(out):
    found = json.loads((out / "results.json").read_text())
    (result,) = found["runs"]
    assert (result["skill"], result["seed"], result["rollouts"]) == ("open_drawer", 0, 2)
    for policy in ("base", "finetuned"):
        low, high = result[f"{policy}_interval"]
        assert 0 <= low <= result[policy] <= high <= 100
    low, high = result["interval"]
    assert -100 <= low <= result["difference"] <= high <= 100
    assert sum(len(stage["commands"]) for stage in found["stages"].values()) == 14
    assert all(stage["seconds"] > 0 for stage in found["stages"].values())
    text = (out / "report.html").read_text()
    assert "is not there" not in text
    assert text.count("<video") == 3
    run = find_run(out)
    assert run.strip.stat().st_size > 1000
    assert run.film.stat().st_size > 1000


def check_another_skill(diwa, out, other):
    """One more skill on the same play and world model, and both in one table."""
    ran = diwa(*DEMO, "--out", other, "--skill", "close_drawer", "--world-model-of", out)
    assert ran.status == 0, ran.err
    assert not (other / "world_model").exists()
    assert "is not there" not in (other / "report.html").read_text()
    ran = diwa("compare", "--each", out, other, "--out", other / "table.json")
    assert ran.status == 0, ran.err
    assert ran.out.count("world model of another run") == 1
    first, second = json.loads((other / "table.json").read_text())
    assert (first["skill"], second["skill"], second["own_world_model"]) == ("open_drawer", "close_drawer", False)
    assert first["points"] == pytest.approx(first["finetuned"] - first["base"])

    ran = diwa("summary", out, other / "table.json")
    assert (ran.status, "holds no finished demo" in ran.err) == (2, True)
    ran = diwa(*DEMO, "--out", other.with_name("x"), "--world-model-of", other.with_name("y"))
    assert (ran.status, "has no trained world model" in ran.err) == (2, True)


def test_a_demo_of_another_layout_is_one_error_that_says_how_to_go_on(diwa, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"config": {"demo": {"seed": 0}}}))
    for words in (["report", tmp_path], [*DEMO, "--out", tmp_path], ["experiment", "score", tmp_path]):
        ran = diwa(*words)
        assert (ran.status, len(ran.err.splitlines())) == (2, 1)
        assert f"{tmp_path} is a demo of an earlier version" in ran.err


def check_experiments(diwa, out):
    tiny = [*DEMO[1:], "--evaluate.rollouts", "2", "--evaluate.max-steps", "4", "--evaluate.workers", "1"]
    results = {}
    for name in ("reward", "score"):
        ran = diwa("experiment", name, out, *tiny, "--dreams", "2")
        assert ran.status == 0, ran.err
        folder = Path(ran.out.splitlines()[-1])
        results[name] = json.loads((folder / "result.json").read_text())
    assert list(results["reward"]["policies"]) == ["base", "classifier", "true labels"]
    assert results["reward"]["verdicts"]["classifier"]["rollouts"] == 2
    scored = results["score"]
    assert [one["iteration"] for one in scored["checkpoints"]] == [0, 2, 4]
    assert scored["spearman"]["fine-tuned"]["checkpoints"] in (0, 2)  # none where both succeed as often
    assert set(scored["success"]) == {"base", "chosen", "last", "best"}
    assert (out / "experiments/score/score.svg").is_file()
    check_tapes(diwa, out)
    kinds = ["--degrade.early", "--degrade.data", "--degrade.noise", "0.5", "--degrade.moved", "0.1"]
    worse = [*tiny, "--clips", "2", *kinds]
    ran = diwa("experiment", "degraded", out, *worse)
    assert ran.status == 0, ran.err
    rows = json.loads((out / "experiments/degraded/result.json").read_text())["rows"]
    names = ["as trained", "prior with noise of 0.5", "static camera moved by 10 cm"]
    assert [row["world_model"] for row in rows] == names
    gate = json.loads((out / "experiments/degraded/gate.json").read_text())
    assert [row["world_model"] for row in gate["rows"]] == names
    assert gate["counts"]["bad"] + gate["counts"]["others"] == 3
    assert {"filtered_disagreement", "base_success"} <= set(gate["rows"][2]["figures"])
    moved, usual = (
        out / path for path in ("experiments/degraded/static_camera_moved_by_10_cm/open_drawer", "open_drawer")
    )
    shown = [load_dataset(path / "demonstrations.h5").episodes[0] for path in (moved, usual)]
    assert np.array_equal(shown[0].state, shown[1].state)
    assert not np.array_equal(shown[0].images["static"], shown[1].images["static"])
    assert rows[0]["finetuned"]["rollouts"] == 2
    assert set(rows[1]["deviation"]) == {"base", "end"}


def check_tapes(diwa, out):
    """A classifier is judged on rollouts that are kept: nothing is rolled out again."""
    run, taped = find_run(out), out.with_name("taped")
    models = ["--world-model", run.world_model, "--reward", run.reward, "--seeds", "tuning", "--preset", "debug"]
    few = ["--rollouts", "2", "--max-steps", "4", "--videos", "0", "--workers", "1", "--tapes", "--out", taped]
    ran = diwa("evaluate", "--policies", "base", run.policy, "finetuned", run.finetuned, *models, *few)
    assert ran.status == 0, ran.err
    assert "base, as deployment sees it: deployment success" in ran.out
    ran = diwa("experiment", "reward", out, "--tapes", taped / "rollouts.h5")
    assert ran.status == 0, ran.err
    rows = json.loads((out / "experiments/tapes/result.json").read_text())["rows"]
    assert [row["policy"] for row in rows] == ["base", "finetuned", "all"]
    assert {"skill", "failed_rollouts", "false_success", "missed_success", "ceiling_false_success"} <= rows[0].keys()
    assert rows[2]["failed_rollouts"] == rows[0]["failed_rollouts"] + rows[1]["failed_rollouts"]
    assert f"{rows[0]['failed_rollouts']}" in ran.out
    ran = diwa("experiment", "reward", out, "--tapes", run.demonstrations)
    assert (ran.status, "is not a rollout of a policy: give one of `diwa evaluate" in ran.err) == (2, True)
    ran = diwa("experiment", "score", out, "--tapes", taped / "rollouts.h5")
    assert (ran.status, "--tapes works with `diwa experiment reward` alone" in ran.err) == (2, True)


def check_commands_on_its_files(diwa, out):
    bundle = out / "skills" / "open_drawer"
    ran = diwa("run-skill", "--skill", "open_drawer", "--checkpoint", bundle, "--max-steps", "2")
    assert (ran.status, "open_drawer: ended by max_steps after 2 steps" in ran.out) == (0, True)
    run = find_run(out)
    for path in (run.world_model, run.policy, run.reward, run.finetuned, bundle / "policy"):
        ran = diwa("inspect", path)
        assert (ran.status, "checkpoint" in ran.out) == (0, True)
    for stage in json.loads((out / "results.json").read_text())["stages"].values():
        for name, command in stage["commands"].items():  # printed commands are the same run: any change is refused
            ran = diwa(*shlex.split(command)[1:])
            assert ran.status == 0, ran.err
            kind = name.rpartition("/")[2]
            assert ("finished, nothing to do" in ran.out) == kind.startswith(("train", "finetune"))


def test_the_curve_has_both_ends_and_checkpoints_between(tmp_path):
    for iteration in range(10, 60, 10):
        (tmp_path / "iterations" / f"{iteration:06d}").mkdir(parents=True)
    assert list(curve_policies(Path("base"), tmp_path, count=3)) == ["000000", "000020", "000050"]
    assert list(curve_policies(Path("base"), tmp_path, count=99)) == [f"{i:06d}" for i in range(0, 60, 10)]
    last = tmp_path / "iterations" / "000050"
    assert curve_policies(Path("base"), tmp_path, count=2) == {"000000": Path("base"), "000050": last}


def test_time_of_a_phase_adds_up_over_interruptions(tmp_path):
    path = tmp_path / "phases.json"
    for _ in range(2):
        log = PhaseLog(path, "work")
        try:
            with log.running("diwa work"):
                time.sleep(0.05)
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert not log.is_done
    with PhaseLog(path, "work").running("diwa work"):
        time.sleep(0.05)
    log = PhaseLog(path, "work")
    assert log.is_done
    assert log.seconds >= 0.15
