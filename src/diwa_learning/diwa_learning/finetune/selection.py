"""An offline score of checkpoints, and which of them is the result: no robot and no simulator is asked.

Dream success does not rank policies: all dream of success in the end. How much more a guard deviates in these dreams
than in the base policy's says how much of that success the world model guesses. The score is the one less the other: a
standard deviation cancels all success (docs/laptop.md says what the score is worth).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diwa_learning.core.run import Curves

WINDOW = 3
"""Iterations whose dreams say what the checkpoint after them is worth."""


@dataclass(frozen=True)
class Choice:
    """The best checkpoint so far."""

    iteration: int
    """Iterations done when it was kept."""
    scores: dict[int, float]
    """Of the checkpoints that were compared: iterations done -> score."""
    settled: bool
    """Whether so many after it were no better that more are not worth making."""


def scores(curves: Curves, base: int) -> list[float]:
    """Score of each iteration's dreams; the first `base` iterations dream the policy before fine-tuning.

    Dream success, 0 to 1, less the guard's mean deviation beyond that of the base's dreams, in standard deviations.
    """
    success, deviation = ([value for _, value in curves[name]] for name in ("dream_success", "deviation"))
    usual = sum(deviation[:base]) / len(deviation[:base])
    return [one - (other - usual) for one, other in zip(success, deviation, strict=True)]


def before(curve: Sequence[float], iteration: int) -> float:
    """Mean of a curve over the dreams that say what the checkpoint after `iteration` iterations is worth."""
    window = curve[max(0, iteration - WINDOW) : iteration]
    return sum(window) / len(window)


def choose(score: Sequence[float], kept: Sequence[int], patience: int) -> Choice:
    """The best of the checkpoints `kept` (iterations done), each judged by the dreams just before it.

    The search ends after `patience` checkpoints that are no better; 0 compares all. Of equal ones the first is taken.
    """
    found: dict[int, float] = {}
    best, since = kept[0], 0
    for iteration in kept:
        found[iteration] = before(score, iteration)
        best, since = (iteration, 0) if found[iteration] > found[best] else (best, since + (iteration != best))
        if patience and since >= patience:
            return Choice(best, found, settled=True)
    return Choice(best, found, settled=False)
