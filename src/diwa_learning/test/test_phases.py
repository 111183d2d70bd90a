"""Pre-training and reward phases on the toy task: pairs, averages, held-out scores, continuing to the bit."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import POLICY, REWARD

from diwa_data.config import load_section
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.core.device import cosine
from diwa_learning.finetune.start_states import StartConfig
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.policy import train as policy_phase
from diwa_learning.policy.checkpoint import PolicyNetConfig, load_policy
from diwa_learning.policy.train import PolicyConfig, PolicyJob, make_pairs, update_average
from diwa_learning.reward import train as reward_phase
from diwa_learning.reward.classifier import UNUSED, RewardConfig, demonstration_labels
from diwa_learning.reward.data import demonstration_items, label_clips, play_items
from diwa_learning.reward.train import RewardJob
from diwa_learning.world_model.latents import Segment, draw_segments, embed_clips, whole


def assert_same(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def die_at_call(monkeypatch, owner, name, number):
    """Let the `number`-th call of a function end the process's work, as a kill would."""
    real, calls = getattr(owner, name), []

    def dies(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise MemoryError
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, dies)


class TestPolicy:
    """Phase 2."""

    def test_defaults_are_the_papers(self):
        config = PolicyConfig()
        assert (config.net.width, config.net.denoising_steps, config.epochs, config.batch_size) == (512, 20, 5000, 256)
        assert (config.ema_decay, config.ema_start, config.ema_every) == (0.995, 20, 10)

    def test_pairs_lie_wholly_inside_a_demonstration(self, toy_files):
        episodes = toy_files.demonstrations.episodes[:3]
        pairs = make_pairs(toy_files.world.model, episodes, replace(POLICY, latent_samples=2, after_success=60.0))
        counts = [len(episode) - 4 for episode in episodes]  # the last action row leads nowhere
        assert pairs.actions.shape == (sum(counts), 4, 7)
        assert pairs.features.shape == (2, sum(counts), toy_files.world.model.feature_dim)
        assert np.array_equal(pairs.actions[counts[0]].numpy(), episodes[1].action[:4])
        assert np.array_equal(pairs.actions[counts[0] - 1].numpy(), episodes[0].action[-5:-1])
        assert not torch.equal(pairs.features[0], pairs.features[1])
        until = [int(np.argmax(episode.success)) + 1 + 4 for episode in episodes]  # 0.5 s are four frames
        fewer = make_pairs(toy_files.world.model, episodes, replace(POLICY, after_success=0.5))
        assert len(fewer.actions) == sum(
            min(stop, len(episode)) - 4 for stop, episode in zip(until, episodes, strict=True)
        )

    def test_too_short_demonstrations_are_an_error(self, toy_files):
        config = replace(POLICY, net=replace(POLICY.net, chunk=200))
        with pytest.raises(DiwaError, match="more than 200 frames"):
            make_pairs(toy_files.world.model, toy_files.demonstrations.episodes, config)

    def test_average_moves_by_one_minus_decay(self):
        average, model = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
        expected = 0.9 * average.weight + 0.1 * model.weight
        update_average(average, model, 0.9)
        assert torch.allclose(average.weight, expected)

    def test_cosine_runs_over_all_epochs(self):
        assert [cosine(epoch, 101, 1.0, 0.1) for epoch in (0, 50, 100)] == pytest.approx([1.0, 0.55, 0.1])

    def test_checkpoint_holds_the_average_and_not_the_last_weights(self, toy_files, toy_policy_path, tmp_path):
        loaded = load_policy(toy_policy_path, Spec(), toy_files.world.hash, toy_files.world.model.feature_dim)
        assert loaded.skill == "open_drawer"
        PolicyJob(
            demonstrations=toy_files.demonstrations_path,
            world_model=toy_files.world_model_path,
            out=tmp_path / "p",
            config=replace(POLICY, ema_start=10**6),
        ).run()
        last = load_checkpoint(tmp_path / "p", "policy").weights  # never averaged: the last weights themselves
        mine = loaded.checkpoint.weights
        assert any(not torch.equal(mine[name], last[name]) for name in mine)
        losses = [value for _, value in loaded.checkpoint.metrics["history"]["loss"]]
        assert losses[-1] < 0.7 * losses[0]

    def test_a_killed_run_continues_to_the_same_bits(self, toy_files, toy_policy_path, tmp_path, monkeypatch):
        job = PolicyJob(toy_files.demonstrations_path, toy_files.world_model_path, tmp_path / "p", POLICY)
        die_at_call(monkeypatch, policy_phase, "train_epoch", 17)
        with pytest.raises(MemoryError):
            job.run()
        monkeypatch.undo()
        job.run()
        assert_same(
            load_checkpoint(tmp_path / "p", "policy").weights, load_checkpoint(toy_policy_path, "policy").weights
        )

    def test_gaussian_policy_trains_too(self, toy_files, tmp_path):
        config = replace(POLICY, net=PolicyNetConfig(kind="gaussian", width=16), epochs=5)
        PolicyJob(
            demonstrations=toy_files.demonstrations_path,
            world_model=toy_files.world_model_path,
            out=tmp_path / "g",
            config=config,
        ).run()
        loaded = load_policy(tmp_path / "g", Spec(), toy_files.world.hash, toy_files.world.model.feature_dim)
        assert loaded.policy.steps == 1

    def test_play_is_refused_as_demonstrations(self, toy_files, tmp_path):
        with pytest.raises(DiwaError, match="demonstrations of one skill, found: none"):
            PolicyJob(
                demonstrations=toy_files.play_path,
                world_model=toy_files.world_model_path,
                out=tmp_path / "p",
                config=POLICY,
            ).run()


class TestReward:
    """Phase 3."""

    def test_defaults_are_the_papers(self):
        config = RewardConfig()
        assert (config.learning_rate, config.epochs, config.batch_size, config.temperature) == (1e-6, 100, 32, 0.5)

    def test_metrics_hold_both_scores_and_the_threshold(self, toy_reward):
        metrics = toy_reward.checkpoint.metrics
        assert (
            {"precision", "recall", "positives", "negatives"}
            == metrics["filtered"].keys()
            == metrics["imagined"].keys()
        )
        assert metrics["threshold_reached"]
        assert math.isclose(metrics["threshold"], toy_reward.classifier.threshold.item(), rel_tol=1e-6)
        rollouts = metrics["rollouts"]
        assert (rollouts["successes"], rollouts["missed"]) == (2, 0)
        assert (rollouts["without_success"], rollouts["false_success"]) == (2, 0)  # play has no marks
        assert 0 < metrics["play_left_out"] < 0.6  # a third of it is right of the goal

    def test_a_killed_run_continues_to_the_same_bits(self, toy_files, toy_reward_path, tmp_path, monkeypatch):
        files = (toy_files.demonstrations_path, toy_files.world_model_path)
        job = RewardJob(*files, tmp_path / "r", toy_files.play_path, REWARD)
        saves = []
        real = reward_phase.TrainingRun.save
        monkeypatch.setattr(reward_phase.TrainingRun, "save", lambda run: (real(run), saves.append(run.step)))
        log = reward_phase.TrainingRun.log

        def dies(run, step, values):
            if step == 20:
                raise MemoryError
            log(run, step, values)

        monkeypatch.setattr(reward_phase.TrainingRun, "log", dies)
        with pytest.raises(MemoryError):
            job.run()
        assert saves  # it continues from the middle
        monkeypatch.undo()
        job.run()
        assert_same(
            load_checkpoint(tmp_path / "r", "reward").weights, load_checkpoint(toy_reward_path, "reward").weights
        )

    @pytest.mark.parametrize(("lowest", "warns"), [(0.5, False), (1.0, True)])
    def test_a_reward_blind_to_imagined_successes_is_warned_of(self, toy_files, tmp_path, capsys, lowest, warns):
        config = replace(REWARD, lowest_threshold=lowest)
        RewardJob(
            demonstrations=toy_files.demonstrations_path,
            world_model=toy_files.world_model_path,
            out=tmp_path / "r",
            config=config,
        ).run()
        assert ("warning: it misses 100 % of what succeeds" in capsys.readouterr().out) == warns

    def test_without_play(self, toy_files, tmp_path):
        RewardJob(
            demonstrations=toy_files.demonstrations_path,
            world_model=toy_files.world_model_path,
            out=tmp_path / "r",
            config=replace(REWARD, epochs=2),
        ).run()
        history = json.loads((tmp_path / "r" / "metrics.json").read_text())["history"]
        assert not [name for name in history if name.startswith("screen")]
        assert len(history["loss"]) == 2

    def test_imagined_clips_keep_their_labels(self, toy_files):
        """With every clip from frame 0, imagined labels are the demonstrations' own."""
        model, episodes = toy_files.world.model, toy_files.demonstrations.episodes[:2]
        demos = label_clips(model, [whole(e) for e in episodes], lambda e: demonstration_labels(e, 7.5, 1.0))
        config = replace(REWARD, context=1, horizon=499, imagined_every=500, latent_samples=1)
        items = demonstration_items(model, demos, config, torch.Generator())
        assert torch.equal(items.labels[items.imagined], items.labels[~items.imagined])
        assert UNUSED in items.labels
        assert UNUSED not in items.used().labels
        later = demonstration_items(model, demos, replace(config, horizon=3, imagined_every=5), torch.Generator())
        clips = sum(len(range(0, len(episode) - 1, 5)) for episode in episodes)
        assert int(later.imagined.sum()) <= 4 * clips

    def test_play_items_pair_filtered_and_imagined_frames(self, toy_files):
        config, model = replace(REWARD, context=2, horizon=6), toy_files.world.model
        segments = draw_segments(toy_files.play.episodes, 5, 8, np.random.default_rng(0))
        clips = label_clips(model, segments, lambda episode: np.arange(len(episode)))
        items = play_items(model, clips, config, torch.Generator())
        assert items.features.shape == (80, model.feature_dim)
        assert items.imagined.tolist() == [False] * 40 + [True] * 40
        frames = [frame for part in segments for frame in range(part.start, part.stop)]
        assert items.labels.tolist() == frames * 2

    def test_stretches_fit_their_episode(self, toy_files):
        parts = draw_segments(toy_files.play.episodes, 50, 30, np.random.default_rng(0))
        assert all(len(part) == 30 and part.stop <= len(part.episode) for part in parts)
        short = draw_segments(toy_files.demonstrations.episodes, 5, 1000, np.random.default_rng(0))
        assert all(part.start == 0 and part.stop == len(part.episode) for part in short)

    def test_unmarked_demonstrations_are_left_out_aloud(self, toy_files, capsys):
        episodes = toy_files.demonstrations.episodes[:3]
        episodes[0] = replace(episodes[0], success=np.zeros(len(episodes[0]), bool))
        reward_phase.make_data(toy_files.world.model, episodes, [], REWARD)
        assert "without a success mark: demonstrations 000000" in capsys.readouterr().out
        with pytest.raises(DiwaError, match="two or more demonstrations with a success mark"):
            reward_phase.make_data(toy_files.world.model, episodes[:2], [], REWARD)


def test_parts_of_an_episode_are_clips(toy_files):
    clips = embed_clips(toy_files.world.model, [Segment(toy_files.play.episodes[0], 3, 9)])
    assert clips.valid.shape == (1, 6)


@pytest.mark.parametrize("preset", ["debug", "laptop", "robot", "paper"])
def test_presets_hold_only_known_keys(preset):
    policy = load_section(PolicyConfig, "policy", preset)
    load_section(RewardConfig, "reward", preset)
    tuning = load_section(FinetuneConfig, "finetune", preset)
    if preset == "paper":
        plain = FinetuneConfig()
        assert policy == PolicyConfig()
        of_skills = {"open_drawer": 0.1, "close_drawer": 0.025, "turn_on_led": 0.025}
        dream = replace(plain.dream, precision="auto", starts=StartConfig(context=1))
        assert tuning == replace(plain, dream=dream, alpha_bc_of=of_skills)
