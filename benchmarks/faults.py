"""The fault tables: run the tests that inject faults into nodes, and write what became of each.

Needs a sourced ROS 2 (deploy: and the built workspace): `python benchmarks/faults.py recorder deploy`. `--reports A.xml
B.xml` takes what pytest reported of earlier runs (`--junitxml A.xml -o junit_family=xunit1`), of each test the last.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path("docs/results")


@dataclass(frozen=True)
class Table:
    """One table: where its tests are, its title and its columns between `fault` and `test`."""

    tests: str
    title: str
    columns: tuple[str, ...]


TABLES = {
    "recorder": Table(
        "src/diwa_data/test/ros", "Faults injected into recorder, teleop and camera", ("happened", "lost")
    ),
    "deploy": Table("src/diwa_deploy/test/ros", "Faults injected into a running skill", ("arm", "violations")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", choices=list(TABLES))
    parser.add_argument("--reports", nargs="+", type=Path, default=[])
    arguments = parser.parse_args()
    for name in arguments.tables:
        table = TABLES[name]
        rows = read_reports(table, arguments.reports) if arguments.reports else run_tests(table)
        (RESULTS / f"{name}_faults.json").write_text(json.dumps(rows, indent=1) + "\n")
        (RESULTS / f"{name}_faults.md").write_text(markdown(table, rows, name))
        print(f"{len(rows)} faults: {RESULTS / name}_faults.json and .md")


def run_tests(table: Table) -> list[dict[str, str | int]]:
    """One row for every test that notes a fault; stops here if any test fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", table.tests, f"--junitxml={report}", "-o", "junit_family=xunit1"]
        subprocess.run(command)
        return read_reports(table, [report])


def read_reports(table: Table, reports: list[Path]) -> list[dict[str, str | int]]:
    """The rows of runs, the last one of each test; stops here if that failed."""
    cases: dict[str, xml.etree.ElementTree.Element] = {}
    for report in reports:
        for case in xml.etree.ElementTree.parse(report).iter("testcase"):
            if case.get("file", "").startswith(table.tests):
                cases[f"{Path(case.get('file', '')).name}::{case.get('name')}"] = case
    failed = [name for name, case in cases.items() if {each.tag for each in case} & {"failure", "error"}]
    if failed or not cases:
        sys.exit(f"a promise does not hold, no table is written: {', '.join(failed) or 'no tests'}")
    rows = []
    for name, case in sorted(cases.items(), key=lambda item: item[0].partition("::")[0]):
        properties = {each.get("name", ""): each.get("value", "") for each in case.iter("property")}
        if "fault" in properties:
            counts = {key: int(value) for key, value in properties.items() if key == "violations"}
            rows.append({**properties, **counts, "test": name})
    return rows


def markdown(table: Table, rows: list[dict[str, str | int]], name: str) -> str:
    """The rows as a page."""
    columns = ("fault", *table.columns)
    lines = [f"# {table.title}", "", f"Written by `python benchmarks/faults.py {name}`; each row is a test.", ""]
    lines += [f"| {' | '.join(columns)} | test |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = [str(row[column]).replace("|", "\\|") for column in columns]
        lines.append(f"| {' | '.join(cells)} | `{row['test']}` |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
