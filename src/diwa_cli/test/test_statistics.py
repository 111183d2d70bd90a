"""Intervals against published worked examples and cases done by hand."""

import math

import numpy as np
import pytest

from diwa_cli.statistics import (
    Interval,
    SuccessRate,
    crossed_interval,
    difference_over_seeds,
    paired_difference,
    rate_over_seeds,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "rollouts", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_intervals(successes, rollouts, low, high):
    interval = wilson(successes, rollouts)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_by_hand_for_half_of_four():
    z = 1.959963984540054  # two-sided 95 % quantile of the standard normal distribution
    half = z * math.sqrt(z**2 + 4) / (2 * (4 + z**2))
    assert wilson(2, 4).low == pytest.approx(0.5 - half)
    assert wilson(2, 4).high == pytest.approx(0.5 + half)


def test_wilson_at_the_ends_stays_inside():
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    assert SuccessRate(7, 10).rate == 0.7
    assert SuccessRate(7, 10).interval == wilson(7, 10)


@pytest.mark.parametrize("case", [(-1, 3), (4, 3), (0, 0)])
def test_wilson_refuses_impossible_counts(case):
    with pytest.raises(ValueError, match="must"):
        wilson(*case)


def pairs(both, only_first, only_second, neither):
    """Two lists of results with these four counts."""
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


def test_paired_difference_gives_newcombes_published_interval():
    """Table II of Newcombe (1998): 36, 12, 2, 0 of 50; method 10 gives 0.0569 to 0.3404."""
    result = paired_difference(*pairs(both=36, only_first=2, only_second=12, neither=0))
    assert result.difference == pytest.approx(0.2)
    assert (result.interval.low, result.interval.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert (result.both, result.only_first, result.only_second, result.neither) == (36, 2, 12, 0)


def test_paired_difference_without_correlation_is_square_and_add_of_wilson():
    """All of one margin: phi is 0, so each bound is a Pythagorean sum of Wilson half widths."""
    result = paired_difference(*pairs(both=0, only_first=0, only_second=10, neither=0))
    unit = wilson(10, 10).low
    assert result.difference == 1
    assert result.interval.low == pytest.approx(1 - math.hypot(1 - unit, 1 - unit))
    assert result.interval.high == 1


def test_swapping_the_policies_mirrors_the_interval():
    first, second = pairs(both=5, only_first=2, only_second=9, neither=4)
    forward, backward = paired_difference(first, second), paired_difference(second, first)
    assert forward.difference == -backward.difference
    assert forward.interval.low == pytest.approx(-backward.interval.high)


def test_pairing_narrows_the_interval_when_results_go_together():
    together = paired_difference(*pairs(both=40, only_first=0, only_second=10, neither=50))
    apart = paired_difference(*pairs(both=20, only_first=20, only_second=30, neither=30))
    assert together.difference == pytest.approx(apart.difference)
    assert together.interval.high - together.interval.low < apart.interval.high - apart.interval.low


@pytest.mark.parametrize(("first", "second"), [([True], []), ([], [])])
def test_unpaired_results_are_refused(first, second):
    with pytest.raises(ValueError, match="pairs"):
        paired_difference(first, second)


def test_crossed_interval_by_hand():
    """Rows 0.5 and 1, columns 1 and 0.5: all mean squares are 1/4, so the error is 1/4 with one degree of freedom."""
    interval = crossed_interval(np.array([[1.0, 0.0], [1.0, 1.0]]))
    assert (interval.low, interval.high) == pytest.approx((0.75 - 12.7062 / 4, 0.75 + 12.7062 / 4), abs=1e-4)


def test_crossed_interval_knows_that_the_starts_are_the_same_for_all_seeds():
    """Mean squares 1/8 of seeds, 9/8 of starts, 1/8 of both: variance (1/8 + 1) / 8, 9^2 degrees of freedom."""
    interval = crossed_interval(np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, -1.0]]))
    half = 1.98969 * 0.375
    assert (interval.low, interval.high) == pytest.approx((0.375 - half, 0.375 + half), abs=1e-4)


def test_seeds_that_disagree_widen_the_interval_beyond_that_of_rollouts():
    agreeing = [[True] * 5 + [False] * 5, [False] * 5 + [True] * 5, [True, False] * 5]
    disagreeing = [[True] * 9 + [False], [True] * 5 + [False] * 5, [True] + [False] * 9]
    narrow, wide = rate_over_seeds(agreeing), rate_over_seeds(disagreeing)
    assert narrow.mean == wide.mean == 0.5
    assert narrow.interval == wilson(15, 30)  # seeds agree to the last rollout, by chance: Wilson's holds
    assert wide.interval == Interval(0.0, 1.0)


def test_difference_over_seeds_is_paired_by_start_within_each_seed():
    """Differences 1, 1, 0, 0 and 1, 1, 0, -1: the case by hand above; Newcombe's over all eight pairs is narrower."""
    first = [[False, False, True, False], [False, False, False, True]]
    second = [[True, True, True, False], [True, True, False, False]]
    found = difference_over_seeds(first, second)
    crossed = crossed_interval(np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, -1.0]]))
    assert found.mean == 0.375
    assert found.interval == Interval(crossed.low, 1.0)


def test_one_seed_has_the_intervals_of_a_single_run():
    first, second = pairs(both=36, only_first=2, only_second=12, neither=0)
    assert difference_over_seeds([first], [second]).interval == paired_difference(first, second).interval
    assert rate_over_seeds([first]).interval == wilson(38, 50)


def test_all_seeds_at_100_percent_still_have_an_interval():
    found = rate_over_seeds([[True] * 20] * 3)
    assert (found.mean, found.interval) == (1.0, wilson(60, 60))


@pytest.mark.parametrize("rows", [[], [[]], [[True], [True, False]]])
def test_seeds_with_other_starts_are_refused(rows):
    with pytest.raises(ValueError, match="same starts"):
        rate_over_seeds(rows)
