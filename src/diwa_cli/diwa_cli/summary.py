"""`diwa summary`: the results of several demos as one table, to read and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diwa_cli import markdown
from diwa_cli.run_folder import RunFolder, damaged_run, read_json
from diwa_data.errors import DiwaError
from diwa_data.json_files import write_json

HEADINGS = ("skill", "seed", "base", "fine-tuned", "difference (95 %)", "minutes")


def summary(runs: Sequence[Path], out: Path | None) -> str:
    """The table of finished demos as Markdown; its rows also go to the JSON file `out`."""
    rows = [row(run) for run in runs]
    if out:
        write_json(out, rows)
    return markdown.table(HEADINGS, map(cells, rows))


def row(run: Path) -> dict[str, Any]:
    """The result of one demo: rates in percent, difference and its interval in points, minutes of all its phases.

    Raises `DiwaError` for a run that is not finished, or damaged.
    """
    folder = RunFolder(run)
    found, description = read_json(folder.results), read_json(folder.description)
    if folder.is_sweep:
        raise DiwaError(f"{run} is a sweep: its table is in {folder.report}, and `diwa compare` compares several")
    if found is None or description is None:
        raise DiwaError(f"{run} holds no finished demo: run `diwa demo --out {run}` to its end first")
    with damaged_run(run):
        return _row(folder, found, description)


def _row(folder: RunFolder, found: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    demo = description["config"]["demo"]
    return {
        "skill": found["skill"],
        "seed": demo["seed"],
        "base": 100 * found["base"]["rate"],
        "finetuned": 100 * found["finetuned"]["rate"],
        "points": round(found["difference"]["points"], 2),
        "interval": [round(end, 2) for end in found["difference"]["interval"]],
        "rollouts": found["base"]["rollouts"],
        "minutes": round(sum(found["phases"].values()) / 60, 1),
        "own_world_model": folder.learned is folder,
        "command": description["command"],
        "machine": description["machine"],
    }


def cells(found: dict[str, Any]) -> tuple[str, ...]:
    """A row as it is printed."""
    low, high = found["interval"]
    own = "" if found["own_world_model"] else " (world model of another run)"
    return (
        found["skill"],
        str(found["seed"]),
        f"{found['base']:.1f} %",
        f"{found['finetuned']:.1f} %",
        f"{found['points']:+.1f} ({low:+.1f} to {high:+.1f})",
        f"{found['minutes']:.1f}{own}",
    )
