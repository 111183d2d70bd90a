"""Counts of what deployment would have declared, by hand."""

import numpy as np
import pytest

from diwa_cli.evaluation.deployment import Declared, in_words, share
from diwa_data.dataset.dataset import Episode


def tape(first: int, outcome: str, length: int = 8) -> Episode:
    """A rollout whose oracle is true from frame `first` on; -1: never."""
    success = np.arange(length) >= (length if first < 0 else first)
    nothing = np.zeros((length, 1), np.float32)
    return Episode("0", {}, nothing, nothing, success, nothing, nothing, None, {"outcome": outcome})


CASES = {
    "declared at the third sure tick, in time": (tape(2, "success"), [0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9]),
    "before the oracle": (tape(6, "success"), [0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.9]),
    "never, two running are too few": (tape(2, "success"), [0.9, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9]),
    "failed and declared": (tape(-1, "fail"), [0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1]),
    "failed and silent": (tape(-1, "fail"), [0.9, 0.5, 0.9, 0.9, 0.1, 0.1, 0.1]),
    "late: declared rightly, neither failed nor succeeded": (tape(6, "fail"), [0, 0, 0, 0.9, 0.9, 0.5, 0.9, 0.9]),
}


def test_each_kind_of_rollout_is_counted_where_it_belongs():
    tapes, probabilities = zip(*CASES.values(), strict=True)
    found = Declared.of(tapes, probabilities, threshold=0.5, ticks=3)
    assert found == Declared(rollouts=6, right=1, failed=2, false=1, succeeded=3, missed=1)
    one_tick = Declared.of(tapes, probabilities, threshold=0.5, ticks=1)
    assert (one_tick.false, one_tick.missed) == (2, 0)
    summary = found.summary()
    assert summary["false_success"]["rate"] == 0.5
    assert summary["missed"]["of"] == 3
    assert found.text().startswith("deployment success 1 of 6 (17 %, 95 %: 3 to 56), false success 1 of 2 (50 %")


@pytest.mark.parametrize(("count", "total", "words"), [(0, 0, "0 of 0"), (3, 4, "3 of 4 (75 %, 95 %: 30 to 95)")])
def test_a_share_of_nothing_has_no_rate(count, total, words):
    assert in_words(share(count, total)) == words
