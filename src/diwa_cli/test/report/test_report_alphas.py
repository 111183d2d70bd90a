"""Dreams against the truth by alpha_BC, from a sweep's files."""

import json

import pytest

from diwa_cli.report.report import alphas
from diwa_cli.run_folder import SweepFolder

DREAMS = [[0, 0.1], [1, 0.2], [2, 0.4], [3, 0.6], [4, 1.0]]


def row(skill, alpha, rate, seeds=(0,)):
    interval = [rate - 10, rate + 10]
    return {"skill": skill, "alpha_bc": alpha, "seeds": list(seeds), "finetuned": rate, "finetuned_interval": interval}


@pytest.fixture
def folder(tmp_path):
    """Two seeds of open_drawer: the first with its fourth checkpoint as result, the second with its last."""
    for seed, iteration in ((0, 4), (1, 5)):
        for alpha in ("0", "0.5"):
            path = tmp_path / f"open_drawer/seed_{seed}/alpha_{alpha}/finetuned/metrics.json"
            path.parent.mkdir(parents=True)
            history = {"dream_success": DREAMS, "bc_kl": [[step, 0.01 * step] for step, _ in DREAMS]}
            path.write_text(json.dumps({"iteration": iteration, "history": history}))
    return SweepFolder(tmp_path)


def test_dreams_before_the_result_beside_the_truth(folder):
    rows = [row("open_drawer", 0.5, 70.0, (0, 1)), row("open_drawer", 0.0, 20.0, (0, 1))]
    shown = alphas(folder, {"skills": rows})["rows"]
    dreamt = f"{100 * (0.4 + 2.0 / 3) / 2:.1f}"  # means of 0.2, 0.4, 0.6 and of 0.4, 0.6, 1.0
    assert shown == [
        ["0", dreamt, "20.0", "10.0 to 30.0", "0.025"],
        ["0.5", dreamt, "70.0", "60.0 to 80.0", "0.025"],
    ]


def test_mean_over_the_skills_that_have_every_value(folder):
    rows = [row("open_drawer", alpha, rate) for alpha, rate in ((0.0, 20.0), (0.5, 70.0))]
    rows += [row("close_drawer", alpha, rate) for alpha, rate in ((0.0, 30.0), (0.5, 60.0))]
    bars = alphas(folder, {"skills": [*rows, row("turn_on_led", 0.5, 100.0)]})["bars"]
    assert "0: 40 % in dreams, 25 % true; 0.5: 40 % in dreams, 65 % true" in bars.alt


@pytest.mark.parametrize(
    "rows",
    [[], [row("open_drawer", 0.1, 50.0)], [row("open_drawer", 0.1, 50.0), row("turn_on_led", 0.5, 50.0)]],
    ids=["nothing", "one value", "each skill its own"],
)
def test_no_section_where_nothing_can_be_compared(folder, rows):
    assert alphas(folder, {"skills": rows}) is None
