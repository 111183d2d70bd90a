"""When a skill counts as done."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from diwa_learning.reward.done import done_tick, run_length, run_lengths


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4))
def test_one_robot_and_many_count_alike(sure, ticks):
    length, lengths = 0, []
    for verdict in sure:
        length = run_length(verdict, length)
        lengths.append(length)
    expected = next((t for t in range(len(sure)) if t + 1 >= ticks and all(sure[t + 1 - ticks : t + 1])), None)
    assert done_tick(sure, ticks) == expected
    assert next((t for t, n in enumerate(lengths) if n >= ticks), None) == expected
    if sure:
        many = run_lengths(torch.tensor([sure, sure]), torch.zeros(2, dtype=torch.int64))
        assert many.tolist() == [lengths, lengths]


def test_a_run_goes_on_from_before():
    sure = torch.tensor([[True, False, True], [True, True, True]])
    assert run_lengths(sure, torch.tensor([2, 5])).tolist() == [[3, 0, 1], [6, 7, 8]]


def test_numbers_arrays_and_nan():
    assert run_length(float("nan") > 0.5, 7) == 0
    assert run_length(np.array([0.2, 0.9]) > 0.5, np.array([4, 4])).tolist() == [0, 5]
    assert done_tick([True] * 9, 0) is None  # a rule of 0 ticks ends nothing
