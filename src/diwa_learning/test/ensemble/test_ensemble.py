"""The ensemble: disagreement by hand, its training on the toy task, and what it takes from dreams."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
import toy

from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import load_checkpoint, read_header, seal_checkpoint
from diwa_learning.ensemble import train as module
from diwa_learning.ensemble.disagreement import Ensemble, EnsembleConfig
from diwa_learning.ensemble.train import EnsembleJob, load_ensemble
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.finetune.start_states import start_states
from diwa_learning.finetune.train import FinetuneJob
from diwa_learning.policy.checkpoint import load_policy
from diwa_learning.world_model.rssm import RSSMConfig

SIZES = RSSMConfig(recurrent=3, categoricals=2, classes=2, hidden=4)
CONFIG = EnsembleConfig(
    members=3, width=16, updates=200, batch_size=64, stretches=40, horizon=12, context=2, save_every=90
)


def that_says(*probabilities):
    """An ensemble whose members give both categoricals these probabilities of class 0, whatever h is."""
    ensemble = Ensemble(EnsembleConfig(members=len(probabilities), width=4), SIZES).requires_grad_(False)
    last = ensemble.members[3]
    torch.nn.init.zeros_(last.weight)
    for member, p in enumerate(probabilities):
        last.bias.data[member] = torch.tensor([p, 1 - p, p, 1 - p]).log()
    return ensemble


def test_disagreement_by_hand():
    h = torch.randn(5, 3)
    assert that_says(0.3, 0.3).disagreement(h) == pytest.approx([0.0] * 5, abs=1e-6)
    assert that_says(1 - 1e-7, 1e-7).disagreement(h) == pytest.approx([math.log(2)] * 5, abs=1e-4)
    between = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)  # entropy of the mean 0.5, less that of each
    assert that_says(0.25, 0.75).disagreement(h) == pytest.approx([between] * 5, abs=1e-6)


def test_deviation_is_in_standard_deviations():
    ensemble = that_says(0.25, 0.75)
    once = ensemble.disagreement(torch.zeros(1, 3))
    ensemble.mean.copy_(once[0] - 0.06)
    ensemble.std.fill_(0.02)
    assert ensemble.deviation(torch.zeros(1, 3)) == pytest.approx([3.0])


@pytest.fixture(scope="module")
def ensemble_path(toy_files, tmp_path_factory):
    out = tmp_path_factory.mktemp("ensemble") / "run"
    EnsembleJob(
        datasets=(toy_files.play_path, toy_files.demonstrations_path),
        world_model=toy_files.world_model_path,
        out=out,
        config=CONFIG,
    ).run()
    return out


@pytest.fixture(scope="module")
def ensemble(ensemble_path, toy_files):
    world = toy_files.world
    return load_ensemble(ensemble_path, world.model, world.hash).ensemble


def test_it_learns_the_prior_and_disagrees_where_nothing_was_recorded(ensemble, ensemble_path, toy_files):
    losses = [value for _, value in load_checkpoint(ensemble_path, "ensemble").metrics["history"]["loss"]]
    assert losses[-1] < 0.7 * losses[0]
    h = torch.rand(500, toy_files.world.model.rssm.config.recurrent) * 2 - 1
    assert ensemble.deviation(h).mean() > 2
    assert ensemble.std > 0


def test_a_killed_training_continues_to_the_same_bits(ensemble_path, toy_files, tmp_path, monkeypatch):
    calls = []

    def dies(*args):
        calls.append(1)
        if len(calls) == 130:
            raise MemoryError
        return learn(*args)

    learn = module.step
    datasets = (toy_files.play_path, toy_files.demonstrations_path)
    job = EnsembleJob(datasets, toy_files.world_model_path, tmp_path / "x", CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(module, "step", dies)
        with pytest.raises(MemoryError):
            job.run()
    job.run()
    one, other = (load_checkpoint(path, "ensemble").weights for path in (ensemble_path, tmp_path / "x"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_of_phase_guard_loads(ensemble_path, toy_files, tmp_path):
    """So version 0.1 called it."""
    earlier = shutil.copytree(ensemble_path, tmp_path / "earlier")
    header = json.loads((earlier / "config.json").read_text())
    (earlier / "config.json").write_text(json.dumps(header | {"phase": "guard"}))
    seal_checkpoint(earlier)
    assert read_header(earlier)["phase"] == "ensemble"
    loaded = load_ensemble(earlier, toy_files.world.model, toy_files.world.hash)
    assert loaded.hash == load_checkpoint(ensemble_path, "ensemble").hash


def test_a_dream_pays_for_deviation_and_not_for_less_than_usual(ensemble, toy_files, toy_reward, toy_policy_path):
    world = toy_files.world
    config = DreamConfig(dreams=16, chunks=4, horizon=4, penalty=0.5, starts=toy.FINETUNE.dream.starts)
    starts = start_states(
        world.model, toy_reward.classifier, toy_files.demonstrations.episodes, [], config.starts, seed=0
    )
    policy = load_policy(toy_policy_path, world.spec, world.hash, world.model.feature_dim).policy

    def dreamt(config, ensemble):
        dream = Dream(world.model, toy_reward.classifier, starts, config, torch.Generator().manual_seed(0), ensemble)
        return dream.rollout(policy)

    guarded, free = dreamt(config, ensemble), dreamt(replace(config, penalty=0.0), None)
    assert torch.equal(guarded.chains, free.chains)
    h = guarded.next_features[..., : world.model.rssm.config.recurrent]
    expected = ensemble.deviation(h.flatten(0, 1)).view(16, 4)
    torch.testing.assert_close(guarded.deviation, expected, atol=1e-3, rtol=1e-3)
    assert (expected < 0).any()
    assert (expected > 0).any()
    torch.testing.assert_close(guarded.reward, free.reward - 0.5 * guarded.deviation.clamp_min(0))
    assert not free.deviation.any()


def test_a_run_logs_the_deviation_it_pays_for(ensemble_path, toy_files, toy_policy_path, toy_reward_path, tmp_path):
    config = replace(toy.FINETUNE, iterations=2, dream=replace(toy.FINETUNE.dream, penalty=0.05))
    files = (toy_policy_path, toy_reward_path, toy_files.world_model_path, toy_files.demonstrations_path)
    FinetuneJob(*files, tmp_path / "run", toy_files.play_path, ensemble_path, config).run()
    curve = load_checkpoint(tmp_path / "run", "finetune").metrics["history"]["deviation"]
    assert len(curve) == 2
    assert any(value for _, value in curve)


class TestRefused:
    """Each wrong input is one clear error."""

    def test_one_member(self, toy_files, tmp_path):
        with pytest.raises(DiwaError, match="an ensemble of 1 members cannot disagree"):
            EnsembleJob(
                datasets=(toy_files.play_path,),
                world_model=toy_files.world_model_path,
                out=tmp_path / "x",
                config=replace(CONFIG, members=1),
            ).run()

    def test_a_penalty_without_an_ensemble(self, toy_files, toy_policy_path, toy_reward_path, tmp_path):
        config = replace(toy.FINETUNE, dream=replace(toy.FINETUNE.dream, penalty=0.1))
        files = (toy_policy_path, toy_reward_path, toy_files.world_model_path, toy_files.demonstrations_path)
        with pytest.raises(
            DiwaError, match=r"dream\.penalty of 0\.1 needs an ensemble: make one with `diwa train-ensemble`"
        ):
            FinetuneJob(*files, tmp_path / "x", config=config).run()

    def test_recordings_shorter_than_the_context(self, toy_files, tmp_path):
        config = replace(CONFIG, context=100, updates=1)
        with pytest.raises(
            DiwaError, match="no held-out recording is longer than the ensemble's context of 100 frames"
        ):
            EnsembleJob(
                datasets=(toy_files.play_path,),
                world_model=toy_files.world_model_path,
                out=tmp_path / "x",
                config=config,
            ).run()

    @pytest.mark.parametrize("kl", [0.0, -0.01])
    def test_a_divergence_that_cannot_be_reached(self, toy_files, toy_policy_path, toy_reward_path, tmp_path, kl):
        files = (toy_policy_path, toy_reward_path, toy_files.world_model_path, toy_files.demonstrations_path)
        with pytest.raises(DiwaError, match=f"a target_kl of {kl:g} cannot be reached: choose one above 0"):
            FinetuneJob(*files, tmp_path / "x", config=replace(toy.FINETUNE, target_kl=kl)).run()

    def test_an_ensemble_of_another_world_model(self, ensemble_path, toy_files):
        with pytest.raises(DiwaError, match="was trained on world model"):
            load_ensemble(ensemble_path, toy_files.world.model, "other")
