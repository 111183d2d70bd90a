"""The page about a blind comparison of policies on a robot (the paper's Fig. 3)."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from diwa_cli.page import page, section, svg_figure, table
from diwa_cli.plots import success_bars
from diwa_cli.statistics import SuccessRate
from diwa_data.files import atomic_path
from diwa_deploy.comparison import read_comparison


def write_comparison(path: Path) -> Path:
    """Write the page beside the comparison's file; its path. Raises `DiwaError` if it is none."""
    found = read_comparison(path)
    out = path.with_suffix(".html")
    title = f"{found['skill']} on the robot"
    header = f"<h1>{html.escape(title)}</h1><p>{len(found['trials'])} trials, order shuffled, judged blind</p>"
    with atomic_path(out) as temporary:
        temporary.write_text(page(title, header, [_rates(found), _trials(found)], html.escape(str(path.name))))
    return out


def _of(found: dict[str, Any], policy: str) -> list[dict[str, Any]]:
    return [trial for trial in found["trials"] if trial["policy"] == policy]


def _rates(found: dict[str, Any]) -> str:
    rates = {
        policy: SuccessRate(sum(trial["success"] for trial in _of(found, policy)), len(_of(found, policy)))
        for policy in found["policies"]
        if _of(found, policy)
    }
    rows = [
        (policy, f"{rate.successes} of {rate.rollouts}", f"{100 * rate.rate:.0f} %", _percent(rate))
        for policy, rate in rates.items()
    ]
    bars = svg_figure(success_bars(rates), "success of each policy") if rates else ""
    return section("rates", "Success", "As the operator saw it, with 95 % intervals (Wilson).", bars,
                   table(("policy", "succeeded", "rate", "95 %"), rows))  # fmt: skip


def _percent(rate: SuccessRate) -> str:
    return f"{100 * rate.interval.low:.0f} to {100 * rate.interval.high:.0f} %"


def _trials(found: dict[str, Any]) -> str:
    rows = [
        (str(number), trial["policy"], "yes" if trial["success"] else "no",
         "yes" if trial["believed"] else "no", trial["reason"], str(trial["steps"]))
        for number, trial in enumerate(found["trials"], 1)
    ]  # fmt: skip
    head = ("trial", "policy", "succeeded", "classifier", "ended by", "steps")
    return section("trials", "Trials", "In the order in which they were run.", table(head, rows))
