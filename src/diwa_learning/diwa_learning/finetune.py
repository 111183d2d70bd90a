"""Phase 4: fine-tune the policy with PPO inside the world model (METHOD section 4, paper algorithm 1)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diwa_data.dataset import Dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_learning.chain import FinetunedPolicy
from diwa_learning.checkpoint import LoadedWorldModel, load_world_model, save_checkpoint
from diwa_learning.dream import Dream, DreamConfig, start_states
from diwa_learning.features import require_one_skill
from diwa_learning.finetuner import Finetuner, PPOConfig
from diwa_learning.policy import LoadedPolicy, describe, load_policy, policy_weights
from diwa_learning.rssm import State
from diwa_learning.sequences import fingerprint
from diwa_learning.train_reward import LoadedReward, load_reward
from diwa_learning.training import TrainingRun

ALPHA_BC = {"open_drawer": 0.10, "close_drawer": 0.025, "turn_on_led": 0.025}
ALPHA_BC_DEFAULT = 0.05


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning in dreams; the defaults are the paper's (Table S.5) and METHOD's."""

    dream: DreamConfig = field(default_factory=DreamConfig)
    """Size of an iteration, reward and start states."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """The updates."""
    iterations: int = 694
    """Rounds of dreaming and updating: 694 x 7,200 actions are 5 M, 278 are the real robot's 2 M."""
    critic_warmup: int = 5
    """First iterations that train the critic alone."""
    alpha_bc: float | None = None
    """Weight of KL(pi_pre || pi_theta); None = the skill's value in METHOD section 4, 0 = off."""
    checkpoint_every: int = 50
    """Iterations between policy checkpoints in `iterations/`."""
    save_every: int = 20
    """Iterations between saves of the resumable state."""
    seed: int = 0
    """Of start states, critic, dreams and minibatches."""

    def alpha_for(self, skill: str) -> float:
        """alpha_BC of a skill."""
        return ALPHA_BC.get(skill, ALPHA_BC_DEFAULT) if self.alpha_bc is None else self.alpha_bc


def finetune(
    policy: Path,
    reward: Path,
    world_model: Path,
    demonstrations: Path,
    play: Path | None,
    out: Path,
    config: FinetuneConfig,
) -> None:
    """Fine-tune `policy` fully offline; leave a `finetune` checkpoint holding the frozen and the trained policy."""
    parts = gather(policy, reward, world_model, demonstrations, play)
    world, pretrained, spec = parts.world, parts.pretrained, parts.world.spec
    with TrainingRun(out, "finetune", config, spec, world.hash, parts.inputs()) as run:
        if run.finished:
            return
        starts = parts.start_states(config)
        tuner = Finetuner(
            pretrained.policy, world.model.feature_dim, config.ppo, config.dream, config.alpha_for(pretrained.skill)
        )
        run.track(policy=tuner.policy, critic=tuner.critic, actor_adam=tuner.actor_adam, critic_adam=tuner.critic_adam)
        dream = Dream(
            world.model, parts.judge.classifier, starts, tuner.policy, tuner.policy.trained_steps, config.dream
        )
        actions = config.dream.dreams * config.dream.chunks * pretrained.policy.chunk
        for iteration in run.steps(config.iterations, "imagined actions", actions):
            started = time.perf_counter()
            rollout = dream.rollout(tuner.policy)
            measured = tuner.update(rollout, train_actor=iteration >= config.critic_warmup)
            measured["actions_per_second"] = actions / (time.perf_counter() - started)
            run.require_finite("value_loss", torch.tensor(measured["value_loss"]))
            run.log(iteration, measured)
            if (iteration + 1) % config.checkpoint_every == 0:
                keep_iteration(run, tuner, pretrained, iteration + 1)
        critic = {f"critic.{name}": tensor for name, tensor in tuner.critic.state_dict().items()}
        metrics = {
            **describe(pretrained.net, pretrained.skill, tuner.policy.trained_steps),
            "alpha_bc": tuner.alpha_bc,
            "start_states": len(starts.h),
            "imagined_actions": actions * config.iterations,
        }
        run.finish(policy_weights(tuner.policy) | critic, metrics)


@dataclass(frozen=True)
class Parts:
    """What fine-tuning works with, checked to belong together."""

    world: LoadedWorldModel
    pretrained: LoadedPolicy
    judge: LoadedReward
    demonstrations: Dataset
    play: Dataset | None

    def inputs(self) -> dict[str, Any]:
        """What identifies them in the checkpoint."""
        return {
            "policy": self.pretrained.checkpoint.hash,
            "reward": self.judge.checkpoint.hash,
            "demonstrations": fingerprint(self.demonstrations),
            "play": self.play and fingerprint(self.play),
            "skill": self.pretrained.skill,
        }

    def start_states(self, config: FinetuneConfig) -> State:
        """The bank of start states of all dreams."""
        play = self.play.episodes if self.play else []
        model, classifier, starts = self.world.model, self.judge.classifier, config.dream.starts
        return start_states(model, classifier, self.demonstrations.episodes, play, starts, config.seed)


def gather(policy: Path, reward: Path, world_model: Path, demonstrations: Path, play: Path | None) -> Parts:
    """Load everything; raises `DiwaError` naming what is of another spec, world model, skill or phase."""
    world = load_world_model(world_model)
    feature_dim = world.model.feature_dim
    pretrained = load_policy(policy, world.spec, world.hash, feature_dim)
    if isinstance(pretrained.policy, FinetunedPolicy):
        raise DiwaError(f"{policy} is fine-tuned already: give a checkpoint of `diwa train-policy`")
    judge = load_reward(reward, world.spec, world.hash, feature_dim)
    demos = load_dataset(demonstrations, world.spec)
    skills = {demonstrations: require_one_skill(demos.episodes, demonstrations), reward: judge.skill}
    for path, skill in skills.items():
        if skill != pretrained.skill:
            raise DiwaError(f"{policy} is for {pretrained.skill}, but {path} is for {skill}")
    return Parts(world, pretrained, judge, demos, load_dataset(play, world.spec) if play else None)


def keep_iteration(run: TrainingRun, tuner: Finetuner, pretrained: LoadedPolicy, iteration: int) -> None:
    """Leave the policy of this iteration in `iterations/NNNNNN`, itself a `finetune` checkpoint."""
    metrics = {**describe(pretrained.net, pretrained.skill, tuner.policy.trained_steps), "iteration": iteration}
    metrics |= {name: curve[-1][1] for name, curve in run.history.items()}
    folder = run.out / "iterations" / f"{iteration:06d}"
    save_checkpoint(
        folder, "finetune", policy_weights(tuner.policy), run.config, run.spec, metrics, run.world_model_hash
    )
