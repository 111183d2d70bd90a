"""The page about a blind comparison of policies on a robot (the paper's Fig. 3)."""

from __future__ import annotations

from pathlib import Path

from diwa_cli.figures import success_bars
from diwa_cli.report.page import Table, drawing, write_page
from diwa_cli.statistics import SuccessRate
from diwa_deploy.trials import read_comparison


def write_comparison(path: Path) -> Path:
    """Write the page beside the comparison's file; its path. Raises `DiwaError` if it is none."""
    found = read_comparison(path)
    rates = {}
    for policy in found["policies"]:
        if judged := [trial["success"] for trial in found["trials"] if trial["policy"] == policy]:
            rates[policy] = SuccessRate(sum(judged), len(judged))
    rows = [
        (policy, f"{rate.successes} of {rate.rollouts}", f"{100 * rate.rate:.0f} %",
         f"{100 * rate.interval.low:.0f} to {100 * rate.interval.high:.0f} %")
        for policy, rate in rates.items()
    ]  # fmt: skip
    trials = [
        (str(number), trial["policy"], "yes" if trial["success"] else "no",
         "yes" if trial["believed"] else "no", trial["reason"], str(trial["steps"]))
        for number, trial in enumerate(found["trials"], 1)
    ]  # fmt: skip
    return write_page(
        path.with_suffix(".html"),
        "comparison.html",
        skill=found["skill"],
        file=path.name,
        bars=drawing(success_bars(rates), "success of each policy") if rates else None,
        rates=Table(("policy", "succeeded", "rate", "95 %"), rows),
        trials=Table(("trial", "policy", "succeeded", "classifier", "ended by", "steps"), trials),
    )
