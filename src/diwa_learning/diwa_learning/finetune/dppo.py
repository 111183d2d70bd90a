"""The baseline DPPO: the same PPO in the environment, on the world model's latents (paper, Table I)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diwa_data.limits import MotionLimits
from diwa_data.robot import VectorEnvironment
from diwa_data.spec import require_same
from diwa_learning.core.device import compute_device
from diwa_learning.core.run import Curves, TrainingRun, require_run_folder
from diwa_learning.finetune.imagination import Rollout
from diwa_learning.finetune.learner import BCWeight, Learner, PPOConfig
from diwa_learning.finetune.selection import WINDOW, finish, keep_if_due
from diwa_learning.policy.base import ChainPolicy, Exploration
from diwa_learning.policy.checkpoint import describe, load_pretrained
from diwa_learning.world_model.latents import filter_frame
from diwa_learning.world_model.model import WorldModel, load_world_model
from diwa_learning.world_model.replay import model_state
from diwa_learning.world_model.rssm import State


@dataclass(frozen=True)
class DPPOConfig:
    """Fine-tuning in environments. Updates and sizes are DiWA's; the paper's Table S.5 gives them for both."""

    envs: int = 50
    """N, the number of environments in parallel."""
    chunks: int = 36
    """T, the chunks in each environment and iteration."""
    horizon: int = 18
    """Chunks after which an episode is cut: 18 chunks of 4 actions are 72 actions, or 9.6 s."""
    exploration: Exploration = field(default_factory=Exploration)
    """Noise of the sampled chunks."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """Settings of the updates."""
    iterations: int = 70
    """Rounds of acting and updating. 70 rounds of 7,200 steps are 504,000 steps, the most in the paper's Table I."""
    critic_warmup: int = 5
    """Number of first iterations that train only the critic."""
    enough: float | None = None
    """Practice ends at this mean success of three iterations' rollouts, noise included; none = after `iterations`."""
    alpha_bc: float = 0.0
    """Weight of KL(pi_pre || pi_theta). DPPO has none: the term guards against a world model's errors (Eq. 9)."""
    checkpoint_every: int = 5
    """Iterations between policy checkpoints in `iterations/`."""
    save_every: int = 1
    """Iterations between saves of the resumable state."""
    seed: int = 0
    """Seed of environments, critic, filter, chunks and minibatches."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Safety limits, as on the robot."""


class EnvironmentRollouts:
    """N environments and their filter. Every iteration starts all of them anew, from seeds that `rng` draws.

    So an iteration depends on the policy and on the state of `rng` alone.

    Args:
        seeds: those of the environments' starts.
        rng: on the world model's device.
    """

    def __init__(
        self,
        model: WorldModel,
        environments: VectorEnvironment,
        seeds: range,
        config: DPPOConfig,
        rng: torch.Generator,
    ):
        require_same(model.spec, environments.get_attr("contract")[0], "the environment")
        self.model, self.environments, self.seeds = model, environments, seeds
        self.config, self.rng = config, rng

    @torch.no_grad()
    def rollout(self, policy: ChainPolicy) -> Rollout:
        """One iteration of `policy`; what still goes on at its end is cut."""
        config, rng, count = self.config, self.rng, self.environments.num_envs
        everyone = torch.ones(count, dtype=torch.bool, device=rng.device)
        seeds, noise = self._draw_seeds(), self._draw_noise()
        filtered = self._begin(everyone, seeds, noise)
        age, chunks = torch.zeros(count, dtype=torch.int64, device=rng.device), []
        for t in range(config.chunks):
            features = filtered.features
            sample = policy.explore(features, policy.draw_noise(count, rng), config.exploration)
            filtered, succeeded = self._play(filtered, sample.actions.cpu().numpy())
            success, age = self._tensor(succeeded.copy()), age + 1  # environments may write to their arrays
            chunk = Rollout(
                features=features,
                next_features=filtered.features,
                chains=sample.chains,
                reward=success.float(),
                terminated=success,
                done=success | (age >= config.horizon) | (t == config.chunks - 1),
                success=success,
                age=age,
                deviation=torch.zeros(count, device=rng.device),
            )
            chunks.append(chunk)
            if t < config.chunks - 1:
                filtered, age = self._restart(filtered, chunk.done), age * ~chunk.done
        return Rollout.stack(chunks)

    def _restart(self, filtered: State, done: Tensor) -> State:
        """Ended environments start anew; as many numbers are drawn however many they are."""
        seeds, noise = self._draw_seeds(), self._draw_noise()
        if not done.any():
            return filtered
        rows, begun = done.nonzero()[:, 0], self._begin(done, seeds, noise[done])
        pairs = zip(filtered.parts(), begun.parts(), strict=True)
        return State(*(old.index_copy(0, rows, new) for old, new in pairs))

    def _begin(self, which: Tensor, seeds: list[int | None], noise: Tensor) -> State:
        """Start the environments `which` (N,) again; their filters (M, ...) begin from the zero state, as deployment's.

        `seeds` are of all N, `noise` (M, C, K) of the M that begin.
        """
        observed, _ = self.environments.reset(seed=seeds, options={"reset_mask": which.cpu().numpy()})
        seen = self._tensors({name: value[which.cpu().numpy()] for name, value in observed.items()})
        null = self.model.null_action.expand(len(noise), -1)
        return filter_frame(self.model, self.model.rssm.initial(len(noise)), *seen, null, noise)[0]

    def _play(self, filtered: State, chunks: np.ndarray) -> tuple[State, np.ndarray]:
        """Filter states after the `chunks` (N, H, A), a step a control tick, and who has succeeded (N,) bool."""
        for actions in chunks.swapaxes(0, 1):
            observed, _, succeeded, _, _ = self.environments.step(actions)
            seen, executed = self._tensors(observed), self._tensor(observed["executed"])
            filtered, _ = filter_frame(self.model, filtered, *seen, executed, self._draw_noise())
        return filtered, succeeded

    def _draw_seeds(self) -> list[int | None]:
        """N seeds of starts."""
        share = torch.rand(self.environments.num_envs, generator=self.rng, device=self.rng.device)
        return (self.seeds.start + (share.double().cpu().numpy() * len(self.seeds)).astype(np.int64)).tolist()

    def _draw_noise(self) -> Tensor:
        """(N, C, K) Gumbel."""
        return self.model.rssm.noise(self.environments.num_envs, rng=self.rng)

    def _tensors(self, observed: Mapping[str, np.ndarray]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Images (N, H, W, 3) by camera, the state (N, S) that the model knows, and the target (N, 9)."""
        state = model_state(observed["state"], observed.get("scene_state"), self.model.config.scene_state)
        images = {camera.name: self._tensor(observed[camera.name]) for camera in self.model.spec.cameras}
        return images, self._tensor(state), self._tensor(observed["target"])

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.rng.device)


@dataclass(frozen=True)
class Practice:
    """Where a policy acts."""

    open: Callable[[str, int], AbstractContextManager[VectorEnvironment]]
    """Make so many environments of a skill."""
    seeds: range
    """Seeds of their start states."""
    about: Mapping[str, Any]
    """Plain values that name them; an interrupted run continues on the same alone."""


def dppo(policy: Path, world_model: Path, out: Path, config: DPPOConfig, practice: Practice) -> None:
    """Fine-tune `policy` on its skill in environments; leaves a `finetune` checkpoint as DiWA's.

    Raises `DiwaError` naming the input that is of another spec, world model or phase.
    """
    require_run_folder(out)
    world = load_world_model(world_model, compute_device())
    model, pretrained = world.model, load_pretrained(policy, world)
    inputs = {"policy": pretrained.checkpoint.hash, "skill": pretrained.skill, **practice.about}
    with TrainingRun(out, "finetune", config, world.spec, world.hash, inputs) as run:
        if run.finished:
            return
        rng, bc_weight = torch.Generator(model.device).manual_seed(config.seed), BCWeight(config.alpha_bc)
        learner = Learner(pretrained.policy, model.feature_dim, config.ppo, config.exploration, bc_weight, rng)
        about = describe(pretrained.net, pretrained.skill, learner.policy.trained_steps)
        steps = config.envs * config.chunks * pretrained.net.chunk
        with practice.open(pretrained.skill, config.envs) as environments:
            source = EnvironmentRollouts(model, environments, practice.seeds, config, rng)
            run.track(**learner.parts(), draws=rng)
            for iteration in run.steps(config.iterations, "environment steps", steps):
                if succeeds(run.history, config.enough):
                    break
                rollout = source.rollout(learner.policy)
                metrics = learner.update(rollout, train_actor=iteration >= config.critic_warmup)
                metrics = {**rollout.summary("environment", config.horizon), **metrics}
                run.log(iteration, {**metrics, "environment_steps": (iteration + 1) * steps})
                keep_if_due(run, learner.policy, about, iteration + 1)
        finish(run, learner, {**about, "environment_steps": steps * run.step})


def succeeds(curves: Curves, enough: float | None) -> bool:
    """Whether the mean success of the last iterations is at least `enough`; never where that is None."""
    recent = [success for _, success in curves.get("environment_success", [])][-WINDOW:]
    return enough is not None and len(recent) == WINDOW and sum(recent) >= WINDOW * enough
