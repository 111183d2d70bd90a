"""Probes: what they look at, what they learn, and how it is scored."""

import dataclasses

import numpy as np
import pytest
import torch

from diwa_data.spec import Spec
from diwa_learning.world_model.latents import Segment, embed_frames, whole
from diwa_learning.world_model.probes import Look, fit_probe, look_at, pieces, quantities, score, truth_names, truth_of

NAMES = ("hand_x", "hand_y", "hand_z", "drawer", "bulb", "red_x", "red_y", "red_z", "red_qx", "red_rx", "stuck")


@pytest.fixture
def looks() -> Look:
    """Features that hide the numbers in a mixture."""
    rng = np.random.default_rng(0)
    truth = rng.uniform(-0.3, 0.3, (600, len(NAMES))).astype(np.float32)
    truth[:, 4], truth[:, 10] = truth[:, 4] > 0, 1.0
    mixed = np.tanh(truth @ rng.normal(size=(len(NAMES), 24)) * 2).astype(np.float32)
    return Look(torch.from_numpy(mixed), torch.from_numpy(truth), torch.arange(600) // 100)


def test_quantities_are_told_from_names_and_values(looks):
    found = {quantity.name: (quantity.columns, quantity.half) for quantity in quantities(NAMES, looks.truth)}
    places = {"hand": ((0, 1, 2), None), "red": ((5, 6, 7), None)}
    assert found == places | {"drawer": ((3,), None), "bulb": ((4,), 0.5)}, "neither rotations nor what is stuck"


def test_a_probe_reads_what_is_there_and_is_its_seed(looks):
    before = torch.get_rng_state()
    probe, again = (fit_probe(looks.where(looks.segment < 5), seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    unseen = looks.where(looks.segment == 5)
    read = probe.read(unseen.features)
    assert torch.equal(read, again.read(unseen.features))
    scores = {q.name: score(read, unseen.truth, q, probe) for q in quantities(NAMES, looks.truth)}
    assert scores["drawer"].r2 > 0.8
    assert scores["drawer"].error < 0.1
    assert scores["bulb"].right > 0.95
    assert scores["drawer"].right is None
    nothing = probe.read(torch.randn(100, 24))
    assert score(nothing, unseen.truth, quantities(NAMES, looks.truth)[1], probe).r2 < 0.3


def test_scores_by_hand(looks):
    probe = fit_probe(looks, seed=0)
    truth = torch.zeros(4, len(NAMES))
    read = truth.clone()
    read[:, 0], read[:, 1] = 0.03, 0.04  # of the hand
    read[:3, 4] = torch.tensor([0.49, 0.51, 0.0])  # of the bulb
    hand, bulb = (next(q for q in quantities(NAMES, looks.truth) if q.name == name) for name in ("hand", "bulb"))
    assert score(read, truth, hand, probe).error == pytest.approx(0.05)
    variance = looks.truth[:, :3].var(0).sum()
    assert score(read, truth, hand, probe).r2 == pytest.approx(1 - 0.0025 / float(variance), abs=1e-4)
    assert score(read, truth, bulb, probe).right == 0.75


def test_looks_are_of_the_frames_that_they_are_held_against(tiny_world_model, make_episode):
    """The scene state counts frames, so the truth of a look tells which frame it is of."""
    model = tiny_world_model
    model.spec = dataclasses.replace(Spec(), scene_state=("frame", "episode"))
    episodes = []
    for number, length in enumerate((9, 12)):
        scene = np.stack([np.arange(length), np.full(length, number)], 1).astype(np.float64)
        episodes.append(dataclasses.replace(make_episode(length, number), scene_state=scene))
    segments = [whole(episodes[0]), Segment(episodes[1], 2, 12)]
    counted = []
    looks = look_at(model, segments, 2, (1, 3, 8), 4, torch.Generator().manual_seed(0), counted.append, group=1)
    assert counted == [1, 1]
    assert truth_names(model.spec)[3:] == ("frame", "episode")
    frames = {place: look.truth[:, 3:].int().tolist() for place, look in looks.items()}
    every = [[frame, 0] for frame in range(9)] + [[frame, 1] for frame in range(2, 12)]
    assert frames["embedding"] == frames["filtered"] == every
    assert frames["imagined_1"] == [[2, 0], [6, 0], [4, 1], [8, 1]]  # starts at 0 and 4, after two frames seen
    assert frames["imagined_3"] == [[4, 0], [8, 0], [6, 1], [10, 1]]
    assert frames["imagined_8"] == [[11, 1]]
    assert looks["imagined_8"].segment.tolist() == [1]
    seen = model.rssm.inputs(embed_frames(model, episodes[1], np.arange(2, 12)))
    torch.testing.assert_close(looks["embedding"].features[9:], seen)
    np.testing.assert_array_equal(truth_of(segments[1])[:, :3], episodes[1].state[2:, :3])


def test_pieces_are_spread_over_all_episodes(make_episode):
    episodes = [make_episode(length, length) for length in (50, 25, 31)]
    found = [(len(piece.episode), piece.start, piece.stop) for piece in pieces(episodes, 20, 100)]
    assert found == [(50, 0, 20), (50, 20, 40), (50, 40, 50), (25, 0, 20), (31, 0, 20), (31, 20, 31)]
    assert [len(piece.episode) for piece in pieces(episodes, 20, 2)] == [50, 31]
