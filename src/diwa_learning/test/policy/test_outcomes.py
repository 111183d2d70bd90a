"""Failed attempts: never imitated, no start of a dream, negatives of the classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import POLICY, REWARD

from diwa_data.dataset.dataset import Dataset, Episode, without_failures
from diwa_data.errors import DiwaError
from diwa_learning.policy.train import PolicyJob, imitated, skill_in, train_policy
from diwa_learning.reward.classifier import NEGATIVE, POSITIVE, UNUSED, demonstration_labels
from diwa_learning.reward.data import hold_out, make_data


def with_outcome(episode: Episode, outcome: str, withdrawn: int = -1) -> Episode:
    """The same motion under another word."""
    attributes = episode.attributes | {"outcome": outcome, "success_tick": -1, "withdrawn_tick": withdrawn}
    return replace(episode, success=np.zeros(len(episode), bool), attributes=attributes)


@pytest.fixture
def mixed(toy_files) -> Dataset:
    """Two successes, two failed attempts and one that nobody marked."""
    shown = toy_files.demonstrations.episodes
    others = [with_outcome(e, word) for e, word in zip(shown[2:5], ("fail", "fail", "none"), strict=True)]
    return replace(toy_files.demonstrations, episodes=[*shown[:2], *others])


def test_what_failed_is_left_out_aloud(mixed):
    kept = without_failures(mixed)
    assert [episode.outcome for episode in kept.episodes] == ["success", "success", "none"]
    said = imitated(mixed, kept)
    assert said.startswith("policy: 3 of 5 demonstrations are imitated, 2 left out as failed, 1 without a mark ")
    good = replace(mixed, episodes=mixed.episodes[:2])
    assert imitated(good, without_failures(good)) == ""


def test_what_the_hand_does_later_is_not_imitated(mixed):
    episode = replace(mixed.episodes[0], success=np.arange(len(mixed.episodes[0])) >= 5)
    assert len(skill_in(episode, 7.5, 0.4)) == 9  # the mark's frame, and three more
    assert len(skill_in(episode, 7.5, 60.0)) == len(episode)
    unmarked = replace(episode, success=np.zeros(len(episode), bool))
    assert len(skill_in(unmarked, 7.5, 0.0)) == len(episode)


def test_nothing_but_failures_is_one_clear_line(mixed, toy_files, write_dataset, tmp_path: Path):
    failed = replace(mixed, episodes=mixed.episodes[2:4])
    path = write_dataset(tmp_path / "failed.h5", failed.episodes, failed.spec)
    with pytest.raises(DiwaError, match=r"failed\.h5: all 2 demonstrations are marked failed.* 'diwa annotate'"):
        train_policy(PolicyJob(path, toy_files.world_model_path, tmp_path / "out", POLICY))
    assert not (tmp_path / "out").exists()


def test_failed_attempts_are_negatives_and_change_nothing_else(mixed, toy_files, capsys):
    model, config = toy_files.world.model, replace(REWARD, held_out=0.4)
    good = [episode for episode in mixed.episodes if episode.outcome == "success"]
    alone, data = (make_data(model, episodes, [], config) for episodes in (good, mixed.episodes))
    assert "reward: 2 failed attempts are failures" in capsys.readouterr().out
    assert torch.equal(data.held.embeds, alone.held.embeds)
    for items, before in ((data.demos, alone.demos), (data.demos_held, alone.demos_held)):
        more = len(items) - len(before)
        assert more > 0
        assert int((items.labels == NEGATIVE).sum()) == int((before.labels == NEGATIVE).sum()) + more
        assert int((items.labels == POSITIVE).sum()) == int((before.labels == POSITIVE).sum())


def test_a_success_that_was_taken_back_is_no_negative(mixed):
    episode = mixed.episodes[2]
    assert (demonstration_labels(episode, 7.5, 1.0) == NEGATIVE).all()
    labels = demonstration_labels(with_outcome(episode, "fail", withdrawn=20), rate=7.5, margin=1.0)
    assert (labels[:13] == NEGATIVE).all()
    assert (labels[13:] == UNUSED).all()


@pytest.mark.parametrize(("count", "held"), [(1, 0), (2, 1), (3, 1), (10, 2)])
def test_one_of_several_is_held_out_at_least(toy_files, count, held):
    episodes = toy_files.demonstrations.episodes[:1] * count
    out, rest = hold_out(episodes, 0.2, np.random.default_rng(0))
    assert (len(out), len(rest)) == (held, count - held)
