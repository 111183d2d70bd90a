"""The harness of `make fuzz` sees every way in which a reader of damaged files can go wrong."""

import importlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest

FUZZ = Path(__file__).parents[3] / "fuzz"

READER = """
import os, random, time
from harness import Target
from diwa_data.errors import DiwaError

def make(folder):
    (folder / "file").write_bytes(b"whole")
    return folder / "file"

def load(path):
    content = path.read_bytes()
    if content == b"refused":
        raise DiwaError("it is damaged")
    if content == b"crash":
        os._exit(1)
    if content == b"bomb":
        return bytearray(2**40)
    if content == b"slow":
        time.sleep(60)
    return content.strip()

ENDS = [b"refused", b" whole ", b"other", b"crash", b"bomb", b"slow", b"refused"]

def damage(content, rng):
    number = next(n for n in range(len(ENDS)) if random.Random(f"0 toy {n}").getstate() == rng.getstate())
    return ENDS[number]

def targets():
    return {"toy": Target("toy", make, load, damage, len(ENDS))}
"""


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FUZZ))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("harness")
    for name in ("harness", "toy_reader"):
        sys.modules.pop(name, None)


def test_every_outcome_is_told_apart(harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_reader.py").write_text(READER)
    toy = importlib.import_module("toy_reader")
    monkeypatch.setattr(harness, "CASE_SECONDS", 1.0)
    cases = harness.run(toy.targets()["toy"], toy.targets, seed=0)
    expected = ["clear_error", "unchanged", "accepted_changed", "traceback", "traceback", "hang", "clear_error"]
    assert [case.outcome for case in cases] == expected
    assert [case.number for case in cases] == list(range(len(expected)))
    assert "the process ended" in cases[3].detail
    assert "MemoryError" in cases[4].detail


def test_flips_are_seeded_and_fingerprints_compare_contents(harness) -> None:
    flipped = harness.flip_bit(b"abc", random.Random("1"))
    assert flipped == harness.flip_bit(b"abc", random.Random("1"))
    assert sum((a ^ b).bit_count() for a, b in zip(flipped, b"abc", strict=True)) == 1
    whole = {"a": np.array([1.0, np.nan]), "b": [1, "x"]}
    assert harness.fingerprint(whole) == harness.fingerprint({"b": [1, "x"], "a": np.array([1.0, np.nan])})
    for other in ({"a": np.array([1.0, 2.0]), "b": [1, "x"]}, {"a": whole["a"], "b": [True, "x"]}):
        assert harness.fingerprint(whole) != harness.fingerprint(other)
