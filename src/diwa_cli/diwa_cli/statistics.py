"""Success rates with 95 % intervals: Wilson's score interval, and Newcombe's for the difference of paired rates.

Newcombe, Improved confidence intervals for the difference between binomial proportions based on paired data,
Statistics in Medicine 17 (1998), method 10: Wilson intervals of both rates, combined by square-and-add with their
correlation. Unlike a bootstrap it gives a sensible interval at 0 % and 100 % too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Interval:
    """Two-sided 95 % confidence interval; fractions."""

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
    """Wilson's 95 % score interval of a rate: (2x + z^2 -+ z sqrt(z^2 + 4x(1 - x/n))) / (2(n + z^2))."""
    if not 0 <= successes <= rollouts or rollouts == 0:
        raise ValueError(f"{successes} successes of {rollouts} rollouts")
    z2 = Z_95 * Z_95
    center = 2 * successes + z2
    spread = Z_95 * math.sqrt(z2 + 4 * successes * (1 - successes / rollouts))
    scale = 2 * (rollouts + z2)
    return Interval(max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale))


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Rate of `second` minus rate of `first` (both of length n, same start at each index), Newcombe's method 10."""
    if len(first) != len(second) or not first:
        raise ValueError(f"pairs are needed, got {len(first)} and {len(second)} results")
    pairs = list(zip(first, second, strict=True))
    both, neither = sum(a and b for a, b in pairs), sum(not a and not b for a, b in pairs)
    only_first, only_second = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    n = len(pairs)
    rate_1, rate_2 = (both + only_first) / n, (both + only_second) / n
    wilson_1, wilson_2 = wilson(both + only_first, n), wilson(both + only_second, n)
    phi = _correlation(both, only_first, only_second, neither)
    low = _square_and_add(rate_2 - wilson_2.low, wilson_1.high - rate_1, phi)
    high = _square_and_add(wilson_2.high - rate_2, rate_1 - wilson_1.low, phi)
    difference = rate_2 - rate_1
    interval = Interval(max(-1.0, difference - low), min(1.0, difference + high))
    return PairedDifference(difference, interval, both, only_first, only_second, neither)


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Phi of the 2x2 table, positive numerators reduced by n/2 (Newcombe's continuity correction); 0 if undefined."""
    first, second = both + only_first, both + only_second
    n = first + only_second + neither
    margins = first * (n - first) * second * (n - second)
    if margins == 0:
        return 0.0
    numerator: float = both * neither - only_first * only_second
    if numerator > 0:
        numerator = max(numerator - n / 2, 0.0)
    return numerator / math.sqrt(margins)


def _square_and_add(a: float, b: float, phi: float) -> float:
    """sqrt(a^2 - 2 phi a b + b^2)."""
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))
