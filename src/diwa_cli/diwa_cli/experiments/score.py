"""`diwa experiment score`: how well the offline score ranks checkpoints, and what choosing by it gains."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate
from diwa_cli.figures import against_truth
from diwa_cli.run_folder import RunFolder, write_text
from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import Checkpoint, load_checkpoint
from diwa_learning.finetune.selection import before, scores
from diwa_learning.finetune.train import FinetuneConfig
from diwa_sim.table import SimConfig


@dataclass(frozen=True)
class Judged:
    """A checkpoint: what its dreams say of it, and how often it succeeds in the simulator; fractions."""

    run: str
    skill: str
    iteration: int
    """0 for the policy before fine-tuning."""
    dream_success: float
    score: float
    truth: float


def score(run: RunFolder, out: Path, config: EvaluateConfig, sim: SimConfig) -> dict[str, Any]:
    """Roll out every kept checkpoint of a demo, or of all runs of a sweep, on the same tuning starts.

    Returns Spearman's rank correlations with true success, the mean success of the checkpoints that fine-tuning chose,
    of the last ones and of the best, and every checkpoint.
    """
    found = list(finetunings(run))
    if not found:
        raise DiwaError(f"{run.path} holds no fine-tuning whose dreams had a guard: set finetune.result to best")
    judged: list[Judged] = []
    chosen: dict[str, int] = {}
    for name, trained, finetuned in found:
        checkpoint = load_checkpoint(finetuned, "finetune")
        chosen[name] = checkpoint.metrics["iteration"]
        paths = {int(path.name): path for path in sorted((finetuned / "iterations").iterdir())}
        dreams = dreamt(checkpoint, list(paths))
        policies = {f"{n}": trained.policy if n == 0 else paths[n] for n in dreams}
        skill = checkpoint.skill
        setting = dataclasses.replace(config, skill=skill)
        result = evaluate(policies, run.world_model, trained.reward, out / "evaluation" / name, setting, sim)
        judged += [Judged(name, skill, n, *dreams[n], result.rate(f"{n}").rate) for n in dreams]
    write_text(out / "score.svg", drawing(judged))
    return {**ranking(judged), **selection(judged, chosen), "checkpoints": [dataclasses.asdict(one) for one in judged]}


def finetunings(run: RunFolder) -> Iterator[tuple[str, RunFolder, Path]]:
    """(name, folder of its base and classifier, its checkpoint) of each run of a demo or sweep that was scored."""
    places = [("run", run, run.finetuned)]
    for path in sorted(run.path.glob("*/seed_*/alpha_*/finetuned")):
        places.append((str(path.parent.relative_to(run.path)), RunFolder(path.parents[1]), path))
    for name, trained, finetuned in places:
        if finetuned.is_dir() and "scores" in load_checkpoint(finetuned, "finetune").metrics:
            yield name, trained, finetuned


def dreamt(checkpoint: Checkpoint, kept: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Iterations done -> dream success and score, of the base (0) and of every policy that is not the base any more."""
    first, curves = checkpoint.config_as(FinetuneConfig).base_iterations, checkpoint.metrics["history"]
    success, score = [value for _, value in curves["dream_success"]], scores(curves, first)
    found = {n: (before(success, n), before(score, n)) for n in kept if n >= first}
    return {0: (float(np.mean(success[:first])), float(np.mean(score[:first])))} | found


def ranking(judged: Sequence[Judged]) -> dict[str, Any]:
    """Spearman's correlations with true success over all checkpoints, and over those of fine-tuning alone."""
    found: dict[str, Any] = {}
    for name, some in (("all", judged), ("fine-tuned", [one for one in judged if one.iteration])):
        truth = [one.truth for one in some]
        found[name] = {
            "checkpoints": len(some),
            "score": correlation([one.score for one in some], truth),
            "dream_success": correlation([one.dream_success for one in some], truth),
        }
    return {"spearman": found}


def selection(judged: Sequence[Judged], chosen: dict[str, int]) -> dict[str, Any]:
    """Mean true success over runs, percent."""
    runs: dict[str, dict[int, float]] = defaultdict(dict)
    for one in judged:
        runs[one.run][one.iteration] = one.truth
    means = {
        "base": [truth[0] for truth in runs.values()],
        "chosen": [truth[chosen[name]] for name, truth in runs.items()],
        "last": [truth[max(truth)] for truth in runs.values()],
        "best": [max(truth.values()) for truth in runs.values()],
    }
    return {"success": {name: round(100 * float(np.mean(values)), 1) for name, values in means.items()}}


def drawing(judged: Sequence[Judged]) -> str:
    """Every checkpoint by dream success and by score, against the truth."""
    truth = [100 * one.truth for one in judged]
    skills = [one.skill for one in judged]
    panels = {
        "success in dreams, %": [100 * one.dream_success for one in judged],
        "offline score": [one.score for one in judged],
    }
    return against_truth(panels, truth, skills)


def correlation(values: Sequence[float], truth: Sequence[float]) -> float | None:
    """Spearman's; None where one side is the same for all."""
    if len(set(values)) < 2 or len(set(truth)) < 2:
        return None
    return round(float(spearmanr(values, truth).statistic), 3)
