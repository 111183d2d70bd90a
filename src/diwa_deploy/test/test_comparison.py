"""Blind trials: balanced, shuffled, kept."""

from collections import Counter
from pathlib import Path

import pytest

from diwa_data.errors import DiwaError
from diwa_deploy.trials import Comparison, Trial, read_comparison


def trial(policy: str, success: bool = True) -> Trial:
    return Trial(policy, success, success, "success" if success else "max_steps", 40)


def run(path: Path, count: int, seed: int = 0) -> list[str]:
    comparison = Comparison(path, "open_drawer", ("base", "finetuned"), 10, seed)
    for _ in range(count):
        comparison.add(trial(comparison.next))
    return [t.policy for t in comparison.trials]


def test_every_block_holds_both_in_an_order_that_changes(tmp_path: Path) -> None:
    order = run(tmp_path / "a.json", 20)
    assert Counter(order) == {"base": 10, "finetuned": 10}
    assert all(set(order[i : i + 2]) == {"base", "finetuned"} for i in range(0, 20, 2))
    assert len({tuple(order[i : i + 2]) for i in range(0, 20, 2)}) == 2
    assert run(tmp_path / "b.json", 20, seed=1) != order


def test_an_interrupted_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole.json", 20)
    assert run(tmp_path / "parts.json", 7) == whole[:7]
    comparison = Comparison(tmp_path / "parts.json", "open_drawer", ("base", "finetuned"), 10, 0)
    assert (comparison.left, comparison.next) == (13, whole[7])
    assert len(read_comparison(tmp_path / "parts.json")["trials"]) == 7
    with pytest.raises(DiwaError, match=r"seed was 0, is 4\. Restore them, or name another file"):
        Comparison(tmp_path / "parts.json", "open_drawer", ("base", "finetuned"), 10, 4)


def test_what_is_no_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiwaError, match="is missing: name the file of a comparison"):
        read_comparison(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"trials": [{"policy": "base"}]}')
    with pytest.raises(DiwaError, match="is not a comparison, or damaged"):
        read_comparison(tmp_path / "bad.json")
