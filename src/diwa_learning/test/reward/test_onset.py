"""The moment of success is found among the frames before a mark."""

import math
from dataclasses import replace

import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.reward.classifier import NEGATIVE, POSITIVE, UNUSED
from diwa_learning.reward.data import Items
from diwa_learning.reward.onset import onset_folds, onsets, others, relabelled
from diwa_learning.reward.train import RewardJob

LENGTH, MARGIN = 12, 5


def demonstrations(marks, scores, copies=2):
    """Items of recordings of LENGTH frames with these marks (LENGTH: none) and scores (R, LENGTH, K), `copies` of each
    filtered frame and one imagined."""
    ticks = torch.arange(LENGTH)
    rows = []
    for number, (mark, score) in enumerate(zip(marks, scores, strict=True)):
        labels = torch.where(ticks >= mark, POSITIVE, torch.where(ticks > mark - MARGIN, UNUSED, NEGATIVE))
        labels = labels if mark < LENGTH else torch.full_like(ticks, NEGATIVE)
        for copy in range(copies + 1):
            imagined = torch.full((LENGTH,), copy == copies)
            features = torch.rand_like(score) if copy == copies else score
            rows.append(Items(features, labels, imagined, torch.full_like(ticks, number), ticks))
    return Items.join(*rows)


def scores_of(onset, sure=0.9):
    """Scores (LENGTH, 1) of a classifier that sees success from `onset` on."""
    return torch.where(torch.arange(LENGTH) >= onset, sure, 1 - sure)[:, None]


@given(st.lists(st.tuples(st.integers(MARGIN, LENGTH - 1), st.integers(0, MARGIN - 1)), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_the_onset_is_where_the_classifier_sees_success_begin(drawn):
    marks = [mark for mark, _ in drawn]
    true = [mark - lag for mark, lag in drawn]
    found = onsets(demonstrations(marks, [scores_of(onset) for onset in true]), [toy.Column(0)], seen=True)
    assert found.tolist() == true


def test_one_doubtful_frame_does_not_move_it():
    scores = scores_of(6)
    scores[7] = 0.45
    assert onsets(demonstrations([9], [scores]), [toy.Column(0)], seen=True).tolist() == [6]


def test_frames_with_labels_have_no_say_and_unmarked_recordings_no_onset():
    scores = [torch.full((LENGTH, 1), 0.99), torch.full((LENGTH, 1), 0.01), torch.full((LENGTH, 1), 0.99)]
    found = onsets(demonstrations([8, 8, LENGTH], scores), [toy.Column(0)], seen=True)
    assert found.tolist() == [8 - MARGIN + 1, 8, -1]  # the first unknown frame, the mark, none


def test_a_recording_is_judged_by_the_classifier_that_has_not_seen_it():
    both = [torch.cat([scores_of(7), scores_of(9)], 1)] * 2
    demos = demonstrations([10, 10], both)
    assert onsets(demos, [toy.Column(0), toy.Column(1)], seen=True).tolist() == [7, 9]
    assert set(others(demos, 0, 2).recording.tolist()) == {1}
    sure = [torch.cat([scores_of(7, 0.99), scores_of(9, 0.6)], 1)] * 2
    assert onsets(demonstrations([10, 10], sure), [toy.Column(0), toy.Column(1)], seen=False).tolist() == [7, 7]


def test_every_frame_of_a_marked_recording_has_a_label_then():
    demos = demonstrations([8, LENGTH], [scores_of(6), scores_of(6)])
    demos = replace(demos, labels=torch.where((demos.recording == 1) & (demos.tick == 3), UNUSED, demos.labels))
    found = relabelled(demos, torch.tensor([6, -1]))
    first = found.recording == 0
    assert torch.equal(found.labels[first], torch.where(found.tick[first] >= 6, POSITIVE, NEGATIVE))
    assert (found.labels[~first & (found.tick == 3)] == UNUSED).all()  # a success that was taken back stays unknown


def test_nothing_is_looked_for_where_all_is_known():
    demos = demonstrations([8, 9], [scores_of(6)] * 2)
    assert onset_folds(demos, 2) == 2
    assert onset_folds(demos, 5) == 2
    assert onset_folds(relabelled(demos, torch.tensor([6, 6])), 2) == 0
    assert onset_folds(demonstrations([8], [scores_of(6)]), 2) == 0, "a single one has none to learn from"


def test_onsets_come_before_late_marks(toy_files, tmp_path):
    config = replace(toy.REWARD, onset_folds=2)
    demos, late = toy_files.demonstrations_path, []
    for name, onset in (("usual", 0), ("found", 2)):
        out = tmp_path / name
        RewardJob(demos, toy_files.world_model_path, out, toy_files.play_path, replace(config, onset_folds=onset)).run()
        late.append(load_checkpoint(out, "reward").metrics)
    assert "onset_seconds" not in late[0]
    assert 0 <= late[1]["onset_seconds"] <= 1.2
    assert late[1]["items"] > late[0]["items"], "near misses and early successes are learned from"


@pytest.mark.parametrize(
    ("config", "setting"),
    [(toy.REWARD, {"onset_folds": -1}), (toy.REWARD, {"margin": -1.0}), (toy.REWARD, {"missed_success": 5.0}),
     (toy.REWARD, {"missed_success": math.nan}), (toy.POLICY, {"after_success": -3.0})],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused_by_name(config, setting):
    with pytest.raises(DiwaError, match=f"{next(iter(setting))} is "):
        replace(config, **setting)
