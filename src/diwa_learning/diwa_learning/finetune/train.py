"""Phase 4: fine-tune the policy with PPO inside the world model (paper, Algorithm 1)."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from diwa_data.config import Job
from diwa_data.dataset.dataset import Dataset, load_dataset, require_one_skill, without_failures
from diwa_data.errors import DiwaError
from diwa_data.files import write_json
from diwa_learning.core.checkpoint import CONFIG
from diwa_learning.core.device import compute_device
from diwa_learning.core.run import Curves, TrainingRun, require_run_folder
from diwa_learning.ensemble.train import LoadedEnsemble, load_ensemble
from diwa_learning.finetune.checks import CheckConfig
from diwa_learning.finetune.gate import RESULT, Evidence, Verdict, held_out_recordings, judge
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.finetune.learner import BCWeight, Learner, PPOConfig
from diwa_learning.finetune.selection import Choice, choose, finish, is_due, keep_if_due, scores
from diwa_learning.finetune.start_states import start_states
from diwa_learning.policy.checkpoint import LoadedPolicy, describe, load_pretrained
from diwa_learning.reward.train import LoadedReward, load_reward
from diwa_learning.world_model.model import LoadedWorldModel, load_world_model
from diwa_learning.world_model.replay import fingerprint
from diwa_learning.world_model.rssm import State

ALPHA_BC = 0.05
"""alpha_BC of a skill for which the configuration has no other."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning in dreams; the defaults are the paper's (Table S.5) and those of docs/method.md."""

    dream: DreamConfig = field(default_factory=DreamConfig)
    """Number and length of dreams, reward and start states."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Settings of the PPO updates."""
    iterations: int = 694
    """Rounds of dreaming and updating; the paper's are 694 in simulation, 278 on the robot."""
    critic_warmup: int = 5
    """First iterations, for the critic only."""
    gate: Literal["off", "warn", "refuse"] = "off"
    """Check the world model first; if it fails, `refuse` or only `warn`."""
    alpha_bc: float | None = None
    """Weight of KL(pi_pre || pi_theta); none = the skill's in `alpha_bc_of` or 0.05; 0 = off."""
    alpha_bc_of: MutableMapping[str, float] = field(
        default_factory=dict
    )  # as a flag, a dict has its default's keys only
    """Skills that need another weight than 0.05."""
    target_kl: float | None = None
    """Adjust alpha_BC after every iteration towards this KL(pi_pre || pi_theta); none = keep it."""
    checkpoint_every: int = 50
    """Iterations between policy checkpoints."""
    result: Literal["last", "best"] = "last"
    """Result: the last checkpoint, or the one with the best offline score (needs --ensemble)."""
    patience: int = 0
    """With `best`: stop after this many checkpoints without a better score; 0 = never."""
    save_every: int = 20
    """Iterations between resumable saves."""
    seed: int = 0
    """Seed of starts, critic and dreams."""

    @staticmethod
    def gathered(values: dict[str, Any], where: str) -> dict[str, Any]:
        """Its fields in a file: YAML reads a plain `gate: off` as false."""
        return {**values, "gate": "off"} if values.get("gate") is False else values

    @property
    def base_iterations(self) -> int:
        """First iterations, which dream the base policy: the warm-up, and the one before the actor's first update."""
        return self.critic_warmup + 1

    @property
    def needs_ensemble(self) -> bool:
        """Whether dreams pay for its deviation, or it chooses among checkpoints."""
        return self.dream.penalty > 0 or self.result == "best"

    def alpha_for(self, skill: str) -> float:
        """alpha_BC of a skill."""
        return self.alpha_bc_of.get(skill, ALPHA_BC) if self.alpha_bc is None else self.alpha_bc


@dataclass(frozen=True)
class FinetuneJob(Job):
    """Fine-tune a policy by PPO in a world model's dreams, without robot or simulator."""

    command_name: ClassVar[str] = "finetune"
    section: ClassVar[str] = "finetune"

    policy: Path
    """Checkpoint of `diwa train-policy`."""
    reward: Path
    """Checkpoint of `diwa train-reward`."""
    world_model: Path
    """Checkpoint of `diwa train-world-model`."""
    demonstrations: Path
    """HDF5 file of demonstrations: dreams start from those that did not fail."""
    out: Path
    """Output folder; interrupted runs continue."""
    play: Path | None = None
    """HDF5 file; dreams start from play too."""
    ensemble: Path | None = None
    """Checkpoint of `diwa train-ensemble`; lets dreams avoid guesses."""
    config: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Sizes and schedule."""

    def run(self) -> None:
        """Fine-tune, or continue; leaves a `finetune` checkpoint that holds the frozen and the trained policy."""
        finetune(self)


def finetune(job: FinetuneJob) -> None:
    """Fine-tune a policy in dreams; leaves a `finetune` checkpoint that holds the frozen and the trained policy.

    Raises `DiwaError` naming the input that is of another spec, world model, skill or phase.
    """
    require_run_folder(job.out)
    config, loaded = job.config, load(job)
    world, policy = loaded.world, loaded.policy
    verdict = None if (job.out / CONFIG).exists() else pass_gate(job, loaded)  # one that has begun has passed
    with TrainingRun(job.out, "finetune", config, world.spec, world.hash, loaded.inputs()) as run:
        if run.finished:
            return
        if verdict:
            write_json(job.out / RESULT, verdict.as_json())
        rng = torch.Generator(world.model.device).manual_seed(config.seed)
        starts, classifier, ensemble = loaded.start_states(config), loaded.reward.classifier, loaded.ensemble
        dream = Dream(world.model, classifier, starts, config.dream, rng, ensemble.ensemble if ensemble else None)
        bc_weight = BCWeight(config.alpha_for(policy.skill), config.target_kl)
        features, exploration = world.model.feature_dim, config.dream.exploration
        learner = Learner(policy.policy, features, config.ppo, exploration, bc_weight, rng)
        del loaded  # the recordings: dreams need no more than their start states
        run.track(**learner.parts(), draws=rng)

        about = describe(policy.net, policy.skill, learner.policy.trained_steps)
        actions = config.dream.dreams * config.dream.chunks * policy.net.chunk
        for iteration in run.steps(config.iterations, "imagined actions", actions):
            if (choice := best(run.history, iteration, config)) and choice.settled:
                break
            rollout = dream.rollout(learner.policy)
            metrics = learner.update(rollout, train_actor=iteration >= config.critic_warmup)
            metrics = {**rollout.summary("dream", config.dream.horizon), **metrics}
            run.log(iteration, {**metrics, "imagined_actions": (iteration + 1) * actions})
            keep_if_due(run, learner.policy, about, iteration + 1)
        about |= {"start_states": len(starts.h), "imagined_actions": actions * run.step}
        finish(run, learner, about, best(run.history, run.step, config))


@dataclass(frozen=True)
class Loaded:
    """The inputs of a fine-tuning; all are of one world model, and of one skill."""

    world: LoadedWorldModel
    policy: LoadedPolicy
    reward: LoadedReward
    ensemble: LoadedEnsemble | None
    demonstrations: Dataset
    attempts: Dataset
    """The demonstrations with those that failed."""
    play: Dataset | None

    def inputs(self) -> dict[str, Any]:
        """Values that name them: an interrupted run continues on the same alone."""
        return {
            "policy": self.policy.checkpoint.hash,
            "reward": self.reward.checkpoint.hash,
            "demonstrations": fingerprint(self.demonstrations),
            "play": self.play and fingerprint(self.play),
            "skill": self.policy.skill,
            **({"ensemble": self.ensemble.hash} if self.ensemble else {}),
        }

    def start_states(self, config: FinetuneConfig) -> State:
        """Where dreams start."""
        classifier, play = self.reward.classifier.to(self.world.model.device), self.play.episodes if self.play else []
        demonstrations = self.demonstrations.episodes
        return start_states(self.world.model, classifier, demonstrations, play, config.dream.starts, config.seed)


def pass_gate(job: FinetuneJob, loaded: Loaded) -> Verdict | None:
    """The verdict on the world model; None where nobody asks. Raises `DiwaError` if it is refused."""
    config = job.config
    if config.gate == "off":
        return None
    datasets = [*([loaded.play] if loaded.play else []), loaded.demonstrations]
    recordings = held_out_recordings(job.world_model, loaded.world.model, datasets)
    ensemble, policy = loaded.ensemble.ensemble if loaded.ensemble else None, loaded.policy.policy
    evidence = Evidence(loaded.world.model, recordings, loaded.attempts, ensemble, loaded.reward, policy)
    verdict = judge(evidence, CheckConfig(), config.dream)
    if not verdict.passed:
        refusal = f"{job.world_model} would mislead fine-tuning: {verdict.refusal}"
        if config.gate == "refuse":
            raise DiwaError(
                f"{refusal} (`diwa check-world-model` shows all figures; finetune.gate warn continues anyway)"
            )
        print(f"finetune: warning: {refusal}")
    return verdict


def load(job: FinetuneJob) -> Loaded:
    """Read the inputs of a job. Raises `DiwaError` as `finetune` does."""
    require_possible(job)
    world = load_world_model(job.world_model, compute_device())
    policy, reward = load_pretrained(job.policy, world), load_reward(job.reward, world)
    ensemble = load_ensemble(job.ensemble, world.model, world.hash) if job.ensemble else None
    attempts = load_dataset(job.demonstrations, world.spec)
    play = load_dataset(job.play, world.spec) if job.play else None
    shown = require_one_skill(attempts.episodes, job.demonstrations)
    for path, skill in ((job.demonstrations, shown), (job.reward, reward.skill)):
        if skill != policy.skill:
            raise DiwaError(f"{job.policy} is for {policy.skill}, but {path} is for {skill}: give files of one skill")
    return Loaded(world, policy, reward, ensemble, without_failures(attempts), attempts, play)


def require_possible(job: FinetuneJob) -> None:
    """Raise `DiwaError` for a target that no policy reaches, and where an ensemble is needed and there is none."""
    config = job.config
    if config.target_kl is not None and config.target_kl <= 0:
        raise DiwaError(f"a target_kl of {config.target_kl:g} cannot be reached: choose one above 0")
    if config.needs_ensemble and not job.ensemble:
        needing = f"a dream.penalty of {config.dream.penalty:g}" if config.dream.penalty else "the best result"
        raise DiwaError(f"{needing} needs an ensemble: make one with `diwa train-ensemble`")


def best(curves: Curves, done: int, config: FinetuneConfig) -> Choice | None:
    """The best checkpoint of `done` iterations; None where the last is the result, or there is none yet."""
    first = config.base_iterations
    kept = [n for n in range(first, done + 1) if is_due(config, n)]
    if config.result == "last" or not kept:
        return None
    return choose(scores(curves, first), kept, config.patience)
