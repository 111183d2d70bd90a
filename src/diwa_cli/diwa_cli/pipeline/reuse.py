"""What a sweep need not make again: the finished phases of another, linked, where both are configured alike.

So variants of the method share all that they do not vary: recordings, world model, policies, classifiers, results. The
baseline's practice is not taken: what it must match may be another result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from diwa_cli.pipeline.jobs import Phase
from diwa_cli.pipeline.plan import Stage, Sweep
from diwa_cli.run_folder import SweepFolder

_PLAY, _DEMONSTRATIONS = ("play", "dataset", "sim"), ("demonstrations", "dataset", "sim")
_WORLD_MODEL = (*_PLAY, "world_model")
_LEARNED = (*_WORLD_MODEL, *_DEMONSTRATIONS, "policy", "reward")
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
    "finetune": (*_LEARNED, "guard", "finetune"),
    "evaluate": (*_LEARNED, "guard", "finetune", "final"),
}
"""Last part of a phase's name -> the sections of the configuration that decide its output."""
OF_BASE = (*_LEARNED, "final")
"""The same of the evaluation of a base policy."""


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
        if is_alike(phase.name, same)
        and other.log(phase.name).is_done(phase.name)
        and _theirs(phase, folder, other).exists()
        and not (folder.log(phase.name).is_done(phase.name) or _mine(phase).exists() or _mine(phase).is_symlink())
    ]
    for phase in taken:
        place = _mine(phase)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(_theirs(phase, folder, other), place.parent.resolve()))
        folder.log(phase.name).take(phase.name, phase.command)
    if taken:
        print(f"from {other.path}, where it is configured alike: {len(taken)} finished phases", flush=True)


def is_alike(phase: str, same: Set[str]) -> bool:
    """Whether all that decides a phase's output is in the sections that are the `same`."""
    *_, owner, kind = ["", *phase.split("/")]
    sections = OF_BASE if kind == "evaluate" and owner.startswith("seed_") else DEPENDS_ON.get(kind)
    return sections is not None and same >= set(sections)


def alike(one: SweepFolder, other: SweepFolder) -> set[str]:
    """Sections of the configuration in which two sweeps agree, but for how many processes work on it."""
    mine, theirs = (_sections(folder) for folder in (one, other))
    return {name for name in mine if mine[name] == theirs.get(name)}


def _sections(folder: SweepFolder) -> dict[str, Any]:
    return {
        name: {key: value for key, value in section.items() if key != "workers"}
        for name, section in folder.shared.config.items()
        if name != "sweep"
    }


def _mine(phase: Phase) -> Path:
    """What a phase leaves: one file or folder; an evaluation has films beside its result."""
    return phase.output.parent if phase.name.endswith("/evaluate") else phase.output


def _theirs(phase: Phase, folder: SweepFolder, other: SweepFolder) -> Path:
    """What the same phase of the other sweep left."""
    return other.path / _mine(phase).relative_to(folder.path)
