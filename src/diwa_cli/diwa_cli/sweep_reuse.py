"""What a sweep need not make again: the finished phases of another, linked, where both are configured alike.

So variants of the method share all that they do not vary: recordings, world model, policies, classifiers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diwa_cli.phases import Phase
from diwa_cli.run_folder import read_json
from diwa_cli.sweep_folder import SweepFolder
from diwa_cli.sweep_plan import Stage, Sweep

_PLAY, _DEMONSTRATIONS = ("play", "dataset", "sim"), ("demonstrations", "dataset", "sim")
_WORLD_MODEL = (*_PLAY, "world_model")
DEPENDS_ON = {
    "record_play": _PLAY,
    "build_play": _PLAY,
    "train_world_model": _WORLD_MODEL,
    "train_guard": (*_WORLD_MODEL, "guard"),
    "record": _DEMONSTRATIONS,
    "build": _DEMONSTRATIONS,
    "replay": _DEMONSTRATIONS,
    "train_policy": (*_WORLD_MODEL, *_DEMONSTRATIONS, "policy"),
    "train_reward": (*_WORLD_MODEL, *_DEMONSTRATIONS, "reward"),
}
"""Last part of a phase's name -> the sections of the configuration that decide its output."""


def reuse(stages: Sequence[Stage], folder: SweepFolder, sweep: Sweep) -> None:
    """Link what the sweep in `reuse` or `world_model_of` has finished, and take those phases as done. Says how many."""
    named = sweep.config.reuse or sweep.config.world_model_of
    other = SweepFolder(Path(named))
    if not named or not other.shared.is_sweep:  # the folder of a demo
        return
    same = alike(folder, other) | ({"play", "world_model"} if named == sweep.config.world_model_of else set())
    taken = [
        phase
        for stage in stages
        for phase in stage.phases
        if (kind := phase.name.rpartition("/")[2]) in DEPENDS_ON
        and same.issuperset(DEPENDS_ON[kind])
        and other.log(phase.name).is_done(phase.name)
        and _output(phase, folder, other).exists()
        and not (folder.log(phase.name).is_done(phase.name) or phase.output.exists() or phase.output.is_symlink())
    ]
    for phase in taken:
        phase.output.parent.mkdir(parents=True, exist_ok=True)
        phase.output.symlink_to(os.path.relpath(_output(phase, folder, other), phase.output.parent.resolve()))
        folder.log(phase.name).take(phase.name, phase.command)
    if taken:
        print(f"from {other.path}, where it is configured alike: {len(taken)} finished phases", flush=True)


def alike(one: SweepFolder, other: SweepFolder) -> set[str]:
    """Sections of the configuration in which two sweeps agree, but for how many processes work on it."""
    mine, theirs = (_sections(folder) for folder in (one, other))
    return {name for name in mine if mine[name] == theirs.get(name)}


def _sections(folder: SweepFolder) -> dict[str, Any]:
    config = read_json(folder.shared.description)["config"]
    return {
        name: {key: value for key, value in section.items() if key != "workers"}
        for name, section in config.items()
        if name != "sweep"
    }


def _output(phase: Phase, folder: SweepFolder, other: SweepFolder) -> Path:
    """The other sweep's output of the same phase."""
    return other.path / phase.output.relative_to(folder.path)
