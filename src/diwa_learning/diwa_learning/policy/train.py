"""Phase 2: imitate the demonstrations of one skill from filtered features (paper, Eq. 1 and 12)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from diwa_data.config import Job, require_at_least
from diwa_data.dataset.dataset import Dataset, Episode, load_dataset, require_one_skill, without_failures
from diwa_data.errors import DiwaError
from diwa_learning.core.device import compiled, compute_device, cosine, set_learning_rate, step
from diwa_learning.core.run import TrainingRun, require_run_folder
from diwa_learning.policy.base import ChainPolicy
from diwa_learning.policy.check import require_protocol
from diwa_learning.policy.checkpoint import PolicyNetConfig, describe, make_policy, policy_weights
from diwa_learning.world_model.latents import Segment, embed_clips, filtered_states
from diwa_learning.world_model.model import WorldModel, load_world_model
from diwa_learning.world_model.replay import fingerprint


@dataclass(frozen=True)
class PolicyConfig:
    """Imitation: pre-training of the policy. The defaults are the paper's (Table S.3)."""

    net: PolicyNetConfig = field(default_factory=PolicyNetConfig)
    """Kind and sizes of the policy."""
    epochs: int = 5000
    """Passes over all (feature, chunk) pairs."""
    batch_size: int = 256
    """Pairs per optimiser step."""
    learning_rate: float = 1e-4
    """Learning rate of AdamW in the first epoch."""
    final_learning_rate: float = 1e-5
    """Learning rate of AdamW in the last epoch; it falls along a cosine."""
    weight_decay: float = 1e-6
    """Decoupled weight decay of AdamW."""
    ema_decay: float = 0.995
    """Decay of the moving average of the weights at each of its updates; the checkpoint holds the average."""
    ema_start: int = 20
    """Epoch from which weights are averaged; before that, the average is a copy of them."""
    ema_every: int = 10
    """Optimiser steps between updates of the average."""
    latent_samples: int = 8
    """Filtered latent samples of each demonstration; every epoch, each pair draws one of them."""
    after_success: float = 1.0
    """Seconds after a demonstration's success mark that are imitated; later the hand goes away."""
    log_every: int = 10
    """Epochs between entries of the curves."""
    save_every: int = 500
    """Epochs between saves of the resumable state."""
    seed: int = 0
    """Seed of weights, latents, batches and noise."""

    def __post_init__(self) -> None:
        require_at_least(self, 0, "after_success")


@dataclass(frozen=True)
class PolicyJob(Job):
    """Train a policy to imitate the demonstrations of one skill."""

    command_name: ClassVar[str] = "train-policy"
    section: ClassVar[str] = "policy"

    demonstrations: Path
    """HDF5 file of demonstrations of one skill; attempts that are marked as failed are left out."""
    world_model: Path
    """Checkpoint folder of `diwa train-world-model`."""
    out: Path
    """Checkpoint folder; an interrupted training continues."""
    config: PolicyConfig = field(default_factory=PolicyConfig)
    """Sizes and schedule."""

    def run(self) -> None:
        """Train, or continue; leaves a `policy` checkpoint with the averaged weights."""
        train_policy(self)


def train_policy(job: PolicyJob) -> None:
    """Train a policy on the demonstrations of one skill and leave a `policy` checkpoint with its averaged weights."""
    require_run_folder(job.out)
    config, world = job.config, load_world_model(job.world_model, compute_device())
    require_protocol(config.net, world.model.feature_dim, world.spec.action_dim)
    recorded, device = load_dataset(job.demonstrations, world.spec), world.model.device
    skill = require_one_skill(recorded.episodes, job.demonstrations)
    demonstrations = without_failures(recorded)
    inputs = {"demonstrations": fingerprint(demonstrations), "skill": skill}
    with TrainingRun(job.out, "policy", config, world.spec, world.hash, inputs) as run:
        if run.finished:
            return
        if said := imitated(recorded, demonstrations):
            print(said)
        pairs = make_pairs(world.model, demonstrations.episodes, config)
        del recorded, demonstrations  # all that is needed of them is on the device
        policy = make_policy(config.net, world.model.feature_dim, world.spec.action_dim).to(device)
        average, loss = copy.deepcopy(policy).requires_grad_(False), compiled(policy.loss, device)
        optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=config.weight_decay, fused=True)
        rng = torch.Generator(device).manual_seed(config.seed)
        run.track(policy=policy, average=average, optimizer=optimizer, draws=rng)
        for epoch in run.steps(config.epochs, "epochs"):
            rate = cosine(epoch, config.epochs, config.learning_rate, config.final_learning_rate)
            set_learning_rate(optimizer, rate)
            mean = train_epoch(loss, policy, average, optimizer, pairs, epoch, config, rng)
            run.watch(loss=mean)
            if epoch % config.log_every == 0 or epoch == config.epochs - 1:
                run.log(epoch, {"loss": mean, "learning_rate": rate})
        metrics = {**describe(config.net, skill, trained_steps=0), "pairs": len(pairs.actions)}
        run.finish(policy_weights(average), metrics)


def imitated(recorded: Dataset, demonstrations: Dataset) -> str:
    """A line about the demonstrations that are left out, and those that nobody marked; empty if all are successes."""
    failed = len(recorded.episodes) - len(demonstrations.episodes)
    unmarked = sum(episode.outcome == "none" for episode in demonstrations.episodes)
    if not failed and not unmarked:
        return ""
    said = f"policy: {len(demonstrations.episodes)} of {len(recorded.episodes)} demonstrations are imitated"
    said += f", {failed} left out as failed" * bool(failed)
    return said + f", {unmarked} without a mark among them ('diwa annotate' gives them one)" * bool(unmarked)


@dataclass(frozen=True)
class Pairs:
    """Training pairs: S samples of the features at each of N moments, and the chunk that was executed there."""

    features: Tensor
    """(S, N, F)."""
    actions: Tensor
    """(N, H, A)."""


def make_pairs(model: WorldModel, episodes: Sequence[Episode], config: PolicyConfig) -> Pairs:
    """(feature_t, a_t .. a_{t+H-1}) of every demonstration, wholly inside it; its last action row leads nowhere."""
    rng, chunk = torch.Generator().manual_seed(config.seed), config.net.chunk
    segments = [skill_in(episode, model.spec.rate, config.after_success) for episode in episodes]
    if max(map(len, segments)) <= chunk:
        raise DiwaError(f"no demonstration has more than {chunk} frames: record longer ones")
    clips = embed_clips(model, segments)
    usable = clips.valid.unfold(1, chunk + 1, 1).all(dim=-1)  # (N, T-H): the chunk and the frame it leads to
    samples = []
    for _ in range(config.latent_samples):
        features = [
            filtered_states(model, group, model.rssm.noise(*group.valid.shape, rng=rng)).features
            for group in clips.split(64)
        ]
        samples.append(torch.cat(features)[:, : usable.shape[1]][usable])
    chunks = clips.actions.unfold(1, chunk, 1)[:, : usable.shape[1]].transpose(2, 3)  # (N, T-H, H, A)
    return Pairs(torch.stack(samples), chunks[usable])


def skill_in(episode: Episode, rate: float, after_success: float) -> Segment:
    """A demonstration until `after_success` seconds after its success mark; all of it where it has none."""
    mark = int(np.argmax(episode.success)) if episode.success.any() else len(episode)
    return Segment(episode, 0, min(len(episode), mark + 1 + round(rate * after_success)))


def train_epoch(
    imitation_loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    policy: ChainPolicy,
    average: ChainPolicy,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    epoch: int,
    config: PolicyConfig,
    rng: torch.Generator,
) -> Tensor:
    """One pass over the pairs in random order; returns the mean of `imitation_loss`, that of the policy or compiled."""
    (samples, count), device = pairs.features.shape[:2], rng.device
    features = pairs.features.flatten(0, 1)
    drawn = (samples * torch.rand(count, generator=rng, device=device)).long()
    order = torch.randperm(count, generator=rng, device=device).split(config.batch_size)
    total = torch.zeros((), device=device)
    for batch, chosen in enumerate(order, start=epoch * len(order) + 1):
        rows, actions = drawn[chosen] * count + chosen, pairs.actions.index_select(0, chosen)
        k = 1 + (policy.steps * torch.rand(len(chosen), generator=rng, device=device)).long()
        noise = torch.randn(actions.shape, generator=rng, device=device)
        loss = imitation_loss(features.index_select(0, rows), actions, k, noise)
        step(optimizer, loss)
        total += loss.detach() * (len(chosen) / count)
        if epoch >= config.ema_start and batch % config.ema_every == 0:
            update_average(average, policy, config.ema_decay)
    if epoch < config.ema_start:
        update_average(average, policy, 0.0)
    return total


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * model, parameter by parameter."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
