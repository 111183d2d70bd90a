"""Benchmarks keep their figures: rows of rounds are merged, other commits compared, and docs/speed.md shows them."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import run
import table

ROW = {"name": "a", "value": 2.0, "unit": "frames/s", "target": 3, "reference": None, "ratio": None, "floor": None}


def test_a_row_is_the_median_of_its_rounds():
    rounds = [ROW | {"value": value, "spread": [value, 9.0 - value]} for value in (1.0, 5.0, 2.0)]
    assert run.median(rounds) == ROW | {"value": 2.0, "target": 3.0, "spread": [1.0, 8.0]}


def test_gains_are_above_one_where_ours_is_better():
    half = ROW | {"value": 1.0}
    assert run.gain(ROW, half) == 2
    assert run.gain(ROW | {"unit": "ms"}, half) == 0.5
    assert run.gain(ROW, None) is None


@pytest.mark.parametrize("unit", ["frames/s", "ms"])
def test_the_other_commit_runs_in_turn(monkeypatch, unit):
    order = []

    def measured(root, name, words):
        order.append(root)
        mine = {"name": "a", "value": 4.0, "unit": unit}
        return [mine, mine | {"name": "new"}] if root == run.ROOT else [mine | {"value": 2.0}]

    monkeypatch.setattr(run, "run", measured)
    old, new = run.measure("some", [], 2, Path("other"), "abc")
    assert order == [run.ROOT, Path("other")] * 2
    assert (old["before_ratio"], old["before_commit"]) == (2.0 if unit == "frames/s" else 0.5, "abc")
    assert new["before_ratio"] is None


def test_the_page_shows_the_figures(tmp_path):
    rows = json.loads((run.ROOT / "docs/results/bench_cpu.json").read_text())
    text = (run.ROOT / "docs/speed.md").read_text()
    page = tmp_path / "speed.md"
    page.write_text(text)
    table.write_tables(page, rows)
    assert page.read_text() == text, "python benchmarks/run.py --table"
    page.write_text("no table here")
    with pytest.raises(SystemExit, match="figures"):
        table.write_tables(page, rows)


@pytest.mark.parametrize("name", [*run.BENCHMARKS, *run.PEERS])
def test_every_benchmark_is_here(name):
    assert (run.ROOT / "benchmarks" / f"{name}.py").exists()
