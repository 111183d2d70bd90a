"""Cutting training sequences from episodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diwa_data.dataset.dataset import Dataset
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.world_model.replay import Frames, ReplayBuffer, fingerprint, held_out_of, split_held_out


def number_frames(episodes):
    """Mark every frame: state[0] = episode * 1000 + frame, and so the images and actions."""
    for number, episode in enumerate(episodes):
        marks = number * 1000 + np.arange(len(episode))
        episode.state[:, 0] = marks
        episode.action[:, 0] = marks
        episode.images["static"][:, 0, 0, 0] = marks % 256
    return episodes


def test_sequences_stay_inside_an_episode_with_the_actions_that_led_to_their_frames(make_episode):
    replay = ReplayBuffer(number_frames([make_episode(9), make_episode(5), make_episode(30)]), Spec(), length=5)
    batch = replay.sample(400, np.random.default_rng(0))
    marks = batch.state[..., 0]  # (400, 5)
    assert bool((marks.diff(dim=1) == 1).all())
    assert bool(batch.valid.all())
    torch.testing.assert_close(batch.images["static"][:, :, 0, 0, 0], (marks % 256).to(torch.uint8))
    torch.testing.assert_close(batch.previous_actions[:, 1:, 0], marks[:, :-1])
    assert bool((batch.previous_actions[:, 0] == torch.tensor([0.0, 0, 0, 0, 0, 0, 1])).all())
    assert set(marks[:, 0].tolist()) == {*range(5), 1000, *range(2000, 2026)}


def test_starts_are_uniform_and_episodes_weigh_by_their_frames(make_episode):
    replay = ReplayBuffer(number_frames([make_episode(4), make_episode(12)]), Spec(), length=3)
    starts = replay.sample(6000, np.random.default_rng(0)).state[:, 0, 0]
    counts = {mark: int((starts == mark).sum()) for mark in starts.unique().tolist()}
    assert counts.keys() == {0, 1, *range(1000, 1010)}
    for mark, count in counts.items():
        assert count == pytest.approx(750 if mark < 1000 else 450, rel=0.2)


def test_a_short_episode_is_padded_with_its_last_frame(make_episode):
    replay = ReplayBuffer(number_frames([make_episode(3)]), Spec(), length=5)
    batch = replay.sample(2, np.random.default_rng(0))
    assert batch.state[0, :, 0].tolist() == [0, 1, 2, 2, 2]
    assert batch.valid.tolist() == [[True, True, True, False, False]] * 2


def test_the_last_rows_hold_action_is_never_seen(make_episode):
    episode = make_episode(6)
    episode.action[-1] = 99.0
    for length in (4, 6, 9):
        batch = ReplayBuffer([episode], Spec(), length).sample(50, np.random.default_rng(0))
        assert float(batch.previous_actions[batch.valid].max()) <= 1.0


def test_spread_takes_different_clips_and_always_the_same(make_episode):
    replay = ReplayBuffer(number_frames([make_episode(20), make_episode(4)]), Spec(), length=6)
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
        ReplayBuffer([make_episode(2), make_episode(1)], Spec(), 5, shortest=3)


def test_a_fingerprint_knows_the_content_not_the_folder(make_episode, tmp_path):
    one = Dataset(tmp_path / "a" / "play.h5", Spec(), [make_episode(4)])
    moved = Dataset(tmp_path / "b" / "play.h5", Spec(), [make_episode(4)])
    other = Dataset(tmp_path / "a" / "play.h5", Spec(), [make_episode(4, seed=1)])
    assert fingerprint(one) == fingerprint(moved) != fingerprint(other)
    assert fingerprint(one).startswith("play.h5: 1 episodes, 4 frames, ")


def test_the_target_is_the_first_position_and_the_actions_since(make_episode):
    episode = make_episode(6)
    episode.action[:, 2] = [-0.5, -0.5, -0.25, 0, 1, 1]  # of 40 mm; the last one leads out of the episode
    height = float(episode.state[0, 2])
    batch = ReplayBuffer([episode], Spec(), length=4).gather(np.array([2]))
    expected = height + np.array([-0.04, -0.05, -0.05, -0.01])
    np.testing.assert_allclose(batch.target[0, :, 2].numpy(), expected, atol=1e-6)
    assert torch.equal(batch.target[0, 0], torch.from_numpy(episode.targets(Spec().action)[2]))


def test_the_episodes_that_training_held_out_are_found_again(make_episode, tmp_path):
    one, other = (
        Dataset(tmp_path / f"{name}.h5", Spec(), [make_episode(4, first + seed) for seed in range(9)])
        for name, first in (("play", 0), ("demonstrations", 100))
    )
    _, held_out = split_held_out([one, other], 0.25, np.random.default_rng(3))
    trained_on = [fingerprint(one), fingerprint(other)]
    for dataset in (one, other):
        renamed = Dataset(tmp_path / "elsewhere" / "x: y.h5", dataset.spec, dataset.episodes)
        found = held_out_of(renamed, trained_on, 0.25, np.random.default_rng(3))
        assert len(found) == 2
        assert all(episode in held_out for episode in found)
    unseen = Dataset(tmp_path / "new.h5", Spec(), [make_episode(4, 50)])
    assert held_out_of(unseen, trained_on, 0.25, np.random.default_rng(3)) == unseen.episodes
    with pytest.raises(DiwaError, match=r"new\.h5: the world model was trained on all of it"):
        held_out_of(unseen, [*trained_on, fingerprint(unseen)], 0.25, np.random.default_rng(3))


def test_hybrid_sequences_hold_the_scene_state_behind_the_robots(make_episode):
    episode = make_episode(6)
    with pytest.raises(DiwaError, match="sees the scene state"):
        ReplayBuffer([episode], Spec(), length=4, hybrid=True)
    scene = np.arange(12.0).reshape(6, 2)
    told = replace(episode, scene_state=scene)
    batch = ReplayBuffer([told], Spec(), length=4, hybrid=True).gather(np.array([1]))
    np.testing.assert_array_equal(batch.state[0, :, 10:], scene[1:5])
    np.testing.assert_array_equal(batch.state[0, :, :10], episode.state[1:5])
    assert batch.state.dtype == torch.float32
    assert ReplayBuffer([told], Spec(), length=4).state.shape == (6, 10)


def test_frames_are_not_copied_before_they_are_asked_for_and_are_the_same_when_held_together(make_episode):
    episodes = number_frames([make_episode(9), make_episode(5)])
    replay = ReplayBuffer(episodes, Spec(), length=7)
    apart = replay.gather(np.array([9, 2])).images["static"]
    for frames in replay._images.values():
        frames.move("cpu")
    assert torch.equal(replay.gather(np.array([9, 2])).images["static"], apart)
    frames = Frames([episode.images["static"] for episode in episodes])
    episodes[1].images["static"][3] = 77
    assert bool((frames.gather(np.array([[12]])) == 77).all())


def test_some_images_are_spread_over_all_episodes(make_episode):
    replay = ReplayBuffer(number_frames([make_episode(9), make_episode(5)]), Spec(), length=5)
    marks = replay.some_images(5)["static"][:, 0, 0, 0].tolist()
    assert marks == [(1000 * (row > 8) + row - 9 * (row > 8)) % 256 for row in range(0, 14, 2)]
