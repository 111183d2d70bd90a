"""Which frames of play without marks are failures, and who says so."""

import pytest
import torch
import toy

from diwa_learning.reward.classifier import NEGATIVE, POSITIVE, UNUSED
from diwa_learning.reward.data import Items
from diwa_learning.reward.screening import fold_count, left_out, screened, training_items


def play(scores, labels=None, recordings=None):
    """Items of frames with these scores (M, K) of K classifiers, each filtered and imagined."""
    count = len(scores)
    labels = torch.tensor(labels or [UNUSED] * count).repeat(2)
    recording = torch.tensor(recordings or list(range(count))).repeat(2)
    features = torch.tensor(scores)
    imagined = torch.arange(2 * count) >= count
    return Items(torch.cat([features, 1 - features]), labels, imagined, recording, torch.zeros_like(labels))


def test_a_frame_is_left_out_when_the_classifier_that_did_not_see_it_is_sure():
    items = play([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])  # recording n was left out by classifier n % 2
    found = screened(items, [toy.Column(0), toy.Column(1)], 0.5, seen=True)
    assert found.labels.tolist() == [UNUSED, NEGATIVE, NEGATIVE, UNUSED] * 2
    assert left_out(found) == 0.5
    assert (found.used().labels == NEGATIVE).all()


def test_held_out_play_is_left_out_where_all_are_sure():
    items = play([[0.9, 0.1], [0.9, 0.8], [0.1, 0.9]])
    assert (
        screened(items, [toy.Column(0), toy.Column(1)], 0.5, seen=False).labels.tolist()
        == [NEGATIVE, UNUSED, NEGATIVE] * 2
    )


def test_known_labels_stay_whatever_a_classifier_believes():
    items = play([[0.9], [0.9], [0.1]], labels=[NEGATIVE, UNUSED, POSITIVE])
    assert screened(items, [toy.Column(0)], 0.5, seen=True).labels.tolist() == [NEGATIVE, UNUSED, POSITIVE] * 2
    assert screened(items, [], 0.5, seen=True) is items


def test_each_learns_from_what_it_does_not_judge():
    labels, zeros = torch.tensor([POSITIVE, NEGATIVE]), torch.zeros(2, dtype=torch.int64)
    demos = Items(torch.zeros(2, 1), labels, torch.tensor([False, True]), zeros, zeros)
    items = play([[0.1]] * 4, labels=[UNUSED, NEGATIVE, UNUSED, POSITIVE])
    found = training_items(demos, items, fold=0, folds=2)
    assert sorted(found.labels.tolist()) == [NEGATIVE] * 3 + [POSITIVE] * 3  # recordings 1 and 3 and demonstrations
    assert len(training_items(demos, items, fold=0, folds=1)) == 2  # a single recording: demonstrations alone


@pytest.mark.parametrize(("recordings", "folds"), [([0, 0, 0], 1), ([0, 1, 1], 2), ([0, 1, 2], 2)])
def test_no_more_folds_than_recordings(recordings, folds):
    assert fold_count(play([[0.5]] * 3, recordings=recordings), 2) == folds


def test_nothing_is_screened_where_all_is_known():
    assert fold_count(None, 3) == 0
    assert fold_count(play([[0.5]] * 3, labels=[NEGATIVE] * 3), 3) == 0
