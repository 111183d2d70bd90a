"""Cutting training sequences from episodes."""

import numpy as np
import pytest
import torch

from diwa_data.dataset import Dataset
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.sequences import Pushes, Replay, at_limit, fingerprint, split_held_out


def number_frames(episodes):
    """Mark every frame: state[0] = episode * 1000 + frame, and so the images and actions."""
    for number, episode in enumerate(episodes):
        marks = number * 1000 + np.arange(len(episode))
        episode.state[:, 0] = marks
        episode.action[:, 0] = marks
        episode.images["static"][:, 0, 0, 0] = marks % 256
    return episodes


def test_sequences_stay_inside_an_episode_with_the_actions_that_led_to_their_frames(make_episode):
    replay = Replay(number_frames([make_episode(9), make_episode(5), make_episode(30)]), Spec(), length=5)
    batch = replay.sample(400, np.random.default_rng(0))
    marks = batch.state[..., 0]  # (400, 5)
    assert bool((marks.diff(dim=1) == 1).all())
    assert bool(batch.valid.all())
    torch.testing.assert_close(batch.images["static"][:, :, 0, 0, 0], (marks % 256).to(torch.uint8))
    torch.testing.assert_close(batch.previous_actions[:, 1:, 0], marks[:, :-1])
    assert bool((batch.previous_actions[:, 0] == torch.tensor([0.0, 0, 0, 0, 0, 0, 1])).all())
    assert set(marks[:, 0].tolist()) == {*range(5), 1000, *range(2000, 2026)}


def test_starts_are_uniform_and_episodes_weigh_by_their_frames(make_episode):
    replay = Replay(number_frames([make_episode(4), make_episode(12)]), Spec(), length=3)
    starts = replay.sample(6000, np.random.default_rng(0)).state[:, 0, 0]
    counts = {mark: int((starts == mark).sum()) for mark in starts.unique().tolist()}
    assert counts.keys() == {0, 1, *range(1000, 1010)}
    for mark, count in counts.items():
        assert count == pytest.approx(750 if mark < 1000 else 450, rel=0.2)


def test_a_short_episode_is_padded_with_its_last_frame(make_episode):
    replay = Replay(number_frames([make_episode(3)]), Spec(), length=5)
    batch = replay.sample(2, np.random.default_rng(0))
    assert batch.state[0, :, 0].tolist() == [0, 1, 2, 2, 2]
    assert batch.valid.tolist() == [[True, True, True, False, False]] * 2


def test_the_last_rows_hold_action_is_never_seen(make_episode):
    episode = make_episode(6)
    episode.action[-1] = 99.0
    for length in (4, 6, 9):
        batch = Replay([episode], Spec(), length).sample(50, np.random.default_rng(0))
        assert float(batch.previous_actions[batch.valid].max()) <= 1.0


def test_spread_takes_different_clips_and_always_the_same(make_episode):
    replay = Replay(number_frames([make_episode(20), make_episode(4)]), Spec(), length=6)
    starts = replay.spread(6).state[:, 0, 0].tolist()
    assert starts == replay.spread(6).state[:, 0, 0].tolist()
    assert starts == [2, 6, 10, 14, 1000]


def test_held_out_episodes_come_from_every_dataset_that_can_spare_one(make_episode, tmp_path):
    play = Dataset(tmp_path / "play.h5", Spec(), [make_episode(4, seed) for seed in range(20)])
    lone = Dataset(tmp_path / "lone.h5", Spec(), [make_episode(4, 99)])
    training, held_out = split_held_out([play, lone], 0.1, np.random.default_rng(0))
    assert len(held_out) == 2
    assert len(training) == 19
    assert {e.name for e in training}.isdisjoint(e.name for e in held_out)
    assert "000099" in {e.name for e in training}
    with pytest.raises(DiwaError, match=r"lone\.h5: one episode is kept .* at least two"):
        split_held_out([lone], 0.1, np.random.default_rng(0))


def test_episodes_without_frames_are_refused(make_episode):
    with pytest.raises(DiwaError, match="no episode has 3 frames, the longest has 2"):
        Replay([make_episode(2), make_episode(1)], Spec(), 5, shortest=3)


def test_a_fingerprint_knows_the_content_not_the_folder(make_episode, tmp_path):
    one = Dataset(tmp_path / "a" / "play.h5", Spec(), [make_episode(4)])
    moved = Dataset(tmp_path / "b" / "play.h5", Spec(), [make_episode(4)])
    other = Dataset(tmp_path / "a" / "play.h5", Spec(), [make_episode(4, seed=1)])
    assert fingerprint(one) == fingerprint(moved) != fingerprint(other)
    assert fingerprint(one).startswith("play.h5: 1 episodes, 4 frames, ")


def blocked_episode(make_episode):
    """Pushes 20 mm a tick along -z against a floor, and on along x at the end; the target stops 50 mm ahead."""
    episode = make_episode(8)
    episode.action[:] = 0.0
    episode.action[:, 2] = [-0.5, -0.5, -0.25, 0, 0, 0, 0, 0]  # of 40 mm: 20, 20 and 10 mm
    episode.action[6, 0] = 1.0
    episode.state[:, :3] = 0.0
    episode.state[7, 0] = 0.04
    return episode


def test_where_the_target_is_at_its_largest_lead(make_episode):
    down = at_limit(blocked_episode(make_episode), Spec().action, 0.05)
    expected = np.zeros((8, 3))
    expected[3:8, 2] = -1.0  # from frame 3 on, whose action moves nothing; not in frames 0, 1 and 2
    np.testing.assert_allclose(down, expected, atol=1e-6)
    assert not at_limit(blocked_episode(make_episode), Spec().action, 0.06).any()


def test_a_push_at_the_limit_changes_only_what_the_limit_would_have_swallowed(make_episode):
    episode = blocked_episode(make_episode)
    replay = Replay([episode], Spec(), length=8, pushes=Pushes(share=0.5, max_lead=0.05))
    batch = replay.sample(400, np.random.default_rng(0))
    added = (
        batch.previous_actions
        - Replay([episode], Spec(), length=8).sample(1, np.random.default_rng(0)).previous_actions
    )
    down = added[:, 4:, 2]  # led from frames 3 .. 6 to the next
    assert bool((added[:, :4] == 0).all())
    assert bool((added[..., [0, 1, 3, 4, 5, 6]] == 0).all())
    assert bool((down == down[:, :1]).all())
    assert float(down.min()) == pytest.approx(-1.0, abs=0.03)
    assert float((down[:, 0] < 0).float().mean()) == pytest.approx(0.5, abs=0.08)
    torch.testing.assert_close(batch.state, torch.from_numpy(episode.state).expand(400, -1, -1))


def test_a_push_stays_an_action(make_episode):
    episode = blocked_episode(make_episode)
    episode.action[4, 2] = -0.8
    batch = Replay([episode], Spec(), length=8, pushes=Pushes(1.0, 0.05)).sample(200, np.random.default_rng(0))
    assert float(batch.previous_actions[:, 5, 2].min()) == -1.0
