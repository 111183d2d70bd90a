"""The moment of success in a demonstration, which is earlier than the operator's mark by an unknown time.

In the second before the mark a drawer travels from half open to done. Without labels there the classifier puts its
boundary anywhere in between, and calls near misses done. Here classifiers that were trained on other demonstrations,
without those frames, say from which frame on the evidence is for success; then every frame has a label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from diwa_learning.reward.classifier import NEGATIVE, POSITIVE, UNUSED, SuccessClassifier
from diwa_learning.reward.data import Items, LabelledClips, RewardData

Labelled = TypeVar("Labelled", Items, LabelledClips)
SURE = 1e-4
"""A single frame's probability counts as no nearer to 0 or 1 than this."""


def onset_folds(demos: Items, wanted: int) -> int:
    """The number of classifiers that look for onsets: as many as wanted, 0 where no frame before a mark is unknown."""
    marked = demos.recording[demos.labels == POSITIVE].unique()
    unknown = demos.recording[demos.labels == UNUSED].unique()
    if not bool(torch.isin(unknown, marked).any()) or len(marked) < 2:
        return 0
    return min(wanted, len(marked))


def others(demos: Items, fold: int, folds: int) -> Items:
    """The labelled items that classifier `fold` of `folds` is trained on: those of the recordings it does not judge."""
    return demos.where(demos.recording % folds != fold).used()


@torch.no_grad()
def onsets(demos: Items, classifiers: Sequence[SuccessClassifier], seen: bool) -> Tensor:
    """The frame (R,) of each recording from which on it is a success; -1 where it has no mark.

    It lies among the unknown frames before the mark, or at the mark: where the log-odds of all unknown frames from it
    on, added up, are highest. They are those of the classifier that was trained without the recording where they have
    `seen` the others, or else the mean of all `classifiers`.
    """
    filtered = demos.where(~demos.imagined)
    probability = torch.stack([each.probability(filtered.features) for each in classifiers]).clamp(SURE, 1 - SURE)
    log_odds = probability.logit()  # (K, M)
    if seen:
        own = filtered.recording % len(classifiers)
        log_odds = log_odds.gather(0, own[None])
    shape = (int(demos.recording.max()) + 1, int(demos.tick.max()) + 1)
    at, unknown = (filtered.recording, filtered.tick), filtered.labels == UNUSED
    evidence = log_odds.new_zeros(shape).index_put_(at, log_odds.mean(0) * unknown, accumulate=True)
    since = evidence.flip(1).cumsum(1).flip(1)  # of all unknown frames from each on
    possible = torch.zeros(shape, dtype=torch.bool, device=since.device)
    possible[filtered.recording[unknown], filtered.tick[unknown]] = True
    mark = first_success(filtered, shape)
    marked = mark < shape[1]
    possible[marked, mark[marked]] = True
    found = since.masked_fill(~possible, -torch.inf).argmax(1)
    return torch.where(marked, found, -1)


def first_success(items: Items, shape: tuple[int, int]) -> Tensor:
    """The first frame (R,) that is labelled a success, of each of R recordings; T where none is. `shape`: (R, T)."""
    success = items.labels == POSITIVE
    frames = torch.full(shape, shape[1], device=items.labels.device)
    frames[items.recording[success], items.tick[success]] = items.tick[success]
    return frames.amin(1)


def relabelled(some: Labelled, onset: Tensor) -> Labelled:
    """The same with its unknown frames labelled by the onsets (R,) of its recordings; those without one stay so."""
    since = onset[some.recording]
    known = torch.where(some.tick >= since, POSITIVE, NEGATIVE)
    labels = torch.where((some.labels == UNUSED) & (since >= 0), known, some.labels)
    return dataclasses.replace(some, labels=labels)


def with_onsets(data: RewardData, classifiers: Sequence[SuccessClassifier], rate: float) -> tuple[RewardData, float]:
    """Data in which every frame before a mark has a label, and how long the onset is before the mark: the median, s."""
    found = onsets(data.demos, classifiers, seen=True)
    held = onsets(data.demos_held, classifiers, seen=False)
    mark = first_success(data.demos, (len(found), int(data.demos.tick.max()) + 1))
    seconds = float((mark - found)[found >= 0].float().median()) / rate
    print(f"reward: success begins {seconds:.1f} s before its mark, in the median demonstration")
    return dataclasses.replace(
        data,
        demos=relabelled(data.demos, found),
        demos_held=relabelled(data.demos_held, held),
        held=relabelled(data.held, held),
        frames=relabelled(data.frames, found),
        frames_held=relabelled(data.frames_held, held),
    ), seconds
