"""Phase 2: imitate the demonstrations of one skill from filtered features (METHOD section 2)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diwa_data.config import Job
from diwa_data.dataset.dataset import Episode, Library, require_one_skill
from diwa_data.errors import DiwaError
from diwa_learning.core.capture import CapturedEach, gradients
from diwa_learning.core.device import compute_device, cosine, set_learning_rate
from diwa_learning.core.run import TrainingRun
from diwa_learning.core.stacking import Stream, Streams, join, rows, stack
from diwa_learning.policy.base import ChainPolicy
from diwa_learning.policy.checkpoint import PolicyNetConfig, describe, make_policy, policy_weights
from diwa_learning.world_model.checkpoint import LoadedWorldModel, load_world_model
from diwa_learning.world_model.latents import embed_clips, filtered_states, gumbel_noise, whole
from diwa_learning.world_model.lockstep import lockstep, track, train_together
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.replay import fingerprint


@dataclass(frozen=True)
class PolicyConfig:
    """Pre-training of the policy; the defaults are the paper's (Table S.3)."""

    net: PolicyNetConfig = field(default_factory=PolicyNetConfig)
    """Kind and sizes."""
    epochs: int = 5000
    """Passes over all (feature, chunk) pairs."""
    batch_size: int = 256
    """Pairs per optimiser step."""
    learning_rate: float = 1e-4
    """Of AdamW, at the start."""
    final_learning_rate: float = 1e-5
    """At the end of a cosine over the epochs."""
    weight_decay: float = 1e-6
    """Decoupled, of AdamW."""
    ema_decay: float = 0.995
    """Of the weights' moving average, which is what the checkpoint holds."""
    ema_start: int = 20
    """Epoch from which weights are averaged; before, the average is a copy of them."""
    ema_every: int = 10
    """Optimiser steps between updates of the average."""
    latent_samples: int = 8
    """Filtered samples of each demonstration; every pair draws one of them anew each epoch."""
    log_every: int = 10
    """Epochs between entries of the curves."""
    save_every: int = 500
    """Epochs between saves of the resumable state."""
    seed: int = 0
    """Of weights, latents, batches and noise."""


@dataclass(frozen=True)
class Pairs:
    """Training pairs: S samples of the features at each of N moments, and the chunk that was executed there.

    A stack has R runs before S and N.
    """

    features: Tensor
    """(S, N, F)."""
    actions: Tensor
    """(N, H, A)."""


@dataclass(frozen=True)
class PolicyJob(Job):
    """Train a policy to imitate the demonstrations of one skill."""

    command_name: ClassVar[str] = "train-policy"
    section: ClassVar[str] = "policy"

    demonstrations: Path
    """HDF5 file with demonstrations of one skill."""
    world_model: Path
    """Checkpoint folder of `diwa train-world-model`."""
    out: Path
    """Checkpoint folder; an interrupted training in it continues."""
    config: PolicyConfig = field(default_factory=PolicyConfig)
    """Sizes and schedule."""

    def run(self) -> None:
        """Train, or continue; leaves a `policy` checkpoint with the averaged weights."""
        train_policies([self], self.world_model)


def train_policies(jobs: Sequence[PolicyJob], world_model: Path) -> None:
    """Train many policies on one world model, those of one form stacked; each leaves what it would leave alone."""
    train_together(jobs, load_world_model(world_model, compute_device()), prepare, train)


@dataclass(frozen=True)
class Member:
    """One run of a stack, ready to train."""

    job: PolicyJob
    run: TrainingRun
    skill: str
    pairs: Pairs
    policy: ChainPolicy
    draws: Stream

    def form(self) -> Any:
        """All but the seed, and how many pairs there are."""
        return dataclasses.replace(self.job.config, seed=0), self.pairs.features.shape


def prepare(job: PolicyJob, world: LoadedWorldModel, library: Library, runs: ExitStack) -> Member | None:
    """Claim the job's folder and make its pairs and policy; None when it is finished."""
    model, config, dataset = world.model, job.config, library(job.demonstrations)
    skill = require_one_skill(dataset.episodes, job.demonstrations)
    inputs = {"demonstrations": fingerprint(dataset), "skill": skill}
    run = runs.enter_context(TrainingRun(job.out, "policy", config, world.spec, world.hash, inputs))
    if run.finished:
        return None
    pairs = make_pairs(model, dataset.episodes, config)
    policy = make_policy(config.net, model.feature_dim, world.spec.action_dim).to(model.device)
    return Member(job, run, skill, pairs, policy, Stream(config.seed, model.device))


def train(group: Sequence[Member], world: LoadedWorldModel) -> None:
    """The epochs of runs of one form; leaves the checkpoint of each."""
    config = group[0].job.config
    policy, draws = stack([member.policy for member in group]), Streams([member.draws for member in group])
    average = copy.deepcopy(policy).requires_grad_(False)
    pairs = Pairs(*(join([getattr(member.pairs, name) for member in group]) for name in ("features", "actions")))
    optimizer = torch.optim.AdamW(
        policy.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    shares = track(group, policy=policy, average=average, optimizer=optimizer)
    imitate = CapturedEach(lambda *pairs: gradients(policy, policy.loss(*pairs)))
    for epoch in lockstep(group, config.epochs, "epochs"):
        rate = cosine(epoch, config.epochs, config.learning_rate, config.final_learning_rate)
        set_learning_rate(optimizer, rate)
        losses = train_epoch(imitate, policy, average, optimizer, pairs, epoch, config, draws)
        if epoch % config.log_every == 0 or epoch == config.epochs - 1:
            for member, loss in zip(group, losses.reshape(-1).cpu(), strict=True):
                member.run.require_finite("loss", loss)
                member.run.log(epoch, {"loss": loss, "learning_rate": rate})
    for member, mine in zip(group, shares, strict=True):
        metrics = {**describe(config.net, member.skill, trained_steps=0), "pairs": pairs.actions.shape[-3]}
        member.run.finish(policy_weights(mine["average"]), metrics)


def make_pairs(model: WorldModel, episodes: Sequence[Episode], config: PolicyConfig) -> Pairs:
    """(feature_t, a_t .. a_{t+H-1}) of every demonstration, wholly inside it; its last action row leads nowhere."""
    generator, chunk = torch.Generator().manual_seed(config.seed), config.net.chunk
    if max(len(episode) for episode in episodes) <= chunk:
        raise DiwaError(f"no demonstration has more than {chunk} frames: record longer ones")
    clips = embed_clips(model, [whole(episode) for episode in episodes])
    usable = clips.valid.unfold(1, chunk + 1, 1).all(dim=-1)  # (N, T-H): the chunk and the frame it leads to
    samples = []
    for _ in range(config.latent_samples):
        features = [
            filtered_states(model, group, gumbel_noise(model.rssm, *group.valid.shape, generator=generator)).features
            for group in clips.split(64)
        ]
        samples.append(torch.cat(features)[:, : usable.shape[1]][usable])
    chunks = clips.actions.unfold(1, chunk, 1)[:, : usable.shape[1]].transpose(2, 3)  # (N, T-H, H, A)
    return Pairs(torch.stack(samples), chunks[usable])


def train_epoch(
    imitate: Callable[..., Tensor],
    policy: ChainPolicy,
    average: ChainPolicy,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    epoch: int,
    config: PolicyConfig,
    draws: Streams,
) -> Tensor:
    """One pass over the pairs in random order; returns the mean loss, a scalar or (R,).

    `imitate` takes what `policy.loss` takes, leaves the gradients and returns the loss.
    """
    samples, count = pairs.features.shape[-3:-1]
    features = pairs.features.flatten(-3, -2)
    drawn = (samples * draws.uniform(count)).long()
    order = draws.permutation(count).split(config.batch_size, -1)
    total = torch.zeros(draws.leading, device=draws.device)
    for step, chosen in enumerate(order):
        seen, actions = rows(features, drawn.gather(-1, chosen) * count + chosen), rows(pairs.actions, chosen)
        k = 1 + (policy.steps * draws.uniform(chosen.shape[-1])).long()
        loss = imitate(seen, actions, k, draws.normal(*actions.shape[-3:]))
        optimizer.step()
        total += loss * (chosen.shape[-1] / count)
        if epoch >= config.ema_start and (epoch * len(order) + step + 1) % config.ema_every == 0:
            update_average(average, policy, config.ema_decay)
    if epoch < config.ema_start:
        update_average(average, policy, 0.0)
    return total


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * model, parameter by parameter."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
