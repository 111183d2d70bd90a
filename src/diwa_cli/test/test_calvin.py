"""`diwa import-calvin`, and `diwa evaluate` in CALVIN's environment where it is installed."""

import dataclasses
import sys

import pytest

from diwa_cli.evaluation.evaluate import EvaluateConfig, each_start_once, start_seeds
from diwa_cli.experiments.experiment import ExperimentConfig
from diwa_data.config import load_section
from diwa_data.testing.synthetic import write_calvin
from diwa_sim.calvin.config import CalvinConfig
from diwa_sim.environments import start_states


@pytest.fixture
def folder(tmp_path):
    return write_calvin(tmp_path / "validation", [40], [("open_drawer", 2, 25), ("open_drawer", 26, 39)])


def test_import_shows_its_progress_and_inspect_the_result(diwa, folder, tmp_path):
    done = diwa("import-calvin", folder, "--out", tmp_path / "play.h5", "--workers", 1)
    assert done.status == 0
    assert "import-calvin: 40/40 frames" in done.out
    done = diwa("import-calvin", folder, "--skill", "open_drawer", "--count", 2, "--out", tmp_path / "demos.h5")
    assert "success marks: 1 where the scene state meets the task, 1 at a segment's end" in done.out
    card = diwa("inspect", tmp_path / "demos.h5").out
    assert "2 demonstration open_drawer" in card
    assert "0.02 m, 0.05 rad, world frame, euler_difference" in card
    assert "gripper 84x84 -> 64x64; 30 -> 30 Hz" in card


def evaluate(diwa, checkpoints, out, *flags):
    paths = ["--world-model", checkpoints.world_model, "--reward", checkpoints.reward, "--out", out]
    policies = ["--policies", "base", checkpoints.policy, "finetuned", checkpoints.other_policy]
    amounts = ["--rollouts", 2, "--max-steps", 3, "--videos", 1, "--workers", 1]
    return diwa("evaluate", *policies, *paths, *amounts, "--preset", "calvin", *flags)


def test_without_calvin_evaluation_says_how_to_install_it(diwa, calvin_checkpoints, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "calvin_env", None)  # as if it were not there
    done = evaluate(diwa, calvin_checkpoints, tmp_path / "evaluation")
    assert done.status == 2
    assert done.err.startswith("error: CALVIN's environment cannot be imported")
    assert "git clone https://github.com/mees/calvin_env" in done.err


@pytest.mark.calvin
def test_policies_are_evaluated_in_calvin(diwa, calvin_checkpoints, checkpoints, tmp_path):
    done = evaluate(diwa, calvin_checkpoints, tmp_path / "evaluation", "--calvin.no-egl")
    assert done.status == 0, done.err
    assert "base: 0 of 2" in done.out
    assert len(list((tmp_path / "evaluation/videos").glob("*.mp4"))) == 2
    done = evaluate(diwa, checkpoints, tmp_path / "other", "--calvin.no-egl")
    assert "made for another robot or recording: spec.robot is 'panda_sim', expected 'calvin'" in done.err


@pytest.mark.calvin
def test_the_baseline_practises_in_calvin(diwa, calvin_checkpoints, tmp_path):
    paths = ["--policy", calvin_checkpoints.policy, "--world-model", calvin_checkpoints.world_model]
    amounts = ["--envs", 3, "--chunks", 2, "--horizon", 2, "--iterations", 2, "--critic-warmup", 1, "--workers", 2]
    flags = ["--preset", "calvin", "--calvin.no-egl", "--checkpoint-every", 1]
    done = diwa("dppo", *paths, "--out", tmp_path / "dppo", *amounts, *flags)
    assert done.status == 0, done.err
    words = ["--run", tmp_path / "dppo", "--world-model", calvin_checkpoints.world_model, "--rate", 0.5, *flags[:3]]
    amounts = ["--reward", calvin_checkpoints.reward, "--rollouts", 1, "--max-steps", 2, "--workers", 1]
    assert "50 %: not reached within 48 environment steps" in diwa("dppo-steps", *words, *amounts).out


@pytest.mark.calvin
def test_a_skill_runs_in_calvin(diwa, calvin_checkpoints, tmp_path):
    out, video = tmp_path / "bundle", tmp_path / "skill.mp4"
    demonstrations = tmp_path / "demos.h5"
    folder = write_calvin(tmp_path / "training", [40], [("open_drawer", 2, 25)])
    diwa("import-calvin", folder, "--skill", "open_drawer", "--count", 1, "--out", demonstrations)
    paths = ["--world-model", calvin_checkpoints.world_model, "--reward", calvin_checkpoints.reward]
    paths += ["--policy", calvin_checkpoints.policy, "--demonstrations", demonstrations, "--out", out]
    made = diwa("bundle", "--skill", "open_drawer", *paths)
    assert made.status == 0, made.err
    words = ["run-skill", "--skill", "open_drawer", "--checkpoint", out, "--max-steps", 3, "--video", video]
    done = diwa(*words, "--preset", "calvin", "--calvin.no-egl")
    assert done.status == 0, done.err
    assert "after 3 steps (0.1 s of robot time)" in done.out
    assert video.stat().st_size > 1000
    done = diwa(*words)
    assert "spec.robot is 'calvin', expected 'panda_sim'" in done.err


def test_each_annotated_segment_is_a_start_once(folder, capsys):
    config = EvaluateConfig(environment="calvin", calvin=CalvinConfig(data=str(folder)))
    count = start_states("open_drawer", config.calvin)
    assert count == 2
    assert each_start_once(config, count).rollouts == 2
    assert "has 2 annotated segments of open_drawer: a rollout from each, no more" in capsys.readouterr().out
    assert each_start_once(dataclasses.replace(config, rollouts=1), count).rollouts == 1
    assert each_start_once(config, start_states("open_drawer", CalvinConfig())).rollouts == 100
    assert sorted(seed % count for seed in start_seeds(each_start_once(config, count))) == [0, 1]


def test_experiments_on_a_run_in_calvin_are_judged_there():
    evaluate = load_section(ExperimentConfig, "experiment", "calvin_laptop").evaluate
    assert (evaluate.environment, evaluate.seeds, evaluate.calvin.egl) == ("calvin", "tuning", False)
    assert evaluate.limits == load_section(EvaluateConfig, "evaluate", "calvin_laptop").limits
