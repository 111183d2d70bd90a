"""The ensemble: disagreement by hand, its training on the toy task, and what it takes from dreams."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy

from diwa_data.errors import DiwaError
from diwa_data.spec import ActionSpec
from diwa_learning.core.checkpoint import load_checkpoint, read_header, save_checkpoint, seal_checkpoint
from diwa_learning.ensemble import train as module
from diwa_learning.ensemble.disagreement import Ensemble, EnsembleConfig, Transitions
from diwa_learning.ensemble.train import EnsembleJob, filtered_transitions, load_ensemble, resample_episodes
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.finetune.start_states import start_states
from diwa_learning.finetune.train import FinetuneJob
from diwa_learning.policy.checkpoint import load_policy
from diwa_learning.world_model.latents import embed_clips, filtered_states, whole
from diwa_learning.world_model.rssm import RSSM, RSSMConfig, State

SIZES = RSSM(RSSMConfig(recurrent=3, categoricals=2, classes=2, hidden=4), embed_dim=5, action_dim=7, told=ActionSpec())
CONFIG = EnsembleConfig(
    members=3, width=16, updates=200, batch_size=64, stretches=40, horizon=12, context=2, save_every=90
)


def that_says(*values):
    """An ensemble whose members predict these numbers for all of the embedding, whatever they see."""
    ensemble = Ensemble(EnsembleConfig(members=len(values), width=4), SIZES).requires_grad_(False)
    torch.nn.init.zeros_(ensemble.members[3].weight)
    ensemble.members[3].bias.copy_(torch.tensor(values)[:, None].expand(-1, 5))
    return ensemble


def steps(count):
    """Some transitions of that model."""
    return Transitions(
        State(torch.randn(count, 3), torch.zeros(count, 4), torch.zeros(count, 3), torch.zeros(count, 0)),
        torch.zeros(count, 7),
        torch.ones(count, 3),
    )


def test_disagreement_by_hand():
    assert that_says(0.3, 0.3).disagreement(steps(5)) == pytest.approx([0.0] * 5, abs=1e-6)
    assert that_says(1.0, 2.0, 6.0).disagreement(steps(5)) == pytest.approx([(4 + 1 + 9) / 3] * 5)


def test_embeddings_count_in_their_standard_deviations():
    ensemble = that_says(0.0, 1.0)
    embeds = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0, 0.0]])
    ensemble.set_statistics(embeds)
    inputs = torch.zeros(2, 2, SIZES.feature_dim + 7 + 27)
    found = ensemble.loss(inputs, embeds.expand(2, 2, 5))
    assert found[0] == pytest.approx(2 * 0.5 / 10)
    assert found[1] == pytest.approx(((-(0.5**0.5) - 1) ** 2 + (0.5**0.5 - 1) ** 2 + 8) / 10)


def test_deviation_is_in_standard_deviations():
    ensemble = that_says(0.0, 0.4)
    once = ensemble.disagreement(steps(1))
    ensemble.mean.copy_(once[0] - 0.06)
    ensemble.std.fill_(0.02)
    assert ensemble.deviation(steps(1)) == pytest.approx([3.0])


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


def test_it_learns_the_next_embedding_and_disagrees_where_nothing_was_recorded(ensemble, ensemble_path, toy_files):
    losses = [value for _, value in load_checkpoint(ensemble_path, "ensemble").metrics["history"]["loss"]]
    assert losses[-1] < 0.7 * losses[0]
    rssm = toy_files.world.model.rssm
    known = rssm.initial(500)
    strange = replace(known, h=torch.rand_like(known.h) * 2 - 1)
    actions = torch.rand(500, rssm.action_dim) * 2 - 1
    assert ensemble.deviation(Transitions(strange, actions, known.target)).mean() > 2
    assert ensemble.std > 0


def test_an_action_that_was_never_recorded_is_strange_where_the_state_is_known(ensemble, toy_files):
    """A member of the prior's form, that sees the next h alone, could not tell: h is the world model's own guess."""
    model = toy_files.world.model
    inputs, _, ends = filtered_transitions(model, toy_files.play.episodes[:4])
    assert (len(ends), ends[-1]) == (4, len(inputs))
    known = Transitions(
        State(inputs[:, :32], inputs[:, 32:64], inputs[:, 71:], inputs[:, :0]), inputs[:, 64:71], inputs[:, 71:]
    )
    assert torch.equal(known.inputs, inputs)
    other = replace(known, action=torch.tensor([0.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0]).expand_as(known.action))
    assert ensemble.disagreement(other).mean() > 1.3 * ensemble.disagreement(known).mean()


def test_transitions_are_those_whose_next_frame_is_chosen(toy_files):
    model = toy_files.world.model
    clips = embed_clips(model, [whole(episode) for episode in toy_files.demonstrations.episodes[:3]])
    states = filtered_states(model, clips, model.rssm.noise(*clips.valid.shape))
    found = Transitions.within(states, clips.actions, clips.valid[:, 1:])
    assert len(found.action) == sum(len(episode) - 1 for episode in toy_files.demonstrations.episodes[:3])
    first = len(toy_files.demonstrations.episodes[0])
    assert torch.equal(found.state.h[: first - 1], states.h[0, : first - 1])
    assert torch.equal(found.action[0], clips.actions[0, 0])


def test_a_resample_holds_whole_episodes():
    drawn = resample_episodes([3, 5, 9], np.random.default_rng(1)).tolist()
    episodes = [[0, 1, 2], [3, 4], [5, 6, 7, 8]]
    while drawn:
        (head,) = (one for one in episodes if drawn[: len(one)] == one)
        drawn = drawn[len(head) :]
    draws = {tuple(resample_episodes([3, 5, 9], np.random.default_rng(seed)).tolist()) for seed in range(20)}
    assert len(draws) > 5


def test_an_ensemble_of_priors_is_refused_with_the_cure(ensemble_path, toy_files, tmp_path):
    """So versions made them before members had dynamics of their own."""
    earlier = shutil.copytree(ensemble_path, tmp_path / "earlier")
    checkpoint = load_checkpoint(earlier, "ensemble")
    first = "members.0.weight"
    weights = checkpoint.weights | {first: checkpoint.weights[first][..., :32].contiguous()}
    world = toy_files.world
    save_checkpoint(earlier, "ensemble", weights, CONFIG, world.spec, {}, world.hash)
    with pytest.raises(DiwaError, match="shared the world model's dynamics: delete it and train it again"):
        load_ensemble(earlier, world.model, world.hash)


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
    expected = guarded.deviation
    assert (expected < 0).any()
    assert (expected > 0).any()
    torch.testing.assert_close(guarded.reward, free.reward - 0.5 * guarded.deviation.clamp_min(0))
    assert not free.deviation.any()


def test_a_dream_deviates_over_the_last_step_of_its_chunk(ensemble, toy_files, toy_reward):
    world, policy = toy_files.world, toy.ConstantPolicy(toy.RIGHT)
    clips = embed_clips(world.model, [whole(episode) for episode in toy_files.demonstrations.episodes[:6]])
    starts = filtered_states(world.model, clips, world.model.rssm.noise(*clips.valid.shape))[:, 3]
    config, rng = DreamConfig(dreams=6, chunks=4, horizon=4), torch.Generator().manual_seed(0)
    dream = Dream(world.model, toy_reward.classifier, starts, config, rng, ensemble)
    noise, gumbel = policy.draw_noise(6, rng), world.model.rssm.noise(4, 6, rng=rng)
    found = dream.step(policy, starts, torch.zeros(6, dtype=torch.int64), noise, gumbel)
    actions = policy.explore(starts.features, noise, config.exploration).actions
    states, executed = dream.imagine(starts, actions, gumbel), world.model.spec.action.executed(actions[:, 3])
    expected = ensemble.deviation(Transitions(states[:, 2], executed, states[:, 3].target))
    torch.testing.assert_close(found.deviation, expected)
    assert found.deviation.std() > 0


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
