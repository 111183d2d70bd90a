"""Marks of play: a file that a person writes, and what may be wrong in it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_data.dataset.play_marks import Done, done_ticks, read_play_marks, spans_of, write_play_marks
from diwa_data.errors import DiwaError

SECONDS = np.arange(40) / 7.5


@given(st.dictionaries(st.integers(0, 99).map("{:06d}".format), st.lists(st.booleans(), min_size=40, max_size=40)))
def test_what_is_written_says_the_same_when_it_is_read(tmp_path_factory, episodes):
    path = tmp_path_factory.mktemp("marks") / "marks.csv"
    marks = {name: spans_of(np.array(done), SECONDS) for name, done in episodes.items()}
    write_play_marks(path, "open_drawer", marks)
    if not episodes:
        with pytest.raises(DiwaError, match="no mark of open_drawer, only of nothing"):
            read_play_marks(path, "open_drawer")
        return
    found = read_play_marks(path, "open_drawer")
    assert found.keys() == marks.keys()
    for name, done in episodes.items():
        np.testing.assert_array_equal(done_ticks(found[name], SECONDS + 0.01), done)  # times have two decimals


def test_a_file_as_a_person_writes_it(tmp_path):
    path = tmp_path / "marks.csv"
    path.write_text(
        "\ufeffskill,episode,from,to,remark\n"
        "open_drawer, 3 ,1.5,2,\nopen_drawer,3,4,,stays open\nopen_drawer,7,,,\nturn_on_led,4,0,1,\n",
        encoding="utf-8",
    )
    assert read_play_marks(path, "open_drawer") == {"000003": [Done(1.5, 2.0), Done(4.0, math.inf)], "000007": []}
    assert read_play_marks(path, "turn_on_led") == {"000004": [Done(0.0, 1.0)]}
    with pytest.raises(DiwaError, match="no mark of close_drawer, only of open_drawer, turn_on_led"):
        read_play_marks(path, "close_drawer")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column 'skill'"),
        ("skill,episode,from\n", "no column 'to'"),
        ("skill,episode,from,to\nopen_drawer,first,0,1\n", "line 2: episode 'first' is not a number"),
        ("skill,episode,from,to\nopen_drawer\n", "line 2: episode '' is not a number"),
        ("skill,episode,from,to\nopen_drawer,1,0,1\nopen_drawer,1,1m,2\n", "line 3: from '1m' to '2' are not seconds"),
        ("skill,episode,from,to\nopen_drawer,1,3,2\n", "from 3 to 2 s, which is not a span"),
        ("skill,episode,from,to\nopen_drawer,1,nan,2\n", "not a span"),
        ("skill,episode,from,to\nopen_drawer,1,-1,2\n", "not a span"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, said):
    path = tmp_path / "marks.csv"
    path.write_text(text)
    with pytest.raises(DiwaError, match=said):
        read_play_marks(path, "open_drawer")


def test_what_is_no_such_file_is_named(tmp_path):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00skill")
    for name in ("binary.csv", "none.csv", "."):
        with pytest.raises(DiwaError, match="cannot be read as marks of play"):
            read_play_marks(tmp_path / name, "open_drawer")
