"""Play without marks: frames that may be successes are left out, by classifiers that have not seen their recording.

Nobody knows the labels of such frames. To keep only those that a classifier calls failures would throw away exactly the
failures that look like successes, which it must learn. Here all are failures, unless classifiers that were trained on
other recordings of play, with all of these as failures, are sure of success all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from diwa_learning.reward.classifier import NEGATIVE, UNUSED, SuccessClassifier
from diwa_learning.reward.data import Items


def fold_count(play: Items | None, wanted: int) -> int:
    """How many classifiers screen this play: as many as wanted, or as it has recordings; none where all is known."""
    if play is None or not bool((play.labels == UNUSED).any()):
        return 0
    return min(wanted, len(play.recording.unique()))


def training_items(demos: Items, play: Items | None, fold: int, folds: int) -> Items:
    """Training items of classifier `fold` of `folds`: demonstrations, and all other recordings of play as failures."""
    if play is None or folds < 2:
        return demos.used()
    others = play.where(play.recording % folds != fold)
    labels = torch.where(others.labels == UNUSED, NEGATIVE, others.labels)
    return Items.join(demos.used(), dataclasses.replace(others, labels=labels))


@torch.no_grad()
def screened(play: Items, screens: Sequence[SuccessClassifier], above: float, seen: bool) -> Items:
    """Play with frames whose label is not known as failures, except those that may be successes, which stay `UNUSED`.

    They are frames whose filtered latent gets more than `above` from every classifier that was trained without their
    recording: one of `screens` where they have `seen` this play, or else all of them.
    """
    if not screens:
        return play
    filtered = play.where(~play.imagined)
    scores = torch.stack([screen.probability(filtered.features) for screen in screens])  # (K, M / 2)
    if seen and len(screens) > 1:
        own = torch.arange(len(screens), device=scores.device)[:, None] == filtered.recording % len(screens)
        scores = scores.masked_fill(~own, torch.inf)
    doubtful = (scores.amin(0) > above).repeat(2)
    unknown = play.labels == UNUSED
    return dataclasses.replace(play, labels=torch.where(unknown & ~doubtful, NEGATIVE, play.labels))


def left_out(play: Items) -> float:
    """Share of the frames of play that have no label."""
    return float((play.labels == UNUSED)[~play.imagined].float().mean()) if len(play) else 0.0
