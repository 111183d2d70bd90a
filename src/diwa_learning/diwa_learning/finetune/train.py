"""Phase 4: fine-tune the policy with PPO inside the world model (METHOD section 4, paper algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from diwa_data.config import Job
from diwa_data.dataset.dataset import Library, require_one_skill
from diwa_data.errors import DiwaError
from diwa_learning.core.device import compute_device
from diwa_learning.core.run import TrainingRun
from diwa_learning.core.stacking import Stream, Streams, stack
from diwa_learning.ensemble.train import LoadedGuard, load_guard
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.finetune.learner import BCWeight, Critic, PPOConfig
from diwa_learning.finetune.loop import FinetuneMember, finish, is_kept, iterate, load_pretrained, make_finetuner
from diwa_learning.finetune.selection import Choice, choose, scores
from diwa_learning.finetune.start_states import start_states
from diwa_learning.policy.base import FinetunedPolicy
from diwa_learning.reward.train import LoadedReward, load_reward
from diwa_learning.world_model.checkpoint import LoadedWorldModel, load_world_model
from diwa_learning.world_model.lockstep import train_together
from diwa_learning.world_model.replay import fingerprint
from diwa_learning.world_model.rssm import State

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
    target_kl: float | None = None
    """KL(pi_pre || pi_theta) for which alpha_BC is set anew after every iteration; None = it stays as it is."""
    checkpoint_every: int = 50
    """Iterations between policy checkpoints in `iterations/`."""
    result: Literal["last", "best"] = "last"
    """Which checkpoint is the result: the last, or the one with the best offline score, which needs a guard."""
    patience: int = 0
    """With `best`: checkpoints without a better score after which fine-tuning ends; 0 = never before `iterations`."""
    save_every: int = 20
    """Iterations between saves of the resumable state."""
    seed: int = 0
    """Of start states, critic, dreams and minibatches."""

    @property
    def base_iterations(self) -> int:
        """First iterations, which dream the base policy: the warm-up, and the one before the actor's first update."""
        return self.critic_warmup + 1

    @property
    def needs_guard(self) -> bool:
        """Whether dreams pay for its deviation, or it chooses among checkpoints."""
        return self.dream.penalty > 0 or self.result == "best"

    def alpha_for(self, skill: str) -> float:
        """alpha_BC of a skill."""
        return ALPHA_BC.get(skill, ALPHA_BC_DEFAULT) if self.alpha_bc is None else self.alpha_bc


@dataclass(frozen=True)
class FinetuneJob(Job):
    """Fine-tune a policy by PPO inside the world model's dreams, without any simulator or robot."""

    command_name: ClassVar[str] = "finetune"
    section: ClassVar[str] = "finetune"

    policy: Path
    """Checkpoint folder of `diwa train-policy`."""
    reward: Path
    """Checkpoint folder of `diwa train-reward`."""
    world_model: Path
    """Checkpoint folder of `diwa train-world-model`."""
    demonstrations: Path
    """HDF5 file with demonstrations of the skill: dreams start from their frames."""
    out: Path
    """Checkpoint folder; an interrupted training in it continues."""
    play: Path | None = None
    """HDF5 file with play: dreams start from its frames too."""
    guard: Path | None = None
    """Checkpoint folder of `diwa train-guard`: says where dreams should not be believed."""
    config: FinetuneConfig = field(default_factory=FinetuneConfig)
    """Sizes and schedule."""

    def run(self) -> None:
        """Fine-tune, or continue; leaves a `finetune` checkpoint that holds the frozen and the trained policy."""
        finetune_runs([self], self.world_model)


def finetune_runs(jobs: Sequence[FinetuneJob], world_model: Path) -> None:
    """Fine-tune many runs on one world model, those of one form stacked; each leaves what it would leave alone."""
    train_together(jobs, load_world_model(world_model, compute_device()), prepare, train)


@dataclass(frozen=True)
class Member(FinetuneMember):
    """One run in dreams."""

    config: FinetuneConfig
    judge: LoadedReward
    starts: State
    guard: LoadedGuard | None

    def ended(self, done: int) -> bool:
        """Whether the result is settled before all iterations are done."""
        choice = self.choice(done)
        return choice is not None and choice.settled

    def choice(self, done: int) -> Choice | None:
        """The best of the checkpoints of `done` iterations; None where the last is the result, or there is none yet."""
        config, first = self.config, self.config.base_iterations
        kept = [n for n in range(first, done + 1) if is_kept(config, n)]
        if config.result == "last" or not kept:
            return None
        return choose(scores(self.run.history, first), kept, config.patience)

    def form(self) -> Any:
        """Each run is trained alone."""
        return self.run.out


def prepare(job: FinetuneJob, world: LoadedWorldModel, library: Library, runs: ExitStack) -> Member | None:
    """Claim the job's folder and make what it trains; None when it is finished.

    Raises `DiwaError` naming what is of another spec, world model, skill or phase.
    """
    model, config = world.model, job.config
    pretrained = load_pretrained(job.policy, world)
    judge = load_reward(job.reward, world)
    if config.target_kl is not None and config.target_kl <= 0:
        raise DiwaError(f"a target_kl of {config.target_kl:g} cannot be reached: choose one above 0")
    guard = load_guard(job.guard, model, world.hash) if job.guard else None
    if config.needs_guard and not guard:
        what = f"a dream.penalty of {config.dream.penalty:g}" if config.dream.penalty else "the best result"
        raise DiwaError(f"{what} needs a guard: make one with `diwa train-guard`")
    demonstrations, play = library(job.demonstrations), library(job.play) if job.play else None
    shown = require_one_skill(demonstrations.episodes, job.demonstrations)
    for path, skill in ((job.demonstrations, shown), (job.reward, judge.skill)):
        if skill != pretrained.skill:
            raise DiwaError(f"{job.policy} is for {pretrained.skill}, but {path} is for {skill}")
    inputs = {
        "policy": pretrained.checkpoint.hash,
        "reward": judge.checkpoint.hash,
        "demonstrations": fingerprint(demonstrations),
        "play": play and fingerprint(play),
        "skill": pretrained.skill,
        **({"guard": guard.hash} if guard else {}),
    }
    run = runs.enter_context(TrainingRun(job.out, "finetune", config, world.spec, world.hash, inputs))
    if run.finished:
        return None
    classifier = judge.classifier.to(model.device)
    elsewhere = play.episodes if play else []
    starts = start_states(model, classifier, demonstrations.episodes, elsewhere, config.dream.starts, config.seed)
    return Member(
        run,
        pretrained,
        FinetunedPolicy(pretrained.policy, config.ppo.trained_steps).to(model.device),
        Critic(model.feature_dim, config.ppo.critic_width).to(model.device),
        Stream(config.seed, model.device),
        BCWeight(config.alpha_for(pretrained.skill), config.target_kl).to(model.device),
        config,
        judge,
        starts,
        guard,
    )


def train(group: Sequence[Member], world: LoadedWorldModel) -> None:
    """The iterations of runs of one form; leaves the checkpoint of each."""
    config = group[0].config
    draws = Streams([member.draws for member in group])
    tuner = make_finetuner(group, config.ppo, config.dream, draws)
    classifier = stack([member.judge.classifier for member in group])
    starts = [member.starts for member in group]
    loaded = group[0].guard  # the same of all
    guard = loaded.guard if loaded else None
    dream = Dream(world.model, classifier, starts, tuner.policy.trained_steps, config.dream, draws, guard)
    actions = config.dream.dreams * config.dream.chunks * tuner.policy.chunk
    for member, parts in zip(group, iterate(group, config, tuner, dream, "dream", actions), strict=True):
        done = member.run.step
        metrics = {"start_states": len(member.starts.h), "imagined_actions": actions * done}
        finish(member, parts, metrics, member.choice(done))
