"""The baseline DPPO: the same PPO in the environment, on the world model's latents (METHOD section 4, Table I)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diwa_data.motion import MotionLimits
from diwa_data.robot import VectorEnvironment
from diwa_data.spec import require_same
from diwa_learning.core.device import compute_device
from diwa_learning.core.run import TrainingRun, require_run_folder
from diwa_learning.core.stacking import Stream, Streams
from diwa_learning.finetune.imagination import Rollout, empty_rollout
from diwa_learning.finetune.learner import BCWeight, Critic, PPOConfig
from diwa_learning.finetune.loop import FinetuneMember, finish, iterate, load_pretrained, make_finetuner
from diwa_learning.policy.base import ChainPolicy, Exploration, FinetunedPolicy
from diwa_learning.policy.checkpoint import LoadedPolicy
from diwa_learning.world_model.checkpoint import LoadedWorldModel, load_world_model
from diwa_learning.world_model.filtering import Belief, follow, unseen
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.replay import model_state


@dataclass(frozen=True)
class DPPOConfig:
    """Fine-tuning in environments; updates and sizes as DiWA's, which the paper's Table S.5 gives for both."""

    envs: int = 50
    """N, environments in parallel."""
    chunks: int = 36
    """T, chunks of each in an iteration."""
    horizon: int = 18
    """Chunks after which an episode is cut: 18 chunks of 4 actions are 72 actions, 9.6 s."""
    exploration: Exploration = field(default_factory=Exploration)
    """Noise of the chunks."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """The updates."""
    iterations: int = 70
    """Rounds of acting and updating: 70 x 7,200 steps are 504,000, the most that Table I reports of a skill."""
    critic_warmup: int = 5
    """First iterations that train the critic alone."""
    enough: float | None = None
    """Mean success of three iterations' own rollouts, with their noise, that ends practice; None = `iterations` do."""
    alpha_bc: float = 0.0
    """Weight of KL(pi_pre || pi_theta). DPPO has none: the term guards against errors of a world model (Eq. 9)."""
    checkpoint_every: int = 5
    """Iterations between policy checkpoints in `iterations/`."""
    save_every: int = 1
    """Iterations between saves of the resumable state."""
    seed: int = 0
    """Of environments, critic, filter, chunks and minibatches."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Safety limits, as on the robot."""


class EnvironmentRollouts:
    """N environments and their filter. Every iteration starts all of them anew, from seeds that `draws` draws.

    So an iteration depends on the policy and on the state of `draws` alone.

    Args:
        seeds: of the environments' starts.
        draws: of one run.
    """

    def __init__(
        self,
        model: WorldModel,
        environments: VectorEnvironment,
        seeds: range,
        trained_steps: int,
        config: DPPOConfig,
        draws: Streams,
    ):
        require_same(model.spec, environments.get_attr("contract")[0], "the environment")
        self.model, self.environments, self.seeds = model, environments, seeds
        self.trained_steps, self.config, self.draws = trained_steps, config, draws

    @torch.no_grad()
    def rollout(self, policy: ChainPolicy) -> Rollout:
        """One iteration of `policy`; what still goes on at its end is cut."""
        config, draws, count = self.config, self.draws, self.environments.num_envs
        shape = (count, config.chunks)
        rollout = empty_rollout(shape, self.model.feature_dim, policy, self.trained_steps, draws.device)
        everyone = torch.ones(count, dtype=torch.bool, device=draws.device)
        seeds, noise = self._draw_seeds(), self._draw_noise()
        belief = self._begin(everyone, seeds, noise)
        age = torch.zeros(count, dtype=torch.int64, device=draws.device)
        for t in range(config.chunks):
            features = belief.state.features
            noise = draws.normal(count, policy.steps + 1, policy.chunk, policy.action_dim)
            sample = policy.explore(features, noise, config.exploration)
            belief, succeeded = self._play(belief, sample.actions.cpu().numpy())
            success, age = self._tensor(succeeded), age + 1
            done = success | (age >= config.horizon) | (t == config.chunks - 1)
            rollout.features[:, t], rollout.next_features[:, t] = features, belief.state.features
            rollout.chains[:, t] = sample.chains[:, -self.trained_steps - 1 :]
            rollout.reward[:, t], rollout.success[:, t], rollout.terminated[:, t] = success, success, success
            rollout.done[:, t], rollout.age[:, t] = done, age
            if t < config.chunks - 1:
                belief, age = self._restart(belief, done), age * ~done
        return rollout

    def _restart(self, belief: Belief, done: Tensor) -> Belief:
        """Ended environments start anew; as many numbers are drawn however many they are."""
        seeds, noise = self._draw_seeds(), self._draw_noise()
        if not done.any():
            return belief
        return belief.replaced(done.nonzero()[:, 0], self._begin(done, seeds, noise[done]))

    def _begin(self, which: Tensor, seeds: list[int | None], noise: Tensor) -> Belief:
        """Start the environments `which` (N,) anew; their beliefs (M, ...) begin from the zero state, as deployment's.

        `seeds` are of all N, `noise` (M, C, K) of the M that begin.
        """
        observed, _ = self.environments.reset(seed=seeds, options={"reset_mask": which.cpu().numpy()})
        images, state = self._tensors({name: value[which.cpu().numpy()] for name, value in observed.items()})
        null = self.model.null_action.expand(len(state), -1)
        return follow(self.model, unseen(self.model, state), images, state, null, noise)

    def _play(self, belief: Belief, chunks: np.ndarray) -> tuple[Belief, np.ndarray]:
        """Beliefs after the `chunks` (N, H, 7), filtered at every control tick, and who has succeeded (N,) bool."""
        for actions in chunks.swapaxes(0, 1):
            observed, _, succeeded, _, _ = self.environments.step(actions)
            images, state = self._tensors(observed)
            belief = follow(self.model, belief, images, state, self._tensor(observed["executed"]), self._draw_noise())
        return belief, succeeded

    def _draw_seeds(self) -> list[int | None]:
        """N seeds of starts."""
        share = self.draws.uniform(self.environments.num_envs).double().cpu().numpy()
        return (self.seeds.start + (share * len(self.seeds)).astype(np.int64)).tolist()

    def _draw_noise(self) -> Tensor:
        """(N, C, K) Gumbel."""
        sizes = self.model.rssm.config
        return self.draws.gumbel(self.environments.num_envs, sizes.categoricals, sizes.classes)

    def _tensors(self, observed: Mapping[str, np.ndarray]) -> tuple[dict[str, Tensor], Tensor]:
        """Images (N, 64, 64, 3) by camera, and the state (N, S) that the model knows."""
        state = model_state(observed["state"], observed.get("scene_state"), self.model.config.scene_state)
        images = {camera.name: self._tensor(observed[camera.name]) for camera in self.model.spec.cameras}
        return images, self._tensor(state)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.draws.device)


WINDOW = 3
"""Iterations whose success says whether it is enough."""


@dataclass(frozen=True)
class Practice:
    """Where a policy acts."""

    open: Callable[[str, int], AbstractContextManager[VectorEnvironment]]
    """Make so many environments of a skill."""
    seeds: range
    """Of their start states."""
    about: Mapping[str, Any]
    """Plain values that name them; an interrupted run continues on the same alone."""


@dataclass(frozen=True)
class Member(FinetuneMember):
    """One run in environments."""

    config: DPPOConfig

    def ended(self, done: int) -> bool:
        """Whether it succeeds often enough."""
        recent = [success for _, success in self.run.history.get("environment_success", [])][-WINDOW:]
        return self.config.enough is not None and len(recent) == WINDOW and sum(recent) >= WINDOW * self.config.enough

    def form(self) -> Any:
        """All but seed, alpha_BC and weights."""
        return dataclasses.replace(self.config, seed=0, alpha_bc=0.0), self.pretrained.net


def dppo(policy: Path, world_model: Path, out: Path, config: DPPOConfig, practice: Practice) -> None:
    """Fine-tune `policy` on its skill in environments; leaves a `finetune` checkpoint as DiWA's.

    Raises `DiwaError` naming what is of another spec, world model or phase.
    """
    require_run_folder(out)
    world = load_world_model(world_model, compute_device())
    pretrained = load_pretrained(policy, world)
    inputs = {"policy": pretrained.checkpoint.hash, "skill": pretrained.skill, **practice.about}
    with TrainingRun(out, "finetune", config, world.spec, world.hash, inputs) as run:
        if run.finished:
            return
        with practice.open(pretrained.skill, config.envs) as environments:
            train(make_member(run, pretrained, world, config), world, environments, practice.seeds)


def make_member(run: TrainingRun, pretrained: LoadedPolicy, world: LoadedWorldModel, config: DPPOConfig) -> Member:
    """What is trained, with fresh random numbers."""
    device = world.model.device
    return Member(
        run,
        pretrained,
        FinetunedPolicy(pretrained.policy, config.ppo.trained_steps).to(device),
        Critic(world.model.feature_dim, config.ppo.critic_width).to(device),
        Stream(config.seed, device),
        BCWeight(config.alpha_bc).to(device),
        config,
    )


def train(member: Member, world: LoadedWorldModel, environments: VectorEnvironment, seeds: range) -> None:
    """The iterations of one run; leaves its checkpoint."""
    config, draws = member.config, Streams([member.draws])
    tuner = make_finetuner([member], config.ppo, config, draws)
    rollouts = EnvironmentRollouts(world.model, environments, seeds, tuner.policy.trained_steps, config, draws)
    steps = config.envs * config.chunks * tuner.policy.chunk
    (parts,) = iterate([member], config, tuner, rollouts, "environment", steps)
    finish(member, parts, {"environment_steps": steps * member.run.step})
