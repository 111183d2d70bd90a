"""`diwa experiment reward`: errors of a run's success classifier, and of one that learned from the simulator's labels.

The second has the same form, learns from the same frames and judges as on a robot (`reward.on_robot`): what it gets
wrong is not the labels' fault.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diwa_cli.evaluation.deployment import Declared
from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate, start_seeds, summary
from diwa_cli.evaluation.rollouts import Setting, tape_rollouts
from diwa_cli.run_folder import RunFolder
from diwa_data.dataset.dataset import Episode, load_dataset, require_one_skill
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import load_checkpoint, read_spec
from diwa_learning.finetune.train import FinetuneConfig, FinetuneJob
from diwa_learning.reward.calibration import dreamt_success
from diwa_learning.reward.classifier import RewardConfig, SuccessClassifier
from diwa_learning.reward.train import RewardJob, load_reward, train_reward
from diwa_learning.world_model.latents import embed_clips, filtered_states, whole
from diwa_learning.world_model.model import WorldModel, load_world_model
from diwa_sim.environments import is_done
from diwa_sim.table import SimConfig

TOGETHER = 64
"""Rollouts that are filtered at a time."""


def judge_tapes(run: RunFolder, tapes: Sequence[Path], reward: Path, out: Path) -> dict[str, Any]:
    """How often a classifier, and the one with true labels, are wrong in taped rollouts; a row for each policy.

    The rollouts' frames are filtered by the run's world model, once, from each first one on. Raises `DiwaError` for
    recordings that are not rollouts of the classifier's skill.
    """
    world = load_world_model(run.world_model)
    loaded = load_reward(reward, world)
    episodes = read_tapes(tapes, loaded.skill, world.spec)
    true_reward = out / "true_reward"
    train_true_reward(run, loaded.skill, true_reward)
    classifiers = {"classifier": loaded.classifier, "ceiling": load_reward(true_reward, world).classifier}
    probabilities = filtered_probabilities(world.model, classifiers, episodes)
    policies = [str(episode.attributes["policy"]) for episode in episodes]
    rows = []
    for policy in [*dict.fromkeys(policies), *(["all"] if len(set(policies)) > 1 else [])]:
        mine = [index for index, name in enumerate(policies) if policy in (name, "all")]
        found = {
            name: Declared.of(
                [episodes[index] for index in mine],
                [probabilities[name][index] for index in mine],
                float(classifier.threshold),
                classifier.success_ticks,
            )
            for name, classifier in classifiers.items()
        }
        rows.append(row(loaded.skill, policy, found["classifier"], found["ceiling"]))
        for name, one in found.items():
            print(f"{policy}, {name}: {one.text()}")
    return {"rows": rows, "thresholds": {name: float(one.threshold) for name, one in classifiers.items()}}


def row(skill: str, policy: str, found: Declared, ceiling: Declared) -> dict[str, Any]:
    """Errors of the classifier and of the ceiling in the rollouts of a policy: fractions, and their counts."""
    mine, best = found.summary(), ceiling.summary()
    return {
        "skill": skill,
        "policy": policy,
        "failed_rollouts": found.failed,
        "false_success": mine["false_success"]["rate"],
        "missed_success": mine["missed"]["rate"],
        "ceiling_false_success": best["false_success"]["rate"],
        "ceiling_missed_success": best["missed"]["rate"],
        "classifier": mine,
        "ceiling": best,
    }


def read_tapes(tapes: Sequence[Path], skill: str, spec: Spec) -> list[Episode]:
    """The rollouts in these files. Raises `DiwaError` if one is of another skill, or is not a rollout of a policy."""
    episodes = []
    for path in tapes:
        some = load_dataset(path, spec).episodes
        if (shown := require_one_skill(some, path)) != skill:
            raise DiwaError(f"{path} holds rollouts of {shown}, but the classifier is for {skill}: give others")
        if unnamed := [each.name for each in some if "policy" not in each.attributes]:
            raise DiwaError(
                f"{path}: episode {unnamed[0]} is not a rollout of a policy: give one of `diwa evaluate --tapes`"
            )
        episodes += some
    return episodes


@torch.no_grad()
def filtered_probabilities(
    model: WorldModel, classifiers: Mapping[str, SuccessClassifier], episodes: Sequence[Episode]
) -> dict[str, list[np.ndarray]]:
    """Each classifier's probability of success (T,) at every frame of each episode, filtered from its first."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in classifiers}
    generator = torch.Generator().manual_seed(0)
    for first in range(0, len(episodes), TOGETHER):
        some = episodes[first : first + TOGETHER]
        clips = embed_clips(model, [whole(episode) for episode in some])
        features = filtered_states(model, clips, model.rssm.noise(*clips.valid.shape, rng=generator)).features
        for name, classifier in classifiers.items():
            probability = classifier.seen_probability(features, model.pictures(clips.embeds)).numpy()
            found[name] += [each[: len(episode)] for each, episode in zip(probability, some, strict=True)]
    return found


def train_true_reward(run: RunFolder, skill: str, out: Path) -> None:
    """Train a classifier like the run's on labels of the simulator, or find it in `out`."""
    settings = dataclasses.replace(load_checkpoint(run.reward, "reward").config_as(RewardConfig), kind="classifier")
    names = read_spec(run.world_model).scene_state

    def truth(episode: Episode) -> np.ndarray:
        if episode.scene_state is None:
            raise DiwaError(f"episode {episode.name} has no scene_state: give recordings of the simulated robot")
        return is_done(skill, episode.scene_state[0], episode.scene_state, names)

    train_reward(RewardJob(run.demonstrations, run.world_model, out, run.play, settings), truth)


def reward(run: RunFolder, out: Path, dreams: int, evaluation: EvaluateConfig, sim: SimConfig) -> dict[str, Any]:
    """The cost of the classifier's errors: its verdicts on dreams of real rollouts, and fine-tuning with a true one.

    The true one has the same form and learns from the same latents, labelled by the simulator.
    """
    tuned = load_checkpoint(run.finetuned, "finetune")
    true_reward = out / "true_reward"
    train_true_reward(run, tuned.skill, true_reward)
    classifiers = {"classifier": run.reward, "true labels": true_reward}
    again = tuned.config_as(FinetuneConfig)
    ensemble = run.ensemble if again.needs_ensemble else None
    files = (run.policy, true_reward, run.world_model, run.demonstrations, out / "finetuned", run.play, ensemble)
    FinetuneJob(*files, again).run()
    policies = {"base": run.policy, "classifier": run.finetuned, "true labels": out / "finetuned"}
    setting = Setting(
        tuned.skill, run.world_model, run.reward, evaluation.max_steps, evaluation.limits, evaluation.chosen(sim)
    )
    taped = tape_rollouts(run.policy, start_seeds(evaluation), setting)
    verdicts = {name: dream_verdicts(run, path, taped, dreams) for name, path in classifiers.items()}
    judged = dataclasses.replace(evaluation, skill=tuned.skill)
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
