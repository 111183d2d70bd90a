"""The report's sections about the run as such: its data, its time, and how to repeat it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diwa_cli import page, plots
from diwa_cli.page import missing, section
from diwa_cli.run_folder import RunFolder, read_json
from diwa_cli.seeds import SEEDS
from diwa_data.errors import DiwaError
from diwa_data.inspect import inspect_path

BUILD = "diwa build-dataset"


def data(folder: RunFolder) -> str:
    """Cards of recordings and datasets, and the replay."""
    about = (
        "A scripted operator moved a virtual VR controller; 30 Hz recordings (rosbag2) became datasets at 7.5 Hz. Play "
        "is long, mixed and task-agnostic; demonstrations end with the operator's success mark."
    )
    parts = [replayed(folder)]
    for name, bags, dataset in (
        ("Play", folder.play_bags, folder.play),
        ("Demonstrations", folder.demonstration_bags, folder.demonstrations),
    ):
        parts += [f"<h3>{name}</h3>", _card(bags, "diwa record"), _card(dataset, BUILD)]
    return section("data", "Data", about, *parts)


def replayed(folder: RunFolder) -> str:
    """Whether the dataset's actions do again what the operator did."""
    replay = read_json(folder.replay)
    if replay is None:
        return missing("The open-loop replay of the demonstrations", f"diwa replay {folder.demonstrations}")
    done = sum(episode["succeeded"] for episode in replay["episodes"])
    right = all(share >= replay["minimum"] for share in replay["shares"].values())
    doubt = f"fewer than {100 * replay['minimum']:.0f} %, so scale, frame, sign or timing of the actions is in doubt"
    verdict = "scale, frame, sign and timing of the actions are right" if right else doubt
    return (
        f"<p>Replayed open loop from the dataset's actions alone, <b>{done} of {len(replay['episodes'])}</b> "
        f"demonstrations succeed again: {verdict}.</p>"
    )


def time_spent(folder: RunFolder) -> str:
    """Bars of the phases' seconds."""
    about = "Seconds of each phase on this machine, interruptions left out."
    phases = read_json(folder.phases)
    if not phases:
        return section("time", "Time", about, missing("The time of the phases", "diwa demo"))
    seconds = {name.replace("_", " "): phase["seconds"] for name, phase in phases.items()}
    spoken = ", ".join(f"{name} {plots.clock(value)}" for name, value in seconds.items())
    return section("time", "Time", about, page.svg_figure(plots.phase_bars(seconds), f"Time of each phase: {spoken}"))


def reproduce(folder: RunFolder, description: dict[str, Any]) -> str:
    """Commands, configuration, versions, machine, seeds."""
    about = (
        "The whole run is the first command; the others are its phases. Everything random comes from the seeds below: "
        "the same machine and versions give the same results."
    )
    phases = read_json(folder.phases) or {}
    commands = [phase["command"] for phase in phases.values()]
    if not description:
        return section("reproduce", "Reproduce", about, missing("The run's description (run.json)", "diwa demo"))
    config = description["config"]
    seeds = {name: values["seed"] for name, values in config.items() if isinstance(values, dict) and "seed" in values}
    seeds |= {f"evaluation ({config[name]['seeds']})": _range(config[name]) for name in ("curve", "final")}
    about_machine = {**description["versions"], **description["machine"]}
    return section(
        "reproduce",
        "Reproduce",
        about,
        page.code(description["command"]),
        page.details("Commands of the phases", page.code("\n".join(commands))),
        page.details("Full configuration", page.code(json.dumps(config, indent=2))),
        page.details("Seeds", page.table(["phase", "seed"], [[k, str(v)] for k, v in seeds.items()])),
        page.details("Versions and machine", page.table(["", ""], [[k, str(v)] for k, v in about_machine.items()])),
    )


def _range(evaluation: dict[str, Any]) -> str:
    first = SEEDS[evaluation["seeds"]].start
    return f"{first} to {first + evaluation['rollouts'] - 1}"


def _card(path: Path, command: str) -> str:
    if not path.exists():
        return missing(str(path), command)
    try:
        return page.code(inspect_path(path))
    except DiwaError as error:
        return page.code(f"cannot be read: {error}")
