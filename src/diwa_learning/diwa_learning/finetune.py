"""Phase 4: fine-tune the policy with PPO inside the world model (METHOD section 4, paper algorithm 1)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diwa_data.errors import DiwaError
from diwa_learning.chain import FinetunedPolicy
from diwa_learning.checkpoint import LoadedWorldModel, compute_device, load_world_model, save_checkpoint
from diwa_learning.dream import Dream, DreamConfig, start_states
from diwa_learning.features import require_one_skill
from diwa_learning.finetuner import Critic, Finetuner, PPOConfig
from diwa_learning.lockstep import groups, lockstep, track
from diwa_learning.policy import LoadedPolicy, describe, load_policy, policy_weights
from diwa_learning.rssm import State
from diwa_learning.sequences import Library, fingerprint
from diwa_learning.stacking import stack
from diwa_learning.streams import Stream, Streams
from diwa_learning.train_reward import LoadedReward, load_reward
from diwa_learning.training import Stateful, TrainingRun

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


@dataclass(frozen=True)
class FinetuneJob:
    """One run of fine-tuning: checkpoint folders, datasets, where it goes, and how."""

    policy: Path
    reward: Path
    demonstrations: Path
    play: Path | None
    out: Path
    config: FinetuneConfig


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
    finetune_runs([FinetuneJob(policy, reward, demonstrations, play, out, config)], world_model)


def finetune_runs(jobs: Sequence[FinetuneJob], world_model: Path) -> None:
    """Fine-tune many runs on one world model, those of one form stacked; each leaves what it would leave alone."""
    world = load_world_model(world_model, compute_device())
    library = Library(world.spec)
    with ExitStack() as runs:
        members = [member for job in jobs if (member := prepare(job, world, library, runs))]
        library.clear()
        for group in groups(members):
            train(group, world)


@dataclass(frozen=True)
class Member:
    """One run of a stack, ready to train."""

    job: FinetuneJob
    run: TrainingRun
    pretrained: LoadedPolicy
    judge: LoadedReward
    policy: FinetunedPolicy
    critic: Critic
    starts: State
    draws: Stream

    @property
    def alpha_bc(self) -> float:
        return self.job.config.alpha_for(self.pretrained.skill)

    def form(self) -> Any:
        """All but seed, alpha_BC, weights and data."""
        same = dataclasses.replace(self.job.config, seed=0, alpha_bc=None)
        sizes = tuple(tensor.shape for tensor in self.judge.classifier.state_dict().values())
        return same, self.pretrained.net, sizes

    def describe(self) -> dict[str, Any]:
        """What every checkpoint of this run says of its policy."""
        return describe(self.pretrained.net, self.pretrained.skill, self.policy.trained_steps)


def prepare(job: FinetuneJob, world: LoadedWorldModel, library: Library, runs: ExitStack) -> Member | None:
    """Claim the job's folder and make what it trains; None when it is finished.

    Raises `DiwaError` naming what is of another spec, world model, skill or phase.
    """
    model, config = world.model, job.config
    pretrained = load_policy(job.policy, world.spec, world.hash, model.feature_dim)
    if isinstance(pretrained.policy, FinetunedPolicy):
        raise DiwaError(f"{job.policy} is fine-tuned already: give a checkpoint of `diwa train-policy`")
    judge = load_reward(job.reward, world.spec, world.hash, model.feature_dim)
    demonstrations, play = library(job.demonstrations), library(job.play) if job.play else None
    skills = {
        job.demonstrations: require_one_skill(demonstrations.episodes, job.demonstrations),
        job.reward: judge.skill,
    }
    for path, skill in skills.items():
        if skill != pretrained.skill:
            raise DiwaError(f"{job.policy} is for {pretrained.skill}, but {path} is for {skill}")
    inputs = {
        "policy": pretrained.checkpoint.hash,
        "reward": judge.checkpoint.hash,
        "demonstrations": fingerprint(demonstrations),
        "play": play and fingerprint(play),
        "skill": pretrained.skill,
    }
    run = runs.enter_context(TrainingRun(job.out, "finetune", config, world.spec, world.hash, inputs))
    if run.finished:
        return None
    judge.classifier.to(model.device)
    return Member(
        job,
        run,
        pretrained,
        judge,
        FinetunedPolicy(pretrained.policy, config.ppo.trained_steps).to(model.device),
        Critic(model.feature_dim, config.ppo.critic_width).to(model.device),
        start_states(
            model,
            judge.classifier,
            demonstrations.episodes,
            play.episodes if play else [],
            config.dream.starts,
            config.seed,
        ),
        Stream(config.seed, model.device),
    )


def train(group: Sequence[Member], world: LoadedWorldModel) -> None:
    """The iterations of runs of one form; leaves the checkpoint of each."""
    config = group[0].job.config
    draws = Streams([member.draws for member in group])
    policy, critic = stack([member.policy for member in group]), stack([member.critic for member in group])
    alpha_bc = torch.tensor([member.alpha_bc for member in group], device=world.model.device).view(*draws.leading, 1)[
        ..., 0
    ]
    tuner = Finetuner(policy, critic, config.ppo, config.dream, alpha_bc, draws)
    classifier = stack([member.judge.classifier for member in group])
    starts = [member.starts for member in group]
    dream = Dream(world.model, classifier, starts, policy.trained_steps, config.dream, draws)
    shares = track(group, policy=policy, critic=critic, actor_adam=tuner.actor_adam, critic_adam=tuner.critic_adam)
    actions = config.dream.dreams * config.dream.chunks * policy.chunk
    for iteration in lockstep(group, config.iterations, "imagined actions", actions):
        started = time.perf_counter()
        measured = tuner.update(dream.rollout(policy), train_actor=iteration >= config.critic_warmup)
        values = torch.stack(list(measured.values()), dim=-1).view(len(group), -1).tolist()  # one wait for the device
        rate = len(group) * actions / (time.perf_counter() - started)
        for member, mine, row in zip(group, shares, values, strict=True):
            found = dict(zip(measured, row, strict=True))
            member.run.require_finite("value_loss", torch.tensor(found["value_loss"]))
            member.run.log(iteration, {**found, "actions_per_second": rate})
            if (iteration + 1) % config.checkpoint_every == 0:
                keep_iteration(member, policy_weights(mine["policy"]), iteration + 1)
    for member, mine in zip(group, shares, strict=True):
        finish(member, mine, actions * config.iterations)


def keep_iteration(member: Member, weights: Mapping[str, Tensor], iteration: int) -> None:
    """Leave the policy of this iteration in `iterations/NNNNNN`, itself a `finetune` checkpoint."""
    run = member.run
    metrics = {**member.describe(), "iteration": iteration}
    metrics |= {name: curve[-1][1] for name, curve in run.history.items()}
    folder = run.out / "iterations" / f"{iteration:06d}"
    save_checkpoint(folder, "finetune", weights, run.config, run.spec, metrics, run.world_model_hash)


def finish(member: Member, parts: Mapping[str, Stateful], imagined_actions: int) -> None:
    """Leave the checkpoint of one run: both policies and the critic."""
    critic = {f"critic.{name}": tensor for name, tensor in parts["critic"].state_dict().items()}
    metrics = {
        **member.describe(),
        "alpha_bc": member.alpha_bc,
        "start_states": len(member.starts.h),
        "imagined_actions": imagined_actions,
    }
    member.run.finish(policy_weights(parts["policy"]) | critic, metrics)
