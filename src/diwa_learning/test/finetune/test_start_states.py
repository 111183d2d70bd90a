"""Which recorded frames dreams begin with."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diwa_data.errors import DiwaError
from diwa_learning.finetune.start_states import StartConfig, draw_chain_frames, draw_frames, start_states
from diwa_learning.reward.classifier import RewardClassifier
from diwa_learning.world_model.latents import Segment, embed_clips, filtered_states, last_states


def test_frames_come_evenly_from_all_or_from_the_first_ones(toy_files):
    episodes = toy_files.demonstrations.episodes
    rng = np.random.default_rng(0)
    some = draw_frames(episodes, 200, rng, 3)
    assert {index for _, index in some} == {0, 1, 2}
    assert draw_frames(episodes, 3, rng, 0) == []
    anywhere = draw_frames(episodes, 400, rng)
    assert all(0 <= index < len(episode) for episode, index in anywhere)
    assert len({id(episode) for episode, _ in anywhere}) == len(episodes)
    assert draw_frames([], 3, rng) == []


def test_starts_that_are_a_success_are_dropped(toy_files, toy_reward):
    model, classifier = toy_files.world.model, toy_reward.classifier
    config = StartConfig(count=200, first_share=0.0, play_share=0.0)
    starts = start_states(model, classifier, toy_files.demonstrations.episodes, [], config, seed=0)
    assert 0 < len(starts.h) < 200
    assert (classifier.probability(starts.features) <= classifier.threshold).all()


def test_no_start_left_is_an_error(toy_files):
    model = toy_files.world.model
    yes = RewardClassifier(model.feature_dim, 4)
    yes.threshold.fill_(-1.0)
    with pytest.raises(DiwaError, match="calls all 10 start frames a success"):
        start_states(model, yes, toy_files.demonstrations.episodes, [], StartConfig(count=10), seed=0)


def test_a_start_is_filtered_from_its_context(toy_files):
    model, episode = toy_files.world.model, toy_files.demonstrations.episodes[0]
    noise = model.rssm.noise(3, 4, rng=torch.Generator().manual_seed(0))
    parts = [Segment(episode, 2, 6), Segment(episode, 5, 6), Segment(episode, 0, 2)]
    found = last_states(model, parts, noise, batch=2)
    for row, part in enumerate(parts):
        alone = filtered_states(model, embed_clips(model, [part]), noise[row : row + 1, : len(part)])
        torch.testing.assert_close(found.features[row], alone.features[0, -1])


def test_segments_have_every_length_up_to_the_longest(toy_files, toy_reward, monkeypatch):
    """Half of them begin with a demonstration, the others end anywhere; none leaves its episode."""
    drawn = []
    monkeypatch.setattr(
        "diwa_learning.finetune.start_states.last_states",
        lambda model, parts, noise: drawn.extend(parts) or last_states(model, parts, noise),
    )
    model, demos = toy_files.world.model, toy_files.demonstrations.episodes
    config = StartConfig(count=400, context=3, first_frames=2, play_share=0.0)
    start_states(model, toy_reward.classifier, demos, [], config, seed=0)
    counts = np.bincount([len(part) for part in drawn], minlength=4)
    assert counts[0] == 0
    assert (counts[1:] > 100).all()
    assert {part.start for part in drawn[:200]} == {0, 1}
    assert all(0 <= part.start < part.stop <= len(part.episode) for part in drawn)
    drawn.clear()
    start_states(model, toy_reward.classifier, demos, [], StartConfig(count=50, context=1), seed=0)
    assert {len(part) for part in drawn} == {1}


def test_a_seed_fixes_the_bank(toy_files, toy_reward):
    model, classifier = toy_files.world.model, toy_reward.classifier
    demos, play = toy_files.demonstrations.episodes, toy_files.play.episodes
    banks = [start_states(model, classifier, demos, play, StartConfig(count=20), seed=s) for s in (1, 1, 2)]
    assert torch.equal(banks[0].features, banks[1].features)
    assert banks[0].h.shape != banks[2].h.shape or not torch.equal(banks[0].h, banks[2].h)


def test_chain_starts_begin_in_play_where_demonstrations_began(toy_files, toy_reward, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "diwa_learning.finetune.start_states.last_states",
        lambda model, parts, noise: drawn.append(parts) or last_states(model, parts, noise),
    )
    model, demos = toy_files.world.model, toy_files.demonstrations.episodes
    play = [replace(episode, state=episode.state.copy()) for episode in demos]
    low, high = (getattr(np.array([demo.state[0, :3] for demo in demos]), end)(axis=0) for end in ("min", "max"))
    for episode in play:
        episode.state[:, :3] = high + 1.0
        episode.state[2:4, :3] = (low + high) / 2
    assert {t for _, t in draw_chain_frames(play, demos, 50, np.random.default_rng(0))} == {2, 3}
    far = [replace(episode, state=episode.state + 9) for episode in play]
    assert draw_chain_frames(far, demos, 50, np.random.default_rng(0)) == []

    for share in (0.0, 0.5):
        config = StartConfig(count=100, first_share=0.2, play_share=0.0, chain_share=share)
        start_states(model, toy_reward.classifier, demos, play, config, seed=0)
    mine = {id(episode) for episode in play}
    without, with_chains = ([part for part in parts if id(part.episode) in mine] for parts in drawn)
    assert (len(without), len(with_chains), {part.start for part in with_chains}) == (0, 50, {2, 3})


@pytest.mark.parametrize("shares", [{"chain_share": 0.5}, {"play_share": -0.1}, {"first_share": float("nan")}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(DiwaError, match="shares of starts are"):
        StartConfig(**shares)
