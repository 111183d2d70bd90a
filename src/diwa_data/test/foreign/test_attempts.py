"""Where episodes begin and end: by hand, and what must hold whatever comes."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_data.foreign.attempts import Event, by_events, by_gaps, by_gripper, judged
from diwa_data.foreign.mapping import EpisodesMapping, SuccessMapping
from diwa_data.recording.marks import Mark
from diwa_data.recording.source import Attempt, attempt_at

WORDS = EpisodesMapping(by="events", topic="/event")
SAID = SuccessMapping(by="events", seconds=0.5)


def events(text: str, mapping: EpisodesMapping = WORDS, success: SuccessMapping = SAID) -> list[Attempt]:
    """Attempts of words, one a second."""
    return by_events([Event(word, float(at)) for at, word in enumerate(text.split())], mapping, success)


def test_an_attempt_lasts_from_start_to_stop() -> None:
    assert events("other start other stop start success stop") == [
        Attempt(1.0, 3.0),
        Attempt(4.0, 6.0, success=5.0, outcome="success"),
    ]


def test_marks_after_the_stop_belong_to_the_attempt_before() -> None:
    one, two = events("start stop success start stop fail")
    assert (one.outcome, one.success, one.success_before_end) == ("success", math.inf, 0.5)
    assert (two.outcome, two.success) == ("fail", math.inf)


def test_a_discarded_attempt_is_none_and_the_last_word_stands() -> None:
    assert [attempt.first for attempt in events("start stop discard start success fail stop")] == [3.0]
    (attempt,) = events("start success fail stop")
    assert (attempt.outcome, attempt.success, attempt.withdrawn) == ("fail", math.inf, 1.0)


def test_a_start_ends_the_attempt_before_and_the_last_lasts_to_the_end() -> None:
    one, two = events("start start")
    assert one.last < two.first == 1.0
    assert two.last == math.inf


def test_one_button_begins_and_ends() -> None:
    button = EpisodesMapping(by="events", topic="/event", start="1", stop="1")
    assert events("1 0 1 0 1 0 1", button) == [Attempt(0.0, 2.0), Attempt(4.0, 6.0)]


def test_without_success_by_events_marks_in_the_topic_are_not_taken() -> None:
    assert events("start success stop", success=SuccessMapping()) == [Attempt(0.0, 2.0)]


def test_an_attempt_ends_when_the_gripper_opens_again() -> None:
    found = by_gripper([(0.0, 1), (1.0, -1), (2.0, -1), (3.0, 1), (5.0, -1), (6.0, 1), (7.0, -1)], 0.5)
    assert [(attempt.first, attempt.last) for attempt in found] == [(-math.inf, 3.5), (pytest.approx(3.5), 6.5)]
    assert found[0].last < found[1].first


def test_pauses_lie_between_attempts() -> None:
    assert by_gaps([0.0, 0.5, 1.0, 5.0, 5.5], 1.0) == [Attempt(0.0, 1.0), Attempt(5.0, 5.5)]
    assert by_gaps([], 1.0) == []


def test_marks_beside_the_bag_win_over_the_rule() -> None:
    attempts = [Attempt(0.0, 1.0), Attempt(2.0, 3.0, outcome="success", success=2.5), Attempt(4.0, 5.0)]
    found = judged(attempts, [Mark("success", 0.5), Mark("fail", 2.1)], SuccessMapping(by="end", seconds=0.2))
    assert [(each.outcome, each.success, each.success_before_end) for each in found] == [
        ("success", 0.5, None),
        ("fail", math.inf, None),
        ("success", math.inf, 0.2),
    ]


@given(st.lists(st.tuples(st.sampled_from(["start", "stop", "success", "fail", "discard", "x"]), st.floats(0, 100))))
def test_attempts_by_events_lie_apart_in_order(said) -> None:
    found = by_events([Event(word, at) for word, at in sorted(said, key=lambda each: each[1])], WORDS, SAID)
    require_apart(found)


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from([1.0, -1.0]))), st.floats(0, 5))
def test_attempts_by_gripper_lie_apart_in_order(commands, margin) -> None:
    require_apart(by_gripper(sorted(commands), margin))


@given(st.lists(st.floats(0, 100)), st.floats(0.1, 5))
def test_every_frame_is_in_an_attempt_by_gaps(frames, gap) -> None:
    found = by_gaps(sorted(frames), gap)
    require_apart(found)
    assert all(attempt_at(found, frame) for frame in frames)


def require_apart(found: list[Attempt]) -> None:
    edges = [edge for attempt in found for edge in (attempt.first, attempt.last)]
    assert edges == sorted(edges)
    assert all(one.last < two.first for one, two in pairwise(found))
