"""The offline score of checkpoints by hand, and fine-tuning that ends with the best one."""

from dataclasses import replace

import pytest
import torch
import toy

from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.ensemble.disagreement import EnsembleConfig
from diwa_learning.ensemble.train import EnsembleJob
from diwa_learning.finetune.selection import choose, iteration_folder, scores
from diwa_learning.finetune.train import FinetuneJob

ENSEMBLE = EnsembleConfig(
    members=2, width=8, updates=40, batch_size=16, stretches=10, horizon=8, context=2, save_every=90
)


def test_score_is_success_less_the_deviation_beyond_the_bases():
    success, deviation = [0.4, 0.6, 0.9, 1.0], [-0.3, -0.1, 0.0, 0.9]
    curves = {"dream_success": list(enumerate(success)), "deviation": list(enumerate(deviation))}
    assert scores(curves, base=2) == pytest.approx([0.5, 0.5, 0.7, -0.1])


def test_a_checkpoint_is_judged_by_the_three_dreams_before_it():
    choice = choose([0.0, 0.3, 0.6, 0.9, 0.0, 0.0], kept=[2, 4, 6], patience=0)
    assert choice.scores == pytest.approx({2: 0.15, 4: 0.6, 6: 0.3})
    assert (choice.iteration, choice.settled) == (4, False)


def test_the_search_ends_after_so_many_that_are_no_better():
    rising_late = [0.5, 0.4, 0.5, 0.3, 0.9]
    score = [value for value in rising_late for _ in range(3)]
    kept = [3, 6, 9, 12, 15]
    assert choose(score, kept, patience=0).iteration == 15
    assert choose(score, kept, patience=4).iteration == 15
    early = choose(score, kept, patience=3)
    assert (early.iteration, early.settled, list(early.scores)) == (3, True, [3, 6, 9, 12])


@pytest.fixture(scope="module")
def ensemble_path(toy_files, tmp_path_factory):
    out = tmp_path_factory.mktemp("ensemble") / "run"
    EnsembleJob(datasets=(toy_files.play_path,), world_model=toy_files.world_model_path, out=out, config=ENSEMBLE).run()
    return out


@pytest.fixture
def job(ensemble_path, toy_files, toy_policy_path, toy_reward_path):
    """Make a job that keeps every second policy of eight and ends with the best."""

    def make(out, seed=0, **changes):
        config = replace(toy.FINETUNE, iterations=8, checkpoint_every=2, result="best", seed=seed, **changes)
        files = (toy_policy_path, toy_reward_path, toy_files.world_model_path, toy_files.demonstrations_path)
        return FinetuneJob(*files, out, toy_files.play_path, ensemble_path, config)

    return make


def only_early_dreams_are_good(curves, base):
    """Stands for the score: best for the checkpoint after four iterations."""
    return [1.0 if step < 4 else 0.0 for step, _ in curves["deviation"]]


def test_the_result_is_the_checkpoint_with_the_best_score(job, toy_files, tmp_path, monkeypatch):
    monkeypatch.setattr("diwa_learning.finetune.train.scores", only_early_dreams_are_good)
    job(tmp_path / "run").run()
    result = load_checkpoint(tmp_path / "run", "finetune")
    assert (result.metrics["iteration"], result.metrics["steps"]) == (4, 8)
    assert result.metrics["scores"] == pytest.approx({"4": 1.0, "6": 1 / 3, "8": 0.0})
    chosen, last = (load_checkpoint(iteration_folder(tmp_path / "run", n), "finetune").weights for n in (4, 8))
    assert all(torch.equal(result.weights[name], tensor) for name, tensor in chosen.items())
    assert not all(torch.equal(result.weights[name], tensor) for name, tensor in last.items())


def test_a_settled_run_ends_early(job, toy_files, tmp_path, monkeypatch):
    monkeypatch.setattr("diwa_learning.finetune.train.scores", only_early_dreams_are_good)
    job(tmp_path / "run", patience=1).run()
    metrics = load_checkpoint(tmp_path / "run", "finetune").metrics
    assert (metrics["iteration"], metrics["steps"], list(metrics["scores"])) == (4, 6, ["4", "6"])
    assert metrics["imagined_actions"] == 6 * 32 * 8 * toy.POLICY.net.chunk


def test_a_killed_run_chooses_the_same(job, toy_files, tmp_path, dies_in_update, assert_same_weights):
    job(tmp_path / "whole").run()
    with dies_in_update(6):
        job(tmp_path / "killed").run()
    job(tmp_path / "killed").run()
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")
