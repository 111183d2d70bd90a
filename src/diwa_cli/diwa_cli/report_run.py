"""What the report shows about the run as such: its data, its time, and how to repeat it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diwa_cli import plots
from diwa_cli.page import Figure, Table, drawing
from diwa_cli.run_folder import RunFolder, read_json
from diwa_cli.seeds import SEEDS
from diwa_data.errors import DiwaError
from diwa_data.inspect import inspect_path

BUILD = "diwa build-dataset"


def data(folder: RunFolder) -> dict[str, list[dict[str, str]]]:
    """Cards of recordings and datasets."""
    return {
        "Play": [_card(folder.play_bags, "diwa record"), _card(folder.play, BUILD)],
        "Demonstrations": [_card(folder.demonstration_bags, "diwa record"), _card(folder.demonstrations, BUILD)],
    }


def replayed(folder: RunFolder) -> dict[str, Any]:
    """Whether the dataset's actions do again what the operator did; the command that finds out, if nobody did."""
    replay = read_json(folder.replay)
    if replay is None:
        return {"command": f"diwa replay {folder.demonstrations}"}
    return {
        "again": sum(episode["succeeded"] for episode in replay["episodes"]),
        "episodes": len(replay["episodes"]),
        "right": all(share >= replay["minimum"] for share in replay["shares"].values()),
        "minimum": f"{100 * replay['minimum']:.0f}",
    }


def time_spent(folder: RunFolder) -> Figure | None:
    """Bars of the phases' seconds."""
    phases = read_json(folder.phases)
    return phase_bars({name: phase["seconds"] for name, phase in phases.items()}, "phase") if phases else None


def phase_bars(seconds: dict[str, float], what: str) -> Figure:
    """How long each of several phases or stages (`what`) took."""
    seconds = {name.replace("_", " "): value for name, value in seconds.items()}
    spoken = ", ".join(f"{name} {plots.clock(value)}" for name, value in seconds.items())
    return drawing(plots.phase_bars(seconds), f"Time of each {what}: {spoken}")


def reproduce(folder: RunFolder, description: dict[str, Any]) -> dict[str, Any] | None:
    """Commands, configuration, versions, machine, seeds."""
    if not description:
        return None
    config = description["config"]
    seeds = {name: values["seed"] for name, values in config.items() if isinstance(values, dict) and "seed" in values}
    seeds |= {f"evaluation ({config[name]['seeds']})": _range(config[name]) for name in ("curve", "final")}
    return {
        "command": description["command"],
        "phases": "\n".join(phase["command"] for phase in (read_json(folder.phases) or {}).values()),
        "config": json.dumps(config, indent=2),
        "seeds": Table(["phase", "seed"], [[k, str(v)] for k, v in seeds.items()]),
        "machine": machine(description),
    }


def machine(description: dict[str, Any]) -> Table:
    """Versions and machine of a run or sweep."""
    about = {**description["versions"], **description["machine"]}
    return Table(["", ""], [[k, str(v)] for k, v in about.items()])


def _range(evaluation: dict[str, Any]) -> str:
    first = SEEDS[evaluation["seeds"]].start
    return f"{first} to {first + evaluation['rollouts'] - 1}"


def _card(path: Path, command: str) -> dict[str, str]:
    if not path.exists():
        return {"path": str(path), "command": command, "text": ""}
    try:
        return {"text": inspect_path(path)}
    except DiwaError as error:
        return {"text": f"cannot be read: {error}"}
