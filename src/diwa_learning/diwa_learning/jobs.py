"""One stage of training by name, with defaults for what it needs: checkpoints of earlier stages and its own folder."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diwa_data.config import DEFAULT_PRESET, RENAMED, SECTIONS, Job, from_mapping, load_parameters, merged, renamed
from diwa_data.dataset.dataset import load_dataset, require_one_skill
from diwa_data.errors import DiwaError, unknown
from diwa_data.files import expanded, home
from diwa_learning.ensemble.disagreement import EnsembleConfig
from diwa_learning.ensemble.train import EnsembleJob
from diwa_learning.finetune.train import FinetuneConfig, FinetuneJob
from diwa_learning.policy.train import PolicyConfig, PolicyJob
from diwa_learning.reward.classifier import RewardConfig
from diwa_learning.reward.train import RewardJob
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.train import WorldModelJob

STAGES: dict[str, type[Job]] = {
    "world_model": WorldModelJob,
    "ensemble": EnsembleJob,
    "policy": PolicyJob,
    "reward": RewardJob,
    "finetune": FinetuneJob,
}
SHARED = ("world_model", "ensemble")
"""Stages that serve all skills, and take several datasets."""


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of earlier stages; empty = where `folder` says that they are."""

    world_model: str = ""
    """Checkpoint of stage world_model."""
    policy: str = ""
    """Checkpoint of stage policy."""
    reward: str = ""
    """Checkpoint of stage reward."""
    ensemble: str = ""
    """Checkpoint of stage ensemble; used only where fine-tuning needs one (`FinetuneConfig.needs_ensemble`)."""


@dataclass(frozen=True)
class TrainConfig:
    """A stage of training, its data and its settings."""

    stage: str = ""
    """Stage to train: world_model, ensemble, policy, reward or finetune."""
    preset: str = DEFAULT_PRESET
    """Shipped preset whose settings the stages start from."""
    dataset: str = ""
    """HDF5 files of `diwa build-dataset`, separated by commas or spaces (world_model, ensemble).
    The other stages take one file of demonstrations."""
    attempts: str = ""
    """HDF5 files of demonstrations whose failed attempts the world model also learns from (world_model)."""
    play: str = ""
    """HDF5 file of play, for more negatives (reward) or start states (finetune)."""
    play_marks: str = ""
    """CSV file that says when the skill is done in play (reward); empty = there are no marks."""
    skill: str = ""
    """Skill that the demonstrations must show; empty = whichever they show."""
    out: str = ""
    """Checkpoint folder, in which an interrupted training continues; empty = `folder`."""
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    """Checkpoints of earlier stages."""
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    """Settings of stage world_model."""
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    """Settings of stage ensemble."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Settings of stage policy."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """Settings of stage reward."""
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Settings of stage finetune."""


def train_config(given: Mapping[str, Any], where: str) -> TrainConfig:
    """`given`, nested plain values, over the preset named in it; `where` names their source in errors.

    Sections of the configuration that belong to other commands are left out, so that a whole preset may be given.
    """
    given = renamed(given, where)
    for nested in ("stage", "checkpoints"):
        if isinstance(value := given.get(nested), dict):
            given[nested] = renamed(value, f"{where}: {nested}")
        elif value in RENAMED:
            given[nested] = next(iter(renamed({value: ""}, f"{where}: {nested}")))
    fields = {one.name for one in dataclasses.fields(TrainConfig)}
    own = {key: value for key, value in given.items() if key in fields or key not in SECTIONS}
    preset = load_parameters(str(own.get("preset", DEFAULT_PRESET)))
    shipped = {stage: preset[stage] for stage in STAGES if stage in preset}
    return from_mapping(TrainConfig, merged(shipped, own), where)


def train(config: TrainConfig) -> Path:
    """Train one stage; the folder of its checkpoint. An interrupted training in it continues.

    Raises `DiwaError` for an unknown stage, missing, superfluous or unfitting inputs, and as the stages do.
    """
    require_inputs(config)
    datasets = tuple(paths(config.dataset))
    skill = "" if config.stage in SHARED else demonstrated_skill(datasets[0], config.skill)
    inputs: dict[str, Any] = {
        stage: expanded(given) if given else folder(stage, skill) for stage, given in vars(config.checkpoints).items()
    }
    if not (config.checkpoints.ensemble or config.finetune.needs_ensemble):
        inputs["ensemble"] = None
    inputs |= {"datasets": datasets, "demonstrations": datasets[0], "config": getattr(config, config.stage)}
    inputs["attempts"] = tuple(paths(config.attempts))
    for name in ("play", "play_marks"):
        inputs[name] = expanded(getattr(config, name)) if getattr(config, name) else None
    inputs["out"] = expanded(config.out) if config.out else folder(config.stage, skill)
    job = STAGES[config.stage]
    job(**{name: inputs[name] for name in _fields(job)}).run()
    return inputs["out"]


def folder(stage: str, skill: str = "") -> Path:
    """Default folder of a checkpoint: `$DIWA_HOME/runs/world_model` or `ensemble`, or `$DIWA_HOME/runs/SKILL/STAGE`.

    The ensemble's is `guard` where version 0.1 made it.
    """
    runs = home() / "runs"
    if stage == "ensemble" and (runs / "guard").exists() and not (runs / stage).exists():
        return runs / "guard"
    return runs / stage if stage in SHARED else runs / skill / {"finetune": "finetuned"}.get(stage, stage)


def require_inputs(config: TrainConfig) -> None:
    """Raise `DiwaError` unless the stage exists and has been given a dataset, and nothing that it does not use."""
    if config.stage not in STAGES:
        raise unknown("stage", config.stage, STAGES)
    given = {"skill": config.skill, "world_model": "", "play": config.play, "play_marks": config.play_marks}
    given |= {"attempts": config.attempts}
    given |= vars(config.checkpoints)
    taken = [name for name in given if name in _fields(STAGES[config.stage])]
    taken = [*(["skill"] if config.stage not in SHARED else []), *taken]
    unused = [name for name, value in given.items() if value and name not in taken]
    if unused:
        uses = ", ".join(("dataset", *taken))
        raise DiwaError(f"stage {config.stage} has no use for {', '.join(unused)}: it takes {uses}")
    count = len(paths(config.dataset))
    if not count or (config.stage not in SHARED and count > 1):
        takes = "one or more files" if config.stage in SHARED else "one file with demonstrations of one skill"
        raise DiwaError(f"stage {config.stage} takes {takes} as dataset, given: {config.dataset or 'none'}")


def demonstrated_skill(demonstrations: Path, expected: str) -> str:
    """The skill of a dataset; `DiwaError` if it is another than `expected`, which may be empty."""
    skill = require_one_skill(load_dataset(demonstrations, images=False).episodes, demonstrations)
    if expected not in ("", skill):
        raise DiwaError(
            f"{demonstrations} holds demonstrations of {skill}, not of {expected}: give those, or set skill"
        )
    return skill


def paths(text: str) -> list[Path]:
    """Paths separated by commas or spaces; quotes keep both."""
    words = shlex.shlex(text, posix=True)
    words.whitespace_split, words.commenters = True, ""
    words.whitespace += ","
    try:
        return [expanded(word) for word in words]
    except ValueError as error:
        raise DiwaError(f"{text!r} is not a list of paths: {error}") from error


def _fields(job: Any) -> list[str]:
    return [one.name for one in dataclasses.fields(job)]
