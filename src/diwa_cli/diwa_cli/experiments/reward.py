"""`diwa experiment`: what limits the gain of a run, measured on its own files (docs/laptop.md).

Each leaves a folder with its numbers (result.json) and pictures in `<run>/experiments/`. They judge with the
simulator's oracle on the tuning seeds, and nothing of it reaches a run's policies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diwa_cli import figures as plots
from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate, start_seeds, summary
from diwa_cli.evaluation.rollouts import Setting, tape_rollouts
from diwa_cli.evaluation.world_model import EvaluateWorldModelConfig, evaluate_world_model
from diwa_cli.experiments import degraded as experiment_degraded
from diwa_cli.experiments import score as experiment_score
from diwa_cli.experiments.degraded import DegradeConfig
from diwa_cli.run_folder import RunFolder, SweptRun, read_json, write_text
from diwa_cli.statistics import SuccessRate
from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_data.files import write_json
from diwa_data.locks import FolderLock
from diwa_learning.core.checkpoint import is_finished, load_checkpoint
from diwa_learning.finetune.train import FinetuneConfig, FinetuneJob
from diwa_learning.reward.classifier import RewardConfig
from diwa_learning.reward.data import dreamt_success
from diwa_learning.reward.train import CHUNK, RewardJob, load_reward, train_rewards
from diwa_learning.world_model.checkpoint import load_world_model
from diwa_learning.world_model.latents import embed_clips, whole
from diwa_sim.table import SimConfig
from diwa_sim.tasks import is_done


@dataclass(frozen=True)
class ExperimentConfig:
    """`diwa experiment`: how much of it."""

    clips: int = 16
    """Held-out clips that the world model imagines."""
    alphas: tuple[float, ...] = (0.0, 0.5, 2.0)
    """Values of alpha_BC beside the run's own: none, and two large ones."""
    dreams: int = 16
    """Dreams of each rollout's actions."""
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    """How world models are made worse."""
    evaluate: EvaluateConfig = field(default_factory=partial(EvaluateConfig, seeds="tuning", videos=0))
    """Rollouts that judge."""


def world_model(run: RunFolder, out: Path, config: ExperimentConfig, sim: SimConfig) -> dict[str, Any]:
    """`diwa evaluate-world-model` on the run's play."""
    return evaluate_world_model(run.world_model, run.play, out, EvaluateWorldModelConfig(clips=config.clips))


def alpha_bc(run: RunFolder, out: Path, config: ExperimentConfig, sim: SimConfig) -> dict[str, Any]:
    """Fine-tune with other weights of the BC term: success in dreams, where it is maximised, against the truth."""
    mine = finetune_config(run)
    skill = load_checkpoint(run.finetuned, "finetune").skill
    policies = {"base": run.policy, f"{mine.alpha_for(skill):g}": run.finetuned}
    for alpha in (alpha for alpha in config.alphas if f"{alpha:g}" not in policies):
        path = out / f"alpha_{alpha:g}"
        finetune_again(run, run.reward, path, dataclasses.replace(mine, alpha_bc=alpha))
        policies[f"{alpha:g}"] = path
    policies = {name: policies[name] for name in ["base", *sorted(policies.keys() - {"base"}, key=float)]}
    judged = judge(run, run.reward, policies, out, skill, config, sim)
    dreams = {name: dream_success(path) for name, path in policies.items() if name != "base"}
    rates = {name: SuccessRate(p["successes"], p["rollouts"]) for name, p in judged["policies"].items()}
    write_text(out / "alpha_bc.svg", plots.dream_against_truth(dreams, rates, "alpha_BC"))
    return {"dreams": dreams, **judged}


def reward(run: RunFolder, out: Path, config: ExperimentConfig, sim: SimConfig) -> dict[str, Any]:
    """What the classifier costs: its verdicts on dreams of real rollouts, and fine-tuning with a true one.

    The true one has the same form and learns from the same latents, labelled by the simulator.
    """
    skill = load_checkpoint(run.finetuned, "finetune").skill
    settings = dataclasses.replace(load_checkpoint(run.reward, "reward").config_as(RewardConfig), kind="classifier")
    true_reward, tuned = out / "true_reward", out / "finetuned"

    def truth(episode: Episode) -> np.ndarray:
        if episode.scene_state is None:
            raise DiwaError(f"episode {episode.name} has no scene_state: only simulated recordings know the truth")
        return np.array([is_done(skill, state) for state in episode.scene_state])

    job = RewardJob(run.demonstrations, run.world_model, true_reward, run.play, settings)
    train_rewards([job], run.world_model, truth)
    finetune_again(run, true_reward, tuned, finetune_config(run))
    policies = {"base": run.policy, "classifier": run.finetuned, "true labels": tuned}
    setting = Setting(skill, run.world_model, run.reward, config.evaluate.max_steps, config.evaluate.limits, sim)
    taped = tape_rollouts(run.policy, start_seeds(config.evaluate), setting)
    verdicts = {
        "classifier": dream_verdicts(run, run.reward, taped, config),
        "true labels": dream_verdicts(run, true_reward, taped, config),
    }
    return {"verdicts": verdicts, **judge(run, run.reward, policies, out, skill, config, sim)}


def score(run: RunFolder, out: Path, config: ExperimentConfig, sim: SimConfig) -> dict[str, Any]:
    """How well the offline score ranks the checkpoints of a demo or sweep."""
    return experiment_score.score(run, out, config.evaluate, sim)


def degraded(run: RunFolder, out: Path, config: ExperimentConfig, sim: SimConfig) -> dict[str, Any]:
    """What breaks with a worse world model, and whether guard and score notice."""
    return experiment_degraded.degraded(run, out, config.degrade, config.clips, config.evaluate, sim)


EXPERIMENTS: dict[str, Callable[[RunFolder, Path, ExperimentConfig, SimConfig], dict[str, Any]]] = {
    "world-model": world_model,
    "alpha-bc": alpha_bc,
    "reward": reward,
    "score": score,
    "degraded": degraded,
}
"""Name -> experiment: the three that the method's notes ask for first, one for the score that chooses, and one that
makes the world model worse on purpose."""
OF_SWEEPS = ("world-model", "score")
"""Experiments that take a sweep as a whole."""


def experiment(name: str, run: Path, config: ExperimentConfig, sim: SimConfig) -> Path:
    """Do one experiment on what is finished in the folder `run`; an interrupted one continues. Returns its folder."""
    folder = finished_run(name, run)
    out = folder.path / "experiments" / name.replace("-", "_")
    with FolderLock(out):
        write_json(out / "result.json", EXPERIMENTS[name](folder, out, config, sim))
    return out


def finished_run(name: str, path: Path) -> RunFolder:
    """A demo, one run of a sweep, or for experiments on all runs or none of them a sweep. Raises `DiwaError` else."""
    folder = RunFolder(path)
    if (
        path.is_dir()
        and len(path.resolve().parts) > 3
        and SweptRun(path).sweep.is_sweep
        and is_finished(folder.finetuned)
    ):
        return SweptRun(path)
    if read_json(folder.results) is None:
        raise DiwaError(f"{path} is no finished run: `diwa demo --out {path}` makes one")
    if folder.is_sweep and name not in OF_SWEEPS:
        example = min(path.glob("*/seed_*/alpha_*"), default=path / "SKILL" / "seed_N" / "alpha_A")
        raise DiwaError(f"{path} is a sweep: name one of its runs, such as {example}")
    return folder


def dream_verdicts(
    run: RunFolder, classifier: Path, taped: Sequence[Episode], config: ExperimentConfig
) -> dict[str, Any]:
    """Dreams from the first frames of taped rollouts, under the actions that were executed.

    `precision` and `recall` of the classifier's verdict on a dream against the oracle's on the rollout.
    """
    world = load_world_model(run.world_model)
    judge = load_reward(classifier, world)
    context = judge.checkpoint.config_as(RewardConfig).context
    clips = embed_clips(world.model, [whole(episode) for episode in taped])
    generator = torch.Generator().manual_seed(0)
    dreamt = dreamt_success(world.model, judge.classifier, clips, context, CHUNK, config.dreams, generator).numpy()
    true = np.array([episode.success.any() for episode in taped])
    return {
        "true_success": float(true.mean()),
        "dreamt_success": float(dreamt.mean()),
        "precision": float(dreamt[true].sum() / max(dreamt.sum(), 1e-9)),
        "recall": float(dreamt[true].mean()) if true.any() else None,
        "rollouts": len(taped),
    }


def finetune_config(run: RunFolder) -> FinetuneConfig:
    """With which the run's policy was fine-tuned."""
    return load_checkpoint(run.finetuned, "finetune").config_as(FinetuneConfig)


def finetune_again(run: RunFolder, reward: Path, out: Path, config: FinetuneConfig) -> None:
    """Fine-tune the run's base policy, on the run's data and models, with another classifier or configuration."""
    guard = run.guard if config.needs_guard else None
    files = (run.policy, reward, run.world_model, run.demonstrations, out, run.play, guard)
    FinetuneJob(*files, config).run()


def judge(
    run: RunFolder,
    classifier: Path,
    policies: dict[str, Path],
    out: Path,
    skill: str,
    config: ExperimentConfig,
    sim: SimConfig,
) -> dict[str, Any]:
    """True success of policies on the same starts."""
    setting = dataclasses.replace(config.evaluate, skill=skill)
    found = summary(evaluate(policies, run.world_model, classifier, out / "evaluation", setting, sim), setting)
    return {key: found[key] for key in ("policies", "differences")}


def dream_success(finetuned: Path, last: int = 10) -> float:
    """Mean success in the dreams of the last iterations."""
    history = load_checkpoint(finetuned, "finetune").metrics["history"]["dream_success"]
    return float(np.mean([value for _, value in history[-last:]]))
