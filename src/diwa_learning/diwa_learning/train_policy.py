"""Phase 2: imitate the demonstrations of one skill from filtered features (METHOD section 2)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from diwa_data.dataset import Episode, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.spec import require_same
from diwa_learning.chain import ChainPolicy
from diwa_learning.checkpoint import load_world_model
from diwa_learning.features import embed_clips, filtered_states, gumbel_noise, require_one_skill, whole
from diwa_learning.policy import PolicyNetConfig, describe, make_policy, policy_weights
from diwa_learning.schedule import cosine, set_learning_rate
from diwa_learning.sequences import fingerprint
from diwa_learning.training import TrainingRun
from diwa_learning.world_model import WorldModel


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
    """Training pairs: S samples of the features at each of N moments, and the chunk that was executed there."""

    features: Tensor
    """(S, N, F)."""
    actions: Tensor
    """(N, H, A)."""


def train_policy(demonstrations: Path, world_model: Path, out: Path, config: PolicyConfig) -> None:
    """Train a policy on the demonstrations of one skill and leave a `policy` checkpoint with its averaged weights."""
    world, dataset = load_world_model(world_model), load_dataset(demonstrations)
    require_same(world.spec, dataset.spec, str(demonstrations))
    skill = require_one_skill(dataset.episodes, demonstrations)
    inputs = {"demonstrations": fingerprint(dataset), "skill": skill}
    with TrainingRun(out, "policy", config, world.spec, world.hash, inputs) as run:
        if run.finished:
            return
        pairs = make_pairs(world.model, dataset.episodes, config)
        policy = make_policy(config.net, world.model.feature_dim, world.spec.action_dim)
        average = copy.deepcopy(policy).requires_grad_(False)
        optimizer = torch.optim.AdamW(
            policy.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        run.track(policy=policy, average=average, optimizer=optimizer)
        for epoch in run.steps(config.epochs, "epochs"):
            rate = cosine(epoch, config.epochs, config.learning_rate, config.final_learning_rate)
            set_learning_rate(optimizer, rate)
            loss = train_epoch(policy, average, optimizer, pairs, epoch, config)
            if epoch % config.log_every == 0 or epoch == config.epochs - 1:
                run.require_finite("loss", loss)
                run.log(epoch, {"loss": loss, "learning_rate": rate})
        run.finish(
            policy_weights(average), {**describe(config.net, skill, trained_steps=0), "pairs": len(pairs.actions)}
        )


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
    policy: ChainPolicy,
    average: ChainPolicy,
    optimizer: torch.optim.Optimizer,
    pairs: Pairs,
    epoch: int,
    config: PolicyConfig,
) -> Tensor:
    """One pass over the pairs in random order; returns the mean loss."""
    count = len(pairs.actions)
    drawn = torch.randint(len(pairs.features), (count,))
    order = torch.randperm(count).split(config.batch_size)
    total = torch.zeros(())
    for step, chosen in enumerate(order):
        loss = policy.loss(pairs.features[drawn[chosen], chosen], pairs.actions[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(chosen) / count
        if epoch >= config.ema_start and (epoch * len(order) + step + 1) % config.ema_every == 0:
            update_average(average, policy, config.ema_decay)
    if epoch < config.ema_start:
        update_average(average, policy, 0.0)
    return total


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * model, parameter by parameter."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
