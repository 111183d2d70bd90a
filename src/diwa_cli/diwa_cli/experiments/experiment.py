"""`diwa experiment`: what limits the gain of a run, measured on its own files (docs/laptop.md).

Each experiment leaves its numbers (result.json) and pictures in `<run>/experiments/`. The simulator's oracle judges, on
the tuning seeds; nothing of it reaches a run's policies.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.stats import spearmanr

from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate
from diwa_cli.experiments.degraded import DegradeConfig, degraded
from diwa_cli.experiments.reward import judge_tapes, reward
from diwa_cli.figures import against_truth
from diwa_cli.run_folder import RunFolder, SweepFolder, find_run, write_text
from diwa_data.config import Job
from diwa_data.errors import DiwaError
from diwa_data.files import FolderLock, write_json
from diwa_learning.core.checkpoint import Checkpoint, is_finished, load_checkpoint
from diwa_learning.finetune.selection import before, scores
from diwa_learning.finetune.train import FinetuneConfig
from diwa_sim.table import SimConfig

SPREAD = 0.05
"""Least difference in true success between checkpoints of a skill from which they can be ranked; a fraction."""
RESAMPLES = 2000
"""Draws of the skills for the interval of a correlation."""


@dataclass(frozen=True)
class ExperimentConfig:
    """Settings of `diwa experiment`."""

    clips: int = 16
    """Held-out clips that each world model imagines."""
    dreams: int = 16
    """Number of dreams under each rollout's actions."""
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    """Ways in which world models are made worse."""
    evaluate: EvaluateConfig = field(default_factory=partial(EvaluateConfig, seeds="tuning", videos=0))
    """Rollouts that measure success."""


@dataclass(frozen=True)
class ExperimentJob(Job):
    """Find out what limits the gain of a finished run.

    - reward: fine-tune with a classifier that learned from the simulator's own labels. With --tapes, only count how
      often that classifier and the run's own are wrong in these rollouts.
    - score: roll out every checkpoint, and measure how well the offline score ranks them.
    - degraded: repeat everything on world models made worse on purpose.
    """

    command_name: ClassVar[str] = "experiment"
    section: ClassVar[str] = "experiment"
    positional: ClassVar[tuple[str, ...]] = ("name", "run_folder")

    name: Literal["reward", "score", "degraded"]
    """Experiment to run."""
    run_folder: Path
    """Folder of a finished `diwa demo`, or of one run of a sweep (SWEEP/SKILL/seed_N/alpha_A); for score a sweep too.
    Results go to `experiments/` in it."""
    tapes: tuple[Path, ...] = ()
    """For reward: rollouts of the skill's policies, as `diwa evaluate --tapes` keeps them in rollouts.h5.
    Then nothing is rolled out or fine-tuned."""
    classifier: Path | None = None
    """For reward with --tapes: checkpoint of `diwa train-reward` to judge instead of the run's own."""
    config: ExperimentConfig = field(default_factory=ExperimentConfig)
    """Amounts."""
    sim: SimConfig = field(default_factory=SimConfig)
    """Our simulated table."""

    def run(self) -> None:
        """Do it, or continue; prints the folder with its numbers and pictures."""
        config, runs = self.config, finished_runs(self.run_folder, self.name != "score")
        if (self.tapes or self.classifier) and (self.name != "reward" or not self.tapes):
            raise DiwaError("--tapes works with `diwa experiment reward` alone, and --classifier with --tapes alone")
        out = self.run_folder / "experiments" / ("tapes" if self.tapes else self.name)
        with FolderLock(out):
            if self.name == "degraded":
                found = degraded(runs[0], out, config.degrade, config.clips, config.evaluate, self.sim)
            elif self.tapes:
                found = judge_tapes(runs[0], self.tapes, self.classifier or runs[0].reward, out)
            elif self.name == "reward":
                found = reward(runs[0], out, config.dreams, config.evaluate, self.sim)
            else:
                found = score(runs, out, config, self.sim)
            write_json(out / "result.json", found)
        print(out)


def finished_runs(path: Path, alone: bool) -> list[RunFolder]:
    """The run in a folder, or if it need not be `alone` those of a sweep. Raises `DiwaError` for anything else."""
    folder = SweepFolder(path)
    runs = [find_run(path)] if alone or not folder.is_sweep else folder.runs()
    finished = [run for run in runs if is_finished(run.finetuned)]
    if not finished:
        raise DiwaError(f"{path} is not a finished run: `diwa demo --out {path}` makes one")
    return finished


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


def score(runs: Sequence[RunFolder], out: Path, config: ExperimentConfig, sim: SimConfig) -> dict[str, Any]:
    """Roll out every kept checkpoint of a demo, or of all runs of a sweep, on the same tuning starts.

    Returns Spearman's rank correlations with true success, the mean success of the checkpoints that fine-tuning chose,
    of the last ones and of the best, and every checkpoint.
    """
    judged: list[Judged] = []
    chosen: dict[str, int] = {}
    for run in runs:
        name, checkpoint = run.run.name, load_checkpoint(run.finetuned, "finetune")
        if "scores" not in checkpoint.metrics:
            continue
        chosen[name] = checkpoint.metrics["iteration"]
        paths = {int(path.name): path for path in sorted((checkpoint.path / "iterations").iterdir())}
        dreams = dreamt(checkpoint, list(paths))
        policies = {f"{n}": run.policy if n == 0 else paths[n] for n in dreams}
        setting = dataclasses.replace(config.evaluate, skill=checkpoint.skill)
        result = evaluate(policies, run.world_model, run.reward, out / "evaluation" / name, setting, sim)
        judged += [Judged(name, setting.skill, n, *dreams[n], result.rate(f"{n}").rate) for n in dreams]
    if not judged:
        raise DiwaError(
            f"{out.parents[1]} holds no fine-tuning whose dreams had an ensemble: set finetune.result to best"
        )
    panels = {
        "success in dreams, %": [100 * one.dream_success for one in judged],
        "offline score": [one.score for one in judged],
    }
    drawing = against_truth(panels, [100 * one.truth for one in judged], [one.skill for one in judged])
    write_text(out / "score.svg", drawing)
    return {
        "spearman": {"all": ranking(judged), "fine-tuned": ranking([one for one in judged if one.iteration])},
        "success": selection(judged, chosen),
        "checkpoints": [dataclasses.asdict(one) for one in judged],
    }


def dreamt(checkpoint: Checkpoint, kept: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Iterations done -> dream success and score, of the base (0) and of every policy that is not the base any more."""
    first, curves = checkpoint.config_as(FinetuneConfig).base_iterations, checkpoint.metrics["history"]
    success, score = [value for _, value in curves["dream_success"]], scores(curves, first)
    found = {n: (before(success, n), before(score, n)) for n in kept if n >= first}
    return {0: (float(np.mean(success[:first])), float(np.mean(score[:first])))} | found


def ranking(judged: Sequence[Judged]) -> dict[str, Any]:
    """Spearman's correlations with true success, all values centred within their skill, and 95 % intervals.

    Skills whose true success spreads by less than `SPREAD` are listed and not counted: there is nothing to rank.
    Intervals are by bootstrap over skills; None for fewer than two of them, and for a correlation where one side is the
    same for all.
    """
    by_skill: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        by_skill[one.skill].append(one)
    counted = sorted(skill for skill, some in by_skill.items() if np.ptp([one.truth for one in some]) >= SPREAD)

    def centred(name: str, skill: str) -> np.ndarray:
        values = np.array([getattr(one, name) for one in by_skill[skill]])
        return (values - values.mean()).round(9)  # ties stay ties

    def correlated(name: str) -> dict[str, Any]:
        pairs = [np.stack([centred("truth", skill), centred(name, skill)]) for skill in counted]

        def correlation(chosen: np.ndarray) -> float:
            one, other = np.concatenate([pairs[index] for index in chosen], axis=1)
            return float(spearmanr(one, other).statistic) if np.ptp(one) and np.ptp(other) else float("nan")

        if not pairs or np.isnan(found := correlation(np.arange(len(pairs)))):
            return {"spearman": None, "interval": None}
        interval = None
        if len(pairs) > 1:
            indices, rng = np.arange(len(pairs)), np.random.default_rng(0)
            drawn = [correlation(rng.choice(indices, len(indices))) for _ in range(RESAMPLES)]
            interval = [round(float(edge), 3) for edge in np.nanpercentile(drawn, (2.5, 97.5))]
        return {"spearman": round(found, 3), "interval": interval}

    return {
        "checkpoints": sum(len(by_skill[skill]) for skill in counted),
        "skills": counted,
        "not_counted": sorted(set(by_skill) - set(counted)),
        "score": correlated("score"),
        "dream_success": correlated("dream_success"),
    }


def selection(judged: Sequence[Judged], chosen: dict[str, int]) -> dict[str, float]:
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
    return {name: round(100 * float(np.mean(values)), 1) for name, values in means.items()}
