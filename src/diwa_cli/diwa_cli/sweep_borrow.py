"""What a sweep on the world model of another need not make again: linked, where it is configured alike.

So a variant that differs in its policy has the other's demonstrations and classifiers, and one that differs in its
reward starts from the very same policies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diwa_cli.phases import Phase
from diwa_cli.run_folder import read_json
from diwa_cli.sweep_plan import Stage, Sweep, SweepFolder

_DATA = ("demonstrations", "dataset", "sim")
DEPENDS_ON = {
    "record": _DATA,
    "build": _DATA,
    "replay": _DATA,
    "train_policy": (*_DATA, "policy"),
    "train_reward": (*_DATA, "reward"),
    "train_guard": ("guard",),
}
"""Stage -> the sections of the configuration on which its phases depend, beside play and world model."""


def borrow(stages: Sequence[Stage], folder: SweepFolder, sweep: Sweep) -> None:
    """Link what the sweep in `world_model_of` has finished, and take those phases as done. Says how many."""
    other = SweepFolder(Path(sweep.config.world_model_of))
    if not sweep.config.world_model_of or not other.shared.is_sweep:
        return
    mine, theirs = (_sections(found) for found in (folder, other))
    same = {name for name in mine if mine[name] == theirs.get(name)}
    alike = [
        phase
        for stage in stages
        if stage.name in DEPENDS_ON and same.issuperset(DEPENDS_ON[stage.name])
        for phase in stage.phases
    ]
    taken = [phase for phase in alike if _is_missing(phase, folder) and _has(other, phase, folder)]
    for phase in taken:
        theirs_output = other.path / phase.output.relative_to(folder.path)
        phase.output.parent.mkdir(parents=True, exist_ok=True)
        phase.output.symlink_to(os.path.relpath(theirs_output, phase.output.parent.resolve()))
        folder.log(phase.name).take(phase.name, phase.command)
    if taken:
        print(f"from {other.path}, where they are configured alike: {len(taken)} finished phases", flush=True)


def _sections(folder: SweepFolder) -> dict[str, Any]:
    """Of a sweep's configuration, but for how many processes work on it."""
    config = read_json(folder.shared.description)["config"]
    return {
        name: {key: value for key, value in section.items() if key != "workers"}
        for name, section in config.items()
        if name != "sweep"
    }


def _is_missing(phase: Phase, folder: SweepFolder) -> bool:
    return (
        not phase.output.exists() and not phase.output.is_symlink() and not folder.log(phase.name).is_done(phase.name)
    )


def _has(other: SweepFolder, phase: Phase, folder: SweepFolder) -> bool:
    return other.log(phase.name).is_done(phase.name) and (other.path / phase.output.relative_to(folder.path)).exists()
