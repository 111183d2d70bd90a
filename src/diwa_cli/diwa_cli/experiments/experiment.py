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
import torch
from scipy.stats import spearmanr

from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate, start_seeds, summary
from diwa_cli.evaluation.rollouts import Setting, tape_rollouts
from diwa_cli.experiments.degraded import DegradeConfig, degraded
from diwa_cli.figures import against_truth
from diwa_cli.run_folder import RunFolder, SweepFolder, find_run, write_text
from diwa_data.config import Job
from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_data.files import FolderLock, write_json
from diwa_learning.core.checkpoint import Checkpoint, is_finished, load_checkpoint
from diwa_learning.finetune.selection import before, scores
from diwa_learning.finetune.train import FinetuneConfig, FinetuneJob
from diwa_learning.reward.classifier import RewardConfig
from diwa_learning.reward.train import RewardJob, dreamt_success, load_reward, train_reward
from diwa_learning.world_model.latents import embed_clips, whole
from diwa_learning.world_model.model import load_world_model
from diwa_sim.table import SimConfig
from diwa_sim.tasks import is_done


@dataclass(frozen=True)
class ExperimentConfig:
    """Settings of `diwa experiment`."""

    clips: int = 16
    """Held-out clips that each world model imagines."""
    dreams: int = 16
    """Dreams of each rollout's actions."""
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    """How world models are made worse."""
    evaluate: EvaluateConfig = field(default_factory=partial(EvaluateConfig, seeds="tuning", videos=0))
    """Rollouts that measure success."""


@dataclass(frozen=True)
class ExperimentJob(Job):
    """Find out what limits the gain of a finished run.

    reward: fine-tune with a classifier that learned from the simulator's own labels. score: roll out every checkpoint,
    and see how well the offline score ranks them. degraded: do it all again on world models made worse on purpose.
    """

    command_name: ClassVar[str] = "experiment"
    section: ClassVar[str] = "experiment"
    positional: ClassVar[tuple[str, ...]] = ("name", "run_folder")

    name: Literal["reward", "score", "degraded"]
    """Which experiment."""
    run_folder: Path
    """Folder of a finished `diwa demo` or of one run of a sweep (SWEEP/SKILL/seed_N/alpha_A), for score of a sweep
    too; results go to `experiments/` in it."""
    config: ExperimentConfig = field(default_factory=ExperimentConfig)
    """Amounts."""
    sim: SimConfig = field(default_factory=SimConfig)
    """Our simulated table."""

    def run(self) -> None:
        """Do it, or continue; prints the folder with its numbers and pictures."""
        config, runs = self.config, finished_runs(self.run_folder, self.name != "score")
        out = self.run_folder / "experiments" / self.name
        with FolderLock(out):
            if self.name == "degraded":
                found = degraded(runs[0], out, config.degrade, config.clips, config.evaluate, self.sim)
            elif self.name == "reward":
                found = reward(runs[0], out, config, self.sim)
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
        raise DiwaError(f"{path} is no finished run: `diwa demo --out {path}` makes one")
    return finished


def reward(run: RunFolder, out: Path, config: ExperimentConfig, sim: SimConfig) -> dict[str, Any]:
    """The cost of the classifier's errors: its verdicts on dreams of real rollouts, and fine-tuning with a true one.

    The true one has the same form and learns from the same latents, labelled by the simulator.
    """
    tuned = load_checkpoint(run.finetuned, "finetune")
    settings = dataclasses.replace(load_checkpoint(run.reward, "reward").config_as(RewardConfig), kind="classifier")
    classifiers = {"classifier": run.reward, "true labels": out / "true_reward"}

    def truth(episode: Episode) -> np.ndarray:
        if episode.scene_state is None:
            raise DiwaError(f"episode {episode.name} has no scene_state: only simulated recordings know the truth")
        return is_done(tuned.skill, episode.scene_state[0], episode.scene_state)

    true_reward = classifiers["true labels"]
    job = RewardJob(run.demonstrations, run.world_model, true_reward, run.play, settings)
    train_reward(job, truth)
    again = tuned.config_as(FinetuneConfig)
    ensemble = run.ensemble if again.needs_ensemble else None
    files = (run.policy, true_reward, run.world_model, run.demonstrations, out / "finetuned", run.play, ensemble)
    FinetuneJob(*files, again).run()
    policies = {"base": run.policy, "classifier": run.finetuned, "true labels": out / "finetuned"}
    setting = Setting(tuned.skill, run.world_model, run.reward, config.evaluate.max_steps, config.evaluate.limits, sim)
    taped = tape_rollouts(run.policy, start_seeds(config.evaluate), setting)
    verdicts = {name: dream_verdicts(run, path, taped, config.dreams) for name, path in classifiers.items()}
    judged = dataclasses.replace(config.evaluate, skill=tuned.skill)
    found = summary(evaluate(policies, run.world_model, run.reward, out / "evaluation", judged, sim), judged)
    return {"verdicts": verdicts, "policies": found["policies"], "differences": found["differences"]}


def dream_verdicts(run: RunFolder, reward: Path, taped: Sequence[Episode], dreams: int) -> dict[str, Any]:
    """Dreams from the first frames of taped rollouts, under the actions that were executed.

    `precision` and `recall` of the classifier's verdict on a dream against the oracle's on the rollout.
    """
    world = load_world_model(run.world_model)
    loaded = load_reward(reward, world)
    context = loaded.checkpoint.config_as(RewardConfig).context
    clips = embed_clips(world.model, [whole(episode) for episode in taped])
    generator = torch.Generator().manual_seed(0)
    dreamt = dreamt_success(world.model, loaded.classifier, clips, context, dreams, generator).numpy()
    true = np.array([episode.success.any() for episode in taped])
    return {
        "true_success": float(true.mean()),
        "dreamt_success": float(dreamt.mean()),
        "precision": float(dreamt[true].sum() / max(dreamt.sum(), 1e-9)),
        "recall": float(dreamt[true].mean()) if true.any() else None,
        "rollouts": len(taped),
    }


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
    """Spearman's correlations with true success; None where one side is the same for all."""

    def correlation(values: Sequence[float]) -> float | None:
        if len(set(values)) < 2 or len(set(truth)) < 2:
            return None
        return round(float(spearmanr(values, truth).statistic), 3)

    truth = [one.truth for one in judged]
    return {
        "checkpoints": len(judged),
        "score": correlation([one.score for one in judged]),
        "dream_success": correlation([one.dream_success for one in judged]),
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
