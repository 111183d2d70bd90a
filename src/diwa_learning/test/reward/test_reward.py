"""The classifier's losses, labels and threshold."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import toy

from diwa_data.dataset.play_marks import Done, write_play_marks
from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.reward.calibration import sure
from diwa_learning.reward.classifier import (
    NEGATIVE,
    POSITIVE,
    UNUSED,
    RewardClassifier,
    demonstration_labels,
    nt_xent,
    play_labels,
)
from diwa_learning.reward.data import make_data
from diwa_learning.reward.threshold import (
    RolloutScores,
    choose_threshold,
    highest_run,
    rollout_threshold,
    score_at,
    strict_threshold,
)
from diwa_learning.reward.train import RewardJob


def test_nt_xent_of_three_items_by_hand():
    """Items 0 and 1 share a label, item 2 has none of its own: two anchors, each without itself in either part."""
    embeds = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    labels = torch.tensor([1, 1, 0])
    s01, s02, s12 = 0.6 / 0.5, 0.0, 0.8 / 0.5
    anchor0 = -(s01 - math.log(math.exp(s01) + math.exp(s02)))
    anchor1 = -(s01 - math.log(math.exp(s01) + math.exp(s12)))
    assert nt_xent(embeds, labels, 0.5).item() == pytest.approx((anchor0 + anchor1) / 2, rel=1e-5)


def test_nt_xent_without_any_positive_pair_is_zero_and_finite():
    embeds = torch.eye(2).requires_grad_()
    loss = nt_xent(embeds, torch.tensor([0, 1]), 0.5)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(embeds.grad).all()


def test_probability_is_the_softmax_of_the_success_logit():
    torch.manual_seed(0)
    classifier, features = RewardClassifier(5, 8), torch.randn(3, 5)
    logits = classifier.logits(features)
    assert torch.allclose(classifier.probability(features), (logits[:, 1] - logits[:, 0]).sigmoid())


def test_loss_separates_two_clouds():
    torch.manual_seed(0)
    labels = torch.arange(64) % 2
    features = torch.randn(64, 5) + 2.0 * labels[:, None]
    classifier = RewardClassifier(5, 16)
    adam = torch.optim.Adam(classifier.parameters(), 1e-2)
    for _ in range(60):
        loss = classifier.loss(features, labels, 0.5)
        adam.zero_grad()
        loss.backward()
        adam.step()
    score = score_at(0.5, classifier.probability(features).detach().numpy(), labels.numpy())
    assert score.precision > 0.95
    assert score.recall > 0.95


def test_labels_leave_out_the_second_before_the_mark(toy_files):
    episode = toy_files.demonstrations.episodes[0]
    success = np.zeros(len(episode), bool)
    success[20:] = True
    labels = demonstration_labels(replace(episode, success=success), rate=7.5, margin=1.0)
    assert (labels[20:] == POSITIVE).all()
    assert (labels[:13] == NEGATIVE).all()  # tick 12 is 8 ticks, 1.07 s, before the mark
    assert (labels[13:20] == UNUSED).all()


def test_threshold_takes_the_best_recall_at_the_wanted_precision():
    probability = np.array([0.9, 0.8, 0.7, 0.6, 0.2])
    label = np.array([1, 1, 0, 1, 0])
    strict = choose_threshold(probability, label, 0.95)
    assert strict.value == pytest.approx(0.75)
    assert strict.reached
    assert choose_threshold(probability, label, 0.75).value == pytest.approx(0.4)
    assert choose_threshold(probability, label, 0.75, lowest=0.5).value == 0.5
    assert choose_threshold(probability, label, 0.95, lowest=0.5).value == pytest.approx(0.75)
    assert score_at(0.75, probability, label).recall == pytest.approx(2 / 3)


def test_threshold_never_parts_equal_scores():
    chosen = choose_threshold(np.array([0.9, 0.9, 0.1]), np.array([1, 0, 1]), 0.95)
    assert not chosen.reached
    assert chosen.value == pytest.approx(0.05)  # calling all success has the best precision, 2 of 3


def test_the_strict_threshold_misses_as_few_as_it_may():
    probability, label = np.array([0.6, 0.7, 0.8, 0.9, 0.95]), np.array([1, 0, 1, 1, 1])
    for missed, lost in ((0.0, 0), (0.24, 0), (0.25, 1), (0.5, 2)):
        threshold = strict_threshold(probability, label, missed)
        assert (probability[label == POSITIVE] <= threshold).sum() == lost
        assert threshold == pytest.approx(np.sort(probability[label == POSITIVE])[lost])
    assert strict_threshold(probability, np.zeros(5), 0.05) == 0.0


@pytest.mark.parametrize("failures", [[0.2, 0.3], [1.0, 1.0]])
def test_a_classifier_that_is_always_certain_gets_a_threshold_that_successes_pass(failures):
    """float32 ends at 1: the threshold neither rejects a success of probability 1, nor falls back to a low one."""
    one, scores = np.float32(1), RolloutScores(np.array(failures), np.ones(10))
    probability = {"filtered": np.array([0.1, one, one], np.float32), "imagined": np.array([0.1, one], np.float32)}
    label = {"filtered": np.array([0, 1, 1]), "imagined": np.array([0, 1])}
    found = torch.tensor(0.5).fill_(sure(scores, probability, label, toy.REWARD).value)
    assert 0.99999 < found < 1.0


def test_threshold_of_separable_scores_lies_midway():
    assert choose_threshold(np.array([0.2, 0.8]), np.array([0, 1]), 0.95).value == pytest.approx(0.5)


def marked(toy_files, outcome, skill, mark=20, withdrawn=-1):
    episode = toy_files.play.episodes[0]
    success = np.arange(len(episode)) >= (mark if outcome == "success" else len(episode))
    attributes = {"outcome": outcome, "skill": skill, "withdrawn_tick": withdrawn}
    return replace(episode, success=success, attributes=attributes)


def test_play_is_known_before_a_mark_of_the_skill_and_nowhere_else(toy_files):
    found = play_labels(marked(toy_files, "success", "open_drawer"), "open_drawer", 7.5, 1.0)
    assert (found[:13] == NEGATIVE).all()
    assert (found[13:] == UNUSED).all()  # after it the drawer may be closed again
    assert (play_labels(marked(toy_files, "fail", "open_drawer"), "open_drawer", 7.5, 1.0) == NEGATIVE).all()
    for outcome, skill in (("success", "close_drawer"), ("fail", ""), ("none", "open_drawer")):
        assert (play_labels(marked(toy_files, outcome, skill), "open_drawer", 7.5, 1.0) == UNUSED).all()


def test_marks_of_play_are_its_labels_and_are_not_screened(toy_files, tmp_path):
    path, play = tmp_path / "marks.csv", toy_files.play.episodes
    marks = {episode.name: [Done(0.5, 1.0)] for episode in play[1:]}
    write_play_marks(path, "toy", marks)
    demos, model = toy_files.demonstrations.episodes, toy_files.world.model
    data = make_data(model, demos, play, toy.REWARD, skill="toy", marks=marks)
    found = data.play.labels
    assert {NEGATIVE, POSITIVE, UNUSED} == set(found.tolist())  # the first episode is not marked
    assert float((found == POSITIVE).float().mean()) < float((found == NEGATIVE).float().mean())

    job = RewardJob(
        toy_files.demonstrations_path,
        toy_files.world_model_path,
        tmp_path / "reward",
        toy_files.play_path,
        toy.REWARD,
        path,
    )
    skill = toy_files.demonstrations.episodes[0].attributes["skill"]
    with pytest.raises(DiwaError, match=f"no mark of {skill}"):
        job.run()
    write_play_marks(path, skill, {"999999": []})
    with pytest.raises(DiwaError, match=r"marks episode 999999, but .* has no episode of that number"):
        job.run()
    with pytest.raises(DiwaError, match="marks play, but no play is given"):
        replace(job, play=None).run()
    write_play_marks(path, skill, {episode.name: marks.get(episode.name, []) for episode in play})
    job.run()
    history = load_checkpoint(tmp_path / "reward", "reward").metrics["history"]
    assert "loss" in history
    assert "screen_0_loss" not in history
    path.write_text(path.read_text() + f"{skill},0,0.1,0.2\n")
    with pytest.raises(DiwaError, match="play_marks was"):
        job.run()


def test_a_failed_attempt_that_succeeds_too_late_is_a_failure_before_that(toy_files):
    late = replace(marked(toy_files, "success", "open_drawer"))
    late.attributes["outcome"] = "fail"
    found = demonstration_labels(late, 7.5, 1.0)
    assert (found[:13] == NEGATIVE).all()
    assert (found[13:] == UNUSED).all()


def test_a_run_is_as_sure_as_its_least_tick_and_made_of_ticks_that_count():
    probability = torch.tensor([[0.9, 0.2, 0.8, 0.7, 0.6, 0.9], [0.9, 0.9, 0.1, 0.9, 0.9, 0.9]])
    counted = torch.tensor([[True] * 6, [True] * 5 + [False]])
    assert highest_run(probability, counted, 3).tolist() == pytest.approx([0.6, 0.1])
    assert highest_run(probability, counted, 1).tolist() == pytest.approx([0.9, 0.9])
    assert highest_run(probability, torch.zeros_like(counted), 3).tolist() == [-np.inf] * 2
    assert highest_run(probability, counted, 7).tolist() == [-np.inf] * 2


def test_a_threshold_lets_few_rollouts_without_success_be_declared():
    scores = RolloutScores(np.arange(20) / 20, np.array([0.3, 0.93, 0.99]))
    assert rollout_threshold(scores, 0.05) == pytest.approx((0.9 + 0.93) / 2)  # one of 20, 0.95, is above it
    assert scores.declared(rollout_threshold(scores, 0.05)) == (1, 2)
    assert scores.declared(rollout_threshold(scores, 0.0))[0] == 0
    assert scores.declared(rollout_threshold(scores, 1.0)) == (19, 3)
    alike = RolloutScores(np.ones(10), np.ones(3))
    assert alike.declared(rollout_threshold(alike, 0.05)) == (0, 0)  # nothing parts equal scores
    assert rollout_threshold(RolloutScores(np.zeros(0), np.ones(1)), 0.05) == 0
