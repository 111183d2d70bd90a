"""Success rates with 95 % intervals: Wilson's score interval, and Newcombe's for the difference of paired rates.

Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired data,
Statistics in Medicine 17 (1998), method 10: Wilson intervals of both rates, combined by square-and-add with their
correlation. Unlike a bootstrap it gives a sensible interval at 0 % and 100 % too.

Over several training seeds, all judged from the same starts, seeds and starts are both samples. The interval of the
mean treats them as crossed random effects: Hillis, A comparison of denominator degrees of freedom methods for multiple
observer ROC analysis, Statistics in Medicine 26 (2007), with seeds for readers and starts for cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, t

DPPO_SEEDS = range(7_000_000_000, 8_000_000_000)
"""Start states for the baseline that trains in the simulator."""
SEEDS = {
    "tuning": range(5_000_000_000, 6_000_000_000),
    "curve": range(6_000_000_000, 7_000_000_000),
    "final": range(8_000_000_000, 9_000_000_000),
}
"""Start states of evaluations: for choosing settings, for learning curves, for the figure that is reported."""


@dataclass(frozen=True)
class Interval:
    """Two-sided 95 % confidence interval, in the unit of what it is about."""

    low: float
    high: float


@dataclass(frozen=True)
class SuccessRate:
    """How often something succeeded, with Wilson's interval."""

    successes: int
    rollouts: int

    @property
    def rate(self) -> float:
        """Share of successes, a fraction."""
        return self.successes / self.rollouts

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % score interval of the rate."""
        return wilson(self.successes, self.rollouts)


@dataclass(frozen=True)
class PairedDifference:
    """Second rate minus first on the same starts; fractions, and the four counts behind it."""

    difference: float
    interval: Interval
    both: int
    only_first: int
    only_second: int
    neither: int


def wilson(successes: int, rollouts: int) -> Interval:
    """Wilson's 95 % score interval of a rate."""
    found = binomtest(successes, rollouts).proportion_ci(method="wilson")
    return Interval(float(found.low), float(found.high))


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Rate of `second` minus rate of `first` (both of length n, same start at each index), Newcombe's method 10."""
    if len(first) != len(second) or not first:
        raise ValueError(f"pairs are needed, got {len(first)} and {len(second)} results")
    a, b, n = np.array(first, bool), np.array(second, bool), len(first)
    both, only_first, only_second, neither = (int(found.sum()) for found in (a & b, a & ~b, b & ~a, ~a & ~b))
    rate_1, rate_2 = (both + only_first) / n, (both + only_second) / n
    wilson_1, wilson_2 = wilson(both + only_first, n), wilson(both + only_second, n)
    phi = _correlation(both, only_first, only_second, neither)
    low = _square_and_add(rate_2 - wilson_2.low, wilson_1.high - rate_1, phi)
    high = _square_and_add(wilson_2.high - rate_2, rate_1 - wilson_1.low, phi)
    difference = rate_2 - rate_1
    interval = Interval(max(-1.0, difference - low), min(1.0, difference + high))
    return PairedDifference(difference, interval, both, only_first, only_second, neither)


@dataclass(frozen=True)
class SeedMean:
    """Mean over training seeds of a rate, or of a difference of rates; fractions."""

    mean: float
    interval: Interval


def rate_over_seeds(successes: Sequence[Sequence[bool]]) -> SeedMean:
    """Mean success rate of S seeds, each judged from the same N starts (S rows of N).

    The interval is that of `crossed_interval`, never narrower than Wilson's of all rollouts, which alone is sensible
    at 0 % and 100 %. One seed: Wilson's, which says nothing about other seeds.
    """
    values = _matrix(successes)
    return _over_seeds(values, wilson(int(values.sum()), values.size), 0.0)


def difference_over_seeds(first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]]) -> SeedMean:
    """Mean over S seeds of the paired difference `second` - `first`, each from the same N starts (S rows of N).

    The interval is that of `crossed_interval` on the differences of pairs, never narrower than Newcombe's of all pairs.
    One seed: Newcombe's, which says nothing about other seeds.
    """
    one, two = _matrix(first), _matrix(second)
    if one.shape != two.shape:
        raise ValueError(f"pairs are needed, got {one.shape} and {two.shape} results (seeds, starts)")
    pooled = paired_difference(one.ravel().tolist(), two.ravel().tolist())
    return _over_seeds(two - one, pooled.interval, -1.0)


def interval_of_mean(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """95 % interval of the mean of independent estimates, each with its own, by square-and-add.

    Zou and Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27 (2008).
    """
    n, mean, pairs = len(values), sum(values) / len(values), list(zip(values, intervals, strict=True))
    low, high = math.hypot(*(x - each.low for x, each in pairs)), math.hypot(*(each.high - x for x, each in pairs))
    return Interval(mean - low / n, mean + high / n)


def crossed_interval(values: np.ndarray) -> Interval:
    """95 % interval of the mean of `values` (S seeds, N starts), S and N at least 2; not cut to a possible range.

    Two-way random effects: with the mean squares of seeds, of starts and of their interaction, and
    e = max(MS_starts - MS_interaction, 0), the mean's variance is (MS_seeds + e) / (S N), and its t has
    (S - 1) (1 + e / MS_seeds)^2 degrees of freedom.
    """
    seeds, starts = values.shape
    mean, rows, columns = values.mean(), values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    ms_seeds = starts * ((rows - mean) ** 2).sum() / (seeds - 1)
    ms_starts = seeds * ((columns - mean) ** 2).sum() / (starts - 1)
    ms_both = ((values - rows - columns + mean) ** 2).sum() / ((seeds - 1) * (starts - 1))
    extra = max(ms_starts - ms_both, 0.0)
    freedom = min((seeds - 1) * (1 + extra / max(ms_seeds, 1e-12)) ** 2, 1e9)
    half = float(t.ppf(0.975, freedom) * math.sqrt((ms_seeds + extra) / values.size))
    return Interval(float(mean) - half, float(mean) + half)


def _matrix(successes: Sequence[Sequence[bool]]) -> np.ndarray:
    """(S, N) float64 of 0 and 1."""
    if not successes or not successes[0] or len({len(row) for row in successes}) > 1:
        raise ValueError(f"every seed needs the same starts, got {[len(row) for row in successes]}")
    return np.array(successes, float)


def _over_seeds(values: np.ndarray, pooled: Interval, lowest: float) -> SeedMean:
    """Mean of `values` (S, N) with the crossed interval, at least the pooled one, cut to [lowest, 1]."""
    interval = pooled
    if min(values.shape) > 1:
        crossed = crossed_interval(values)
        interval = Interval(max(lowest, min(crossed.low, pooled.low)), min(1.0, max(crossed.high, pooled.high)))
    return SeedMean(float(values.mean()), interval)


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi of the 2x2 table, positive numerators reduced by n/2 (Newcombe's continuity correction); 0 if undefined."""
    first, second = both + only_first, both + only_second
    n = first + only_second + neither
    margins = first * (n - first) * second * (n - second)
    numerator: float = both * neither - only_first * only_second
    if numerator > 0:
        numerator = max(numerator - n / 2, 0.0)
    return numerator / math.sqrt(margins) if margins else 0.0


def _square_and_add(a: float, b: float, phi: float) -> float:
    """sqrt(a^2 - 2 phi a b + b^2)."""
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))
