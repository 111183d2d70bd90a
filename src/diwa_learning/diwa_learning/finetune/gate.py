"""The gate before fine-tuning: whether a world model can carry it, and if not, what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from diwa_data.config import Job
from diwa_data.dataset.dataset import Dataset, Episode, load_dataset, without_failures
from diwa_data.errors import DiwaError
from diwa_data.files import require_ours, write_json
from diwa_learning.core.checkpoint import read_header
from diwa_learning.core.device import compute_device
from diwa_learning.ensemble.disagreement import Ensemble
from diwa_learning.ensemble.train import load_ensemble
from diwa_learning.finetune.checks import (
    Check,
    CheckConfig,
    ensemble_checks,
    imagine,
    policy_check,
    reward_checks,
    world_model_checks,
)
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.finetune.start_states import start_states
from diwa_learning.policy.base import ChainPolicy
from diwa_learning.policy.checkpoint import load_pretrained
from diwa_learning.reward.train import LoadedReward, load_reward
from diwa_learning.world_model.model import WorldModel, load_world_model
from diwa_learning.world_model.replay import held_out_of

RESULT = "check.json"


@dataclass(frozen=True)
class Verdict:
    """All checks of a world model."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[Check]:
        """Why it is refused; none if it is not."""
        return [check for check in self.checks if check.decisive and not check.passed]

    @property
    def passed(self) -> bool:
        """Whether it can carry fine-tuning."""
        return not self.failed

    @property
    def refusal(self) -> str:
        """One line: the fault, and the cure."""
        cures = "; ".join(dict.fromkeys(check.cure for check in self.failed))
        return f"{'; '.join(check.problem for check in self.failed)}: {cures}"

    def as_json(self) -> dict[str, Any]:
        """Plain values for `check.json`."""
        reasons = [check.problem for check in self.failed]
        figures = {check.name: check.as_json() for check in self.checks}
        return {"verdict": "passed" if self.passed else "refused", "reasons": reasons, "figures": figures}

    def text(self) -> str:
        """A line for each check, and the verdict."""
        lines = []
        for check in self.checks:
            mark = "ok" if check.passed else "BAD" if check.decisive else "look"
            lines.append(f"  {mark:<5}{check.name:<22}{check.value:>8.3f}   {check.wanted}")
            lines += [] if check.passed else [f"       {check.problem}: {check.cure}"]
        return "\n".join([*lines, "passed" if self.passed else "refused: fine-tuning in its dreams would mislead"])


@dataclass(frozen=True)
class Evidence:
    """A world model, and what there is to judge it by."""

    model: WorldModel
    recordings: Sequence[Episode]
    """Play that its training did not see, or demonstrations where there is none."""
    demonstrations: Dataset | None = None
    """Demonstrations of a skill, with its failed attempts."""
    ensemble: Ensemble | None = None
    reward: LoadedReward | None = None
    policy: ChainPolicy | None = None
    """Before fine-tuning; its dreams need reward and demonstrations too."""


@torch.no_grad()
def judge(evidence: Evidence, config: CheckConfig, dream: DreamConfig) -> Verdict:
    """Do all checks for which there is evidence; the policy dreams as `dream` says, from fewer starts."""
    model, reward = evidence.model, evidence.reward
    attempts = evidence.demonstrations.episodes if evidence.demonstrations else []
    play = imagine(model, evidence.recordings, config)
    checks = list(world_model_checks(model, play, imagine(model, attempts, config) if attempts else None, config))
    if evidence.ensemble:
        checks += ensemble_checks(evidence.ensemble, play, config)
    if reward:
        reward.classifier.to(model.device)
        failed = [attempt for attempt in attempts if attempt.outcome == "fail"]
        checks += reward_checks(reward, model, play, failed, config)
    if evidence.policy:
        checks.append(policy_check(policy_success(evidence, config, dream), config))
    return Verdict(tuple(checks))


def policy_success(evidence: Evidence, config: CheckConfig, dream: DreamConfig) -> float:
    """Share of its dreams in which the policy succeeds."""
    model, reward, demonstrations = evidence.model, evidence.reward, evidence.demonstrations
    assert evidence.policy
    assert reward
    assert demonstrations
    shown = without_failures(demonstrations).episodes
    begin = replace(dream.starts, count=2 * config.dreams)
    starts = start_states(model, reward.classifier, shown, evidence.recordings, begin, config.seed)
    once = replace(dream, dreams=config.dreams, chunks=dream.horizon, reward="binary", penalty=0.0)
    rng = torch.Generator(model.device).manual_seed(config.seed)
    rollout = Dream(model, reward.classifier, starts, once, rng).rollout(evidence.policy.to(model.device))
    return float(rollout.success_rate(dream.horizon))


def held_out_recordings(world_model: Path, model: WorldModel, datasets: Sequence[Dataset]) -> list[Episode]:
    """Episodes of the first of the datasets that has some which the training of a world model did not see.

    Raises `DiwaError` if none has.
    """
    trained_on, config = read_header(world_model).get("inputs", {}).get("datasets", []), model.config
    for number, dataset in enumerate(datasets, 1):
        try:
            return held_out_of(dataset, trained_on, config.held_out, np.random.default_rng(config.seed))
        except DiwaError:
            if number == len(datasets):
                raise
    raise DiwaError("no recording to check the world model on: give --play or --demonstrations")


@dataclass(frozen=True)
class CheckJob(Job):
    """Check on recordings that its training did not see whether a world model can carry fine-tuning.

    With --ensemble, --reward, --policy and --demonstrations it checks more. The exit status is 1 if it refuses the
    world model.
    """

    command_name: ClassVar[str] = "check-world-model"
    section: ClassVar[str] = "check_world_model"

    world_model: Path
    """Checkpoint folder of `diwa train-world-model`."""
    play: Path
    """HDF5 file of play: its held-out episodes, if the model was trained on it, otherwise all."""
    out: Path | None = None
    """Folder to write check.json into."""
    ensemble: Path | None = None
    """Checkpoint folder of `diwa train-ensemble`."""
    reward: Path | None = None
    """Checkpoint folder of `diwa train-reward`."""
    policy: Path | None = None
    """Checkpoint folder of `diwa train-policy`; counts how often its dreams succeed.
    Needs --reward and --demonstrations."""
    demonstrations: Path | None = None
    """HDF5 file of the skill's demonstrations: dreams start from them, and failed attempts must not succeed."""
    config: CheckConfig = field(default_factory=CheckConfig)
    """Amounts."""

    def run(self) -> bool:
        """Check, and print the verdict; whether it passed."""
        if self.out:
            require_ours(self.out, "check", RESULT)
        verdict = check(self)
        if self.out:
            write_json(self.out / RESULT, {"world_model": str(self.world_model), **verdict.as_json()})
        print(verdict.text())
        return verdict.passed


def check(job: CheckJob) -> Verdict:
    """The verdict of a job. Raises `DiwaError` for anything missing, damaged or of another world model."""
    if job.policy and not (job.reward and job.demonstrations):
        raise DiwaError("--policy needs --reward, which judges its dreams, and --demonstrations, from which they start")
    world = load_world_model(job.world_model, compute_device())
    play = load_dataset(job.play, world.spec)
    evidence = Evidence(
        world.model,
        held_out_recordings(job.world_model, world.model, [play]),
        load_dataset(job.demonstrations, world.spec) if job.demonstrations else None,
        load_ensemble(job.ensemble, world.model, world.hash).ensemble if job.ensemble else None,
        load_reward(job.reward, world) if job.reward else None,
        load_pretrained(job.policy, world).policy if job.policy else None,
    )
    return judge(evidence, job.config, DreamConfig())
