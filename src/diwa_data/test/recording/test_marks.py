"""The operator's word on an attempt: which mark stands, how it reaches a dataset, and marks beside foreign bags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.recording.marks import Mark, marks_path, read_marks, verdict, write_marks
from diwa_data.recording.recorder import EpisodeRecorder
from diwa_data.recording.sidecar import Sidecar
from diwa_data.testing.synthetic import record_synthetic

START, STOP = ("start", 0.0), ("stop", 9.0)
DEMONSTRATION = {"source": "demonstration", "skill": "pick_cup"}


@pytest.mark.parametrize(
    ("events", "annotations", "outcome", "at"),
    [
        ([], {}, "none", None),
        ([("success", 2.0)], {}, "success", 2.0),
        ([("success", 2.0), ("success", 3.0)], {}, "success", 2.0),
        ([("success", 2.0), ("fail", 3.0)], {}, "fail", 3.0),
        ([("fail", 2.0), ("success", 3.0)], {}, "success", 3.0),
        ([("success", 2.0), ("fail", 3.0), ("success", 4.0), ("success", 5.0)], {}, "success", 4.0),
        ([("success", 2.0)], {"success": None}, "none", None),  # taken back
        ([("fail", 2.0)], {"success": None}, "fail", 2.0),  # a success that was taken back makes no failure good
        ([("fail", 2.0)], {"success": 1.0}, "success", 1.0),  # annotations win, however early
        ([("success", 2.0)], {"success": None, "fail": 1.0}, "fail", 1.0),
        ([("fail", 2.0)], {"success": None, "fail": None}, "none", None),
        ([("success", 2.0)], {"fail": 1.0, "success": 3.0}, "success", 3.0),  # by hand: the later one
        ([("success", 2.0)], {"start": 1.0}, "success", 2.0),
    ],
)
def test_the_latest_word_stands_and_annotations_win(spec, events, annotations, outcome, at):
    sidecar = Sidecar(spec, events=[START, *events, STOP], annotations=annotations)
    assert (sidecar.outcome, sidecar.verdict.at) == (outcome, at)
    assert sidecar.mark("success") == (at if outcome == "success" else None)
    assert sidecar.mark("fail") == (at if outcome == "fail" else None)
    assert sidecar.mark("start") == annotations.get("start", 0.0)


@given(st.lists(st.tuples(st.sampled_from(["start", "stop", "success", "fail"]), st.floats(0, 100))))
def test_a_verdict_is_one_of_the_marks(marks):
    outcome, at = verdict(marks)
    words = [mark for mark in marks if mark[0] in ("success", "fail")]
    assert ((outcome, at) in words) if words else ((outcome, at) == ("none", None))
    assert all(received <= at or name == outcome for name, received in words)


def test_a_failed_attempt_is_kept_with_its_outcome(tmp_path, spec):
    bags = tmp_path / "bags"
    record_synthetic(bags, spec, 2.0, DEMONSTRATION, success=1.0)
    record_synthetic(bags, spec, 2.0, DEMONSTRATION, success=1.0, fail=1.5)
    record_synthetic(bags, spec, 2.0, DEMONSTRATION)
    build_dataset([bags], tmp_path / "d.h5", DatasetConfig(workers=1))
    episodes = load_dataset(tmp_path / "d.h5").episodes
    assert [episode.outcome for episode in episodes] == ["success", "fail", "none"]
    assert [int(episode.success.sum()) for episode in episodes] == [7, 0, 0]
    assert [episode.attributes["success_tick"] for episode in episodes] == [8, -1, -1]


def test_an_operator_marks_failure_while_recording(tmp_path, spec):
    with EpisodeRecorder(tmp_path, spec, min_free_mb=0) as recorder:
        assert recorder.event("fail", 0.0) == "nothing is being recorded; mark a finished episode with 'diwa annotate'"
        recorder.event("start", 1.0)
        assert recorder.event("success", 3.0) == "000000: success at 2.0 s"
        assert recorder.event("fail", 4.0) == "000000: fail at 3.0 s"
        recorder.event("stop", 5.0)
    sidecar = Sidecar.read(tmp_path / "000000")
    assert sidecar.events == [("start", 1.0), ("success", 3.0), ("fail", 4.0), ("stop", 5.0)]
    assert sidecar.outcome == "fail"


def test_marks_of_a_foreign_bag_lie_beside_it(tmp_path):
    bag = tmp_path / "rosbag2_2026"
    bag.mkdir()
    assert read_marks(bag) == []
    write_marks(bag, [Mark("fail", 9.5), Mark("success", 3.25)])
    assert read_marks(bag) == read_marks(Path(f"{bag}/")) == [Mark("success", 3.25), Mark("fail", 9.5)]
    assert [path.name for path in tmp_path.iterdir() if path != bag] == ["rosbag2_2026.marks.json"]
    assert list(bag.iterdir()) == []
    write_marks(bag, [])
    assert not marks_path(bag).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is damaged"),
        ("[]", "no JSON object"),
        ({"marks": []}, "format None"),
        ({"format": 2, "marks": []}, "install a newer"),
        ({"format": 1}, "its keys are format, not format, marks"),
        ({"format": 1, "marks": [], "more": 1}, "its keys are"),
        ({"format": 1, "marks": [["sucess", 1.0]]}, "'sucess' is not a mark; known are success, fail"),
        ({"format": 1, "marks": [["fail", True]]}, "'True' is not a time"),
        ({"format": 1, "marks": [["fail", float("nan")]]}, "not a time"),
        ({"format": 1, "marks": [["fail"]]}, "is damaged"),
        ({"format": 1, "marks": 7}, "is damaged"),
    ],
)
def test_a_damaged_marks_file_is_refused_by_name(tmp_path, content, message):
    path = marks_path(tmp_path / "bag")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DiwaError, match=rf"bag\.marks\.json.*{message}"):
        read_marks(tmp_path / "bag")
