"""The fault table: run the tests that inject faults into the nodes, and write what happened and what was lost.

Needs a sourced ROS 2: `python benchmarks/recorder_faults.py --out docs/results/recorder_faults.json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

TESTS = Path("src/diwa_data/test/ros")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/recorder_faults.json"))
    out = parser.parse_args().out
    rows = run_tests()
    out.write_text(json.dumps(rows, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(rows))
    print(f"{len(rows)} faults: {out}, {out.with_suffix('.md')}")


def run_tests() -> list[dict[str, str]]:
    """One row for every test that notes a fault; stops here if any test fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(TESTS), f"--junitxml={report}", "-o", "junit_family=xunit1"]
        if subprocess.run(command).returncode:
            sys.exit("a promise does not hold: no table is written")
        cases = xml.etree.ElementTree.parse(report).iter("testcase")
        rows = []
        for case in cases:
            properties = {p.get("name", ""): p.get("value", "") for p in case.iter("property")}
            if "fault" in properties:
                test = f"{Path(case.get('file', '')).name}::{case.get('name')}"
                rows.append({**properties, "test": test})
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """The rows as Markdown."""
    head = ["# Faults injected into recorder, teleop and camera", ""]
    head += [
        "Written by `python benchmarks/recorder_faults.py` on ROS 2; each row is a test that holds the promise.",
        "",
    ]
    lines = ["| fault | what happened | lost | test |", "|---|---|---|---|"]
    for row in rows:
        cells = [row[key].replace("|", "\\|") for key in ("fault", "happened", "lost")]
        lines.append(f"| {' | '.join(cells)} | `{row['test']}` |")
    return "\n".join([*head, *lines]) + "\n"


if __name__ == "__main__":
    main()
