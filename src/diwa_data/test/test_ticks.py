"""The tick rule: by hand, and causality on random streams; fed live or offline it is the same."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_data.ticks import Sample, Tick, TickClock, last_received, period_index

RATE = 30.0


def clock(max_age: float = 0.1) -> TickClock:
    return TickClock("static", {"pose": max_age, "gripper": math.inf}, RATE, 4)


def run(messages: list[tuple[str, float]], aligner: TickClock | None = None, delay: float = 0.0) -> list[Tick]:
    """Feed (stream, stamp) in order, `delay` seconds after their stamps, taking ticks as an offline reader does."""
    aligner = aligner or clock()
    ticks, now = [], -math.inf
    for stream, stamp in messages:
        if stamp + delay > now:
            ticks += aligner.advance()
            now = stamp + delay
        aligner.feed(stream, Sample(stamp, stamp, stamp + delay))
    return ticks + list(aligner.advance())


def stream(frames: list[int], poses: list[int] | None = None) -> list[tuple[str, float]]:
    """A gripper command at 0; poses and frames at these periods, poses first."""
    poses = frames if poses is None else poses
    order = sorted([(p / RATE, 0, "pose") for p in poses] + [(f / RATE, 1, "static") for f in frames])
    return [("gripper", 0.0), *((name, time) for time, _, name in order)]


def test_period_index_rounds() -> None:
    assert [period_index(stamp, 1.0, 30.0) for stamp in (1.0, 1.016, 1.018, 1.5)] == [0, 0, 1, 15]


def test_every_fourth_frame_is_a_tick() -> None:
    ticks = run(stream(list(range(13))))
    assert [tick.index for tick in ticks] == [0, 1, 2, 3]
    assert [tick.stamp for tick in ticks] == pytest.approx([0, 4 / 30, 8 / 30, 12 / 30])
    assert not any(tick.flagged for tick in ticks)


def test_jitter_of_a_third_of_a_period_changes_nothing() -> None:
    jittered = [
        (name, time + 0.01 * (-1) ** k if time else 0.0) for k, (name, time) in enumerate(stream(list(range(9))))
    ]
    assert [tick.index for tick in run(sorted(jittered, key=lambda m: m[1]))] == [0, 1, 2]


def test_streams_contribute_their_last_message_by_then() -> None:
    tick = run(
        [("gripper", -5.0), ("pose", -0.05), ("pose", -0.02), ("static", 0.0), ("pose", 0.001), ("static", 1 / 30)]
    )[0]
    assert tick.samples["pose"].stamp == -0.02
    assert tick.samples["gripper"].stamp == -5.0  # latched


def test_a_message_received_with_the_frame_counts() -> None:
    tick = run([("gripper", 0.0), ("pose", -0.05), ("static", 0.0), ("pose", 0.0), ("static", 1 / 30)])[0]
    assert tick.samples["pose"].stamp == 0.0


def test_the_episode_starts_when_every_stream_is_known() -> None:
    ticks = run([("static", 0.0), ("static", 1 / 30), ("gripper", 0.04), ("pose", 0.05), ("static", 2 / 30)])
    assert [(tick.index, tick.stamp) for tick in ticks] == [(0, 2 / 30)]


def test_a_missing_tick_repeats_the_last_frame_and_is_flagged() -> None:
    ticks = run(stream([0, 1, 2, 3, 5, 6, 7, 8], poses=list(range(9))))
    assert [tick.flagged for tick in ticks] == [False, True, False]
    missing = ticks[1]
    assert missing.samples["static"].stamp == pytest.approx(3 / 30)
    assert missing.stamp == pytest.approx(4 / 30)
    assert missing.samples["pose"].stamp == pytest.approx(4 / 30)  # what was known when it was due, not later


def test_two_missing_ticks_are_bridged_and_three_split() -> None:
    bridged = run(stream([*range(4), *range(12, 17)], poses=list(range(17))))
    assert [(tick.segment, tick.index, tick.flagged) for tick in bridged] == [
        (0, 0, False),
        (0, 1, True),
        (0, 2, True),
        (0, 3, False),
        (0, 4, False),
    ]
    split = run(stream([*range(4), *range(17, 22)], poses=list(range(22))))
    assert [(tick.segment, tick.index, tick.flagged) for tick in split] == [
        (0, 0, False),
        (0, 1, True),
        (0, 2, True),
        (1, 0, False),
        (1, 1, False),
    ]
    assert split[3].stamp == pytest.approx(17 / 30)  # the new segment counts from its own first frame


def test_an_old_stream_flags_and_then_splits() -> None:
    ticks = run(stream(list(range(25)), poses=[0, 1, 2, 3, 4, 20, 21, 22, 23, 24]))
    assert [(tick.segment, tick.flagged) for tick in ticks] == [
        (0, False),
        (0, False),
        (0, True),
        (0, True),
        (1, False),
        (1, False),
    ]


def test_a_camera_clock_set_back_starts_a_new_segment() -> None:
    aligner = clock(max_age=math.inf)
    for name in ("pose", "gripper"):
        aligner.feed(name, Sample(0, 0.0, 0.0))
    segments = []
    for received, stamp in enumerate([10.0, 10.0 + 4 / 30, 2.0, 2.0 + 4 / 30]):
        aligner.feed("static", Sample(0, stamp, float(received)))
        segments += [(tick.segment, tick.index) for tick in aligner.advance()]
    assert segments == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_last_received_by_hand() -> None:
    history = [Sample("a", 0.0, 1.0), Sample("b", 0.0, 2.0)]
    assert [last_received(history, t) and last_received(history, t).value for t in (0.5, 1.0, 3.0)] == [None, "a", "b"]


events = st.lists(
    st.tuples(st.sampled_from(["static", "static", "static", "pose", "gripper"]), st.floats(0.0, 0.08)), max_size=120
)


@settings(max_examples=200)
@given(events, st.floats(0, 0.05))
def test_live_and_offline_agree_and_are_causal(gaps: list[tuple[str, float]], delay: float) -> None:
    messages, now = [], 0.0
    for name, gap in gaps:
        now += gap + 1e-6
        messages.append((name, now))
    offline = run(messages, delay=delay)
    aligner, live = clock(), []
    for name, stamp in messages:  # a live loop asks after every message
        aligner.feed(name, Sample(stamp, stamp, stamp + delay))
        live += aligner.advance()
    assert [(t.segment, t.index, t.flagged, t.samples) for t in live] == [
        (t.segment, t.index, t.flagged, t.samples) for t in offline
    ]
    for tick in offline:
        for name, sample in tick.samples.items():
            by_then = [stamp for other, stamp in messages if other == name and stamp + delay <= tick.received]
            assert sample.stamp == by_then[-1]
    for segment in {tick.segment for tick in offline}:
        indices = [tick.index for tick in offline if tick.segment == segment]
        assert indices == list(range(len(indices)))


def test_while_no_frame_comes_only_the_last_seconds_of_other_streams_are_kept() -> None:
    class Image(bytes):
        alive = 0

        def __init__(self, *_: object):
            Image.alive += 1

        def __del__(self) -> None:
            Image.alive -= 1

    aligner = clock()
    aligner.feed("gripper", Sample(1.0, 0.0, 0.0))
    for number in range(3000):
        aligner.feed("pose", Sample(Image(9), number / RATE, number / RATE))
    assert Image.alive < 100
    aligner.feed("static", Sample(0.0, 100.0, 100.0))
    assert [tick.samples["gripper"].received for tick in aligner.advance()] == [0.0]  # a latched one is never dropped


def test_a_restart_ends_the_segment() -> None:
    aligner = clock()
    first = run(stream(list(range(6))), aligner)
    aligner.restart()
    second = run([(name, time + 6 / RATE) for name, time in stream(list(range(5)))], aligner)
    assert [tick.segment for tick in first + second] == [0, 0, 1, 1]
    assert second[0].stamp == pytest.approx(6 / RATE)
