"""Training of an ensemble of dynamics on filtered recordings, and its disagreement on held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from diwa_data.config import Job
from diwa_data.dataset.dataset import Episode, load_dataset
from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import build, load_checkpoint
from diwa_learning.core.device import compute_device, set_learning_rate, step
from diwa_learning.core.run import TrainingRun, require_run_folder
from diwa_learning.ensemble.disagreement import Ensemble, EnsembleConfig, Transitions
from diwa_learning.world_model.latents import (
    Clips,
    draw_segments,
    embed_clips,
    filtered_states,
    imagined_states,
    whole,
)
from diwa_learning.world_model.model import WorldModel, load_world_model
from diwa_learning.world_model.replay import fingerprint, split_held_out
from diwa_learning.world_model.rssm import State

CLIPS = 16
"""Recordings filtered or imagined at a time."""


@dataclass(frozen=True)
class LoadedEnsemble:
    """A trained ensemble in evaluation mode."""

    ensemble: Ensemble
    hash: str
    """Hash of its weights."""


@dataclass(frozen=True)
class EnsembleJob(Job):
    """Train an ensemble that tells where a world model's dreams are guesses: there its members disagree."""

    command_name: ClassVar[str] = "train-ensemble"
    section: ClassVar[str] = "ensemble"

    datasets: tuple[Path, ...]
    """HDF5 files that the world model was trained on."""
    world_model: Path
    """Checkpoint folder of `diwa train-world-model`."""
    out: Path
    """Checkpoint folder; an interrupted training continues."""
    config: EnsembleConfig = field(default_factory=EnsembleConfig)
    """Sizes and schedule."""

    def run(self) -> None:
        """Train, or continue."""
        train_ensemble(self)


def train_ensemble(job: EnsembleJob) -> None:
    """Train an ensemble for dreams of the job's world model; leaves an `ensemble` checkpoint.

    Raises `DiwaError` for fewer than two members, and for a dataset of another spec.
    """
    config, out = job.config, job.out
    if config.members < 2:
        raise DiwaError(f"an ensemble of {config.members} members cannot disagree: use 2 or more")
    require_run_folder(out)
    world = load_world_model(job.world_model, compute_device())
    loaded = [load_dataset(path, world.spec) for path in job.datasets]
    inputs = {"datasets": [fingerprint(dataset) for dataset in loaded]}
    with TrainingRun(out, "ensemble", config, world.spec, world.hash, inputs) as run:
        if run.finished:
            return
        training, held_out = split_held_out(loaded, config.held_out, run.rng)
        inputs_of, embeds, ends = filtered_transitions(world.model, training)
        ensemble = Ensemble(config, world.model.rssm).to(world.model.device)
        ensemble.set_statistics(embeds)
        optimizer = torch.optim.Adam(ensemble.members.parameters(), config.learning_rate, fused=True)
        resamples = [resample_episodes(ends, run.rng).to(embeds.device) for _ in range(config.members)]
        run.track(guard=ensemble, adam=optimizer)
        for update in run.steps(config.updates):
            set_learning_rate(optimizer, config.learning_rate * (1 - update / config.updates))
            drawn = torch.rand(config.members, config.batch_size, device=embeds.device)
            rows = torch.stack([own[(share * len(own)).long()] for own, share in zip(resamples, drawn, strict=True)])
            loss = ensemble.loss(inputs_of[rows], embeds[rows])  # (M,)
            step(optimizer, loss.sum())  # no member's gradient reaches another
            run.watch(loss=loss.mean())
            if update % config.log_every == 0:
                run.log(update, {"loss": loss.mean()})
        run.finish(ensemble.state_dict(), calibrate(ensemble, world.model, held_out, config))


@torch.no_grad()
def filtered_transitions(model: WorldModel, episodes: Sequence[Episode]) -> tuple[Tensor, Tensor, list[int]]:
    """`Transitions.inputs` (B, I) of filtered recordings, the embedding (B, E) after each, and where those of each
    episode end."""
    inputs, embeds, counts = [], [], []
    for clips in embed_clips(model, [whole(episode) for episode in episodes]).split(CLIPS):
        later = clips.valid[:, 1:]
        states = filtered_states(model, clips, model.rssm.noise(*clips.valid.shape))
        inputs.append(Transitions.within(states, clips.actions, later).inputs)
        embeds.append(model.rssm.inputs(clips.embeds[:, 1:])[later])
        counts += later.sum(1).tolist()
    return torch.cat(inputs), torch.cat(embeds), np.cumsum(counts).tolist()


def resample_episodes(ends: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Rows (B,) of as many episodes as there are, drawn with replacement; rows of each end before `ends`."""
    rows = np.split(np.arange(ends[-1]), ends[:-1])
    drawn = np.concatenate([rows[number] for number in rng.integers(len(rows), size=len(rows))])
    return torch.from_numpy(drawn if len(drawn) else np.arange(ends[-1]))


@torch.no_grad()
def calibrate(
    ensemble: Ensemble, model: WorldModel, episodes: Sequence[Episode], config: EnsembleConfig
) -> dict[str, float]:
    """Set mean and spread from segments of recordings, imagined under their actions; returns them."""
    rng, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    segments = draw_segments(episodes, config.stretches, config.context + config.horizon, rng)
    found = []
    for clips in embed_clips(model, segments).split(CLIPS):
        noise = model.rssm.noise(*clips.valid.shape, rng=generator)
        found.append(
            imagined_disagreement(ensemble, imagined_states(model, clips, noise, config.context), clips, config.context)
        )
    disagreement = torch.cat(found)
    if len(disagreement) < 2:
        raise DiwaError(
            f"no held-out recording is longer than the ensemble's context of {config.context} frames: lower it"
        )
    ensemble.mean.copy_(disagreement.mean())
    ensemble.std.copy_(disagreement.std())
    return {"mean": float(ensemble.mean), "std": float(ensemble.std)}


def imagined_disagreement(ensemble: Ensemble, states: State, clips: Clips, context: int) -> Tensor:
    """Disagreement (B,) over what `imagined_states` imagined after the first `context` frames of clips."""
    chosen = clips.valid[:, 1:].clone()
    chosen[:, : context - 1] = False
    return ensemble.disagreement(Transitions.within(states, clips.actions, chosen))


def load_ensemble(path: Path, model: WorldModel, world_model_hash: str) -> LoadedEnsemble:
    """The ensemble of a checkpoint; `DiwaError` when it is of another phase, spec or world model."""
    checkpoint = load_checkpoint(path, "ensemble", model.spec, world_model_hash)
    config = checkpoint.config_as(EnsembleConfig)
    if (first := checkpoint.weights.get("members.0.weight")) is not None and first.shape[
        -1
    ] == model.rssm.config.recurrent:
        raise DiwaError(
            f"{path} is of an earlier version, whose members shared the world model's dynamics: delete it and train it "
            "again with `diwa train-ensemble`, or the same demo or sweep; it takes a minute"
        )
    ensemble = build(lambda: Ensemble(config, model.rssm), checkpoint.weights, path)
    return LoadedEnsemble(ensemble.to(model.device).eval().requires_grad_(False), checkpoint.hash)
