"""Sweeps side by side: pairs, what they have in common, what cannot be compared."""

import json
import math

import pytest

from diwa_cli.pipeline.compare import table
from diwa_cli.statistics import Interval, interval_of_mean, paired_difference


def sweep(folder, results, alpha=0.1):
    """A finished sweep's two files: (skill, seed) -> policy -> a 1 or 0 for each start."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"command": f"diwa sweep --out {folder}", "config": {"sweep": {}}}))
    lines = [
        {"skill": skill, "seed": seed, "policy": policy, "alpha_bc": None if policy == "base" else alpha,
         "start": start, "success": bool(int(won)), "steps": 9}
        for (skill, seed), policies in results.items()
        for policy, wins in policies.items()
        for start, won in enumerate(wins)
    ]  # fmt: skip
    (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def vision(tmp_path):
    return sweep(
        tmp_path / "vision",
        {
            ("open_drawer", 0): {"base": "1000", "finetuned": "1100"},
            ("open_drawer", 1): {"base": "0000", "finetuned": "1111"},
            ("turn_on_led", 0): {"base": "0000", "finetuned": "0110"},
            ("close_drawer", 0): {"base": "0000", "finetuned": "1111"},
        },
    )


@pytest.fixture
def hybrid(tmp_path):
    return sweep(
        tmp_path / "hybrid",
        {
            ("turn_on_led", 0): {"base": "1100", "finetuned": "1111"},
            ("open_drawer", 0): {"base": "1000", "finetuned": "1000"},
            ("open_drawer", 2): {"base": "1000", "finetuned": "1000"},
        },
    )


def test_what_both_have_is_compared_by_start_state(diwa, vision, hybrid, tmp_path):
    out, figure = tmp_path / "rows.json", tmp_path / "bars.svg"
    ran = diwa("compare", vision, hybrid, "--out", out, "--figure", figure)
    assert ran.status == 0, ran.err
    drawer, led, mean = json.loads(out.read_text())["rows"]
    assert [(row["skill"], row["seeds"]) for row in (drawer, led, mean)] == [
        ("open_drawer", [0]), ("turn_on_led", [0]), ("mean", [0]),
    ]  # fmt: skip
    assert [(one["base"], one["finetuned"], one["difference"]) for one in drawer["variants"].values()] == [
        (25, 50, 25), (25, 25, 0),
    ]  # fmt: skip
    expected = paired_difference([False, True, True, False], [True] * 4).interval
    assert "beyond_first" not in led["variants"]["vision"]
    assert led["variants"]["hybrid"]["beyond_first"] == 50
    assert led["variants"]["hybrid"]["beyond_first_interval"] == pytest.approx(
        [100 * expected.low, 100 * expected.high], abs=0.01
    )
    assert (mean["variants"]["vision"]["finetuned"], mean["variants"]["hybrid"]["finetuned"]) == (50, 62.5)
    assert mean["variants"]["hybrid"]["beyond_first"] == 12.5
    lines = ran.out.splitlines()
    assert lines[0] == "| skill | seeds | vision | hybrid | hybrid - vision (95 %) |"
    assert lines[2].startswith("| open_drawer | 0 | 25.0 to 50.0 % | 25.0 to 25.0 % | -25.0 (")
    text = figure.read_text()
    assert text.startswith("<?xml")


def test_seeds_that_both_have_count(diwa, vision, tmp_path):
    other = sweep(tmp_path / "other", {("open_drawer", seed): {"base": "00", "finetuned": "11"} for seed in (0, 1)})
    ran = diwa("compare", vision, other)
    assert (ran.status, "judged from other start states" in ran.err, "2 and 4" in ran.err) == (2, True, True)
    ran = diwa("compare", vision, vision, "--names", "one", "two")
    assert "| open_drawer | 0 1 | 12.5 to 75.0 % | 12.5 to 75.0 % | +0.0 (" in ran.out


@pytest.mark.parametrize(
    ("names", "error"),
    [([], "a name of its own (--names): vision, vision"), (["a"], "a name of its own"), (["a", "a"], "a, a")],
)
def test_names_tell_sweeps_apart(diwa, vision, names, error):
    ran = diwa("compare", vision, vision, *(["--names", *names] if names else []))
    assert (ran.status, error in ran.err) == (2, True)


def test_what_cannot_be_compared_is_one_error(diwa, vision, tmp_path):
    ran = diwa("compare", vision, tmp_path / "nothing")
    assert (ran.status, "nothing holds no finished demo or sweep" in ran.err) == (2, True)
    apart = sweep(tmp_path / "apart", {("turn_off_led", 0): {"base": "0000", "finetuned": "1111"}})
    ran = diwa("compare", vision, apart)
    assert (ran.status, "no skill and seed is in all of" in ran.err) == (2, True)
    ran = diwa("compare", vision)
    assert (ran.status, "vision is one variant" in ran.err) == (2, True)
    whole = (apart / "rollouts.jsonl").read_text()
    (apart / "rollouts.jsonl").write_text(whole[:-20])
    ran = diwa("compare", vision, apart)
    assert (ran.status, "rollouts.jsonl is damaged in line 8" in ran.err) == (2, True)


def test_a_sweep_with_several_alphas_is_a_variant_for_each(diwa, vision):
    path = vision / "rollouts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    more = [{**line, "alpha_bc": 0.5, "success": False} for line in lines if line["policy"] == "finetuned"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines + more))
    ran = diwa("compare", vision)
    assert ran.status == 0, ran.err
    head, _, drawer, *_ = ran.out.splitlines()
    assert head.startswith("| skill | seeds | vision, alpha_BC 0.1 | vision, alpha_BC 0.5 |")
    assert drawer.startswith("| open_drawer | 0 1 | 12.5 to 75.0 % | 12.5 to 0.0 % | -75.0 (")


def test_skills_with_their_own_alphas_are_one_variant(diwa, vision):
    path = vision / "rollouts.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    own = [{**line, "alpha_bc": 0.025} if line["skill"] == "turn_on_led" else line for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in own))
    ran = diwa("compare", vision, vision, "--names", "one", "two")
    assert "| turn_on_led | 0 | 0.0 to 50.0 % | 0.0 to 50.0 % | +0.0 (" in ran.out


def test_interval_of_a_mean_by_square_and_add():
    """Half-widths 3 and 4 below, 6 and 8 above: 5 / 2 and 10 / 2."""
    found = interval_of_mean([10.0, 20.0], [Interval(7.0, 16.0), Interval(16.0, 28.0)])
    assert (found.low, found.high) == pytest.approx((15 - 2.5, 15 + 5))
    alone = interval_of_mean([0.5], [Interval(0.1, 0.8)])
    assert (alone.low, alone.high) == pytest.approx((0.1, 0.8))
    many = interval_of_mean([0.0] * 16, [Interval(-1.0, 1.0)] * 16)
    assert many.high == pytest.approx(1 / math.sqrt(16))


def test_table_has_a_column_a_variant():
    one = {"base": 10.0, "finetuned": 50.0}
    two = {"base": 20.0, "finetuned": 40.0, "beyond_first": -10.0, "beyond_first_interval": [-30.0, 10.0]}
    text = table([{"skill": "mean", "seeds": [0, 1], "variants": {"a": one, "b": two}}])
    assert text.splitlines()[-1] == "| mean | 0 1 | 10.0 to 50.0 % | 20.0 to 40.0 % | -10.0 (-30.0 to +10.0) |"
