"""Phase 3: the reward, a classifier of filtered and imagined latents or the world model's own decoder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from diwa_data.config import Job
from diwa_data.dataset.dataset import Episode, load_dataset, require_one_skill
from diwa_data.dataset.play_marks import PlayMarks, read_play_marks
from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import Checkpoint, build, load_checkpoint
from diwa_learning.core.device import compiled, compute_device, step
from diwa_learning.core.run import TrainingRun, require_run_folder
from diwa_learning.reward.calibration import calibrate
from diwa_learning.reward.classifier import (
    NEGATIVE,
    POSITIVE,
    DecodedReward,
    ImageClassifier,
    RewardClassifier,
    RewardConfig,
    SuccessClassifier,
    decoded_reward,
    goal_of,
    recorded_margin,
)
from diwa_learning.reward.data import Items, RewardData, Truth, make_data
from diwa_learning.reward.onset import onset_folds, others, with_onsets
from diwa_learning.reward.screening import fold_count, left_out, screened, training_items
from diwa_learning.world_model.model import LoadedWorldModel, WorldModel, load_world_model
from diwa_learning.world_model.replay import fingerprint


@dataclass(frozen=True)
class RewardJob(Job):
    """Train the success classifier of one skill, which gives the reward in dreams.

    With --kind decoder, a hybrid world model's own decoder takes its place; nothing is trained, only measured.
    """

    command_name: ClassVar[str] = "train-reward"
    section: ClassVar[str] = "reward"

    demonstrations: Path
    """HDF5 file of demonstrations of one skill; attempts that are marked as failed give negatives."""
    world_model: Path
    """Checkpoint folder of `diwa train-world-model`."""
    out: Path
    """Checkpoint folder; an interrupted training continues."""
    play: Path | None = None
    """HDF5 file of play, for more negatives."""
    config: RewardConfig = field(default_factory=RewardConfig)
    """Sizes and schedule."""
    play_marks: Path | None = None
    """CSV file that says when the skill is done in play (columns skill, episode, from, to; seconds).
    Without it, play that shows a success counts as failure, unless screening leaves it out."""

    def run(self) -> None:
        """Train, or continue; leaves a `reward` checkpoint with weights, threshold and held-out scores."""
        train_reward(self)


def train_reward(job: RewardJob, truth: Truth | None = None) -> None:
    """Train the classifier of one skill; leave a `reward` checkpoint with weights, threshold and held-out scores.

    A decoder is taken from the world model and scored on the same latents, labelled by their recorded scene state.
    `truth` takes the place of the operator's marks, to measure what they cost: only a simulator has one.
    """
    config = job.config
    require_run_folder(job.out)
    world = load_world_model(job.world_model, compute_device())
    model, spec = world.model, world.spec
    if config.kind == "decoder" and not model.config.scene_state:
        raise DiwaError(
            f"{job.world_model} decodes no scene state, from which --kind decoder computes the reward: train a world "
            "model with --scene-state, or use --kind classifier"
        )
    demos, plays = load_dataset(job.demonstrations, spec), load_dataset(job.play, spec) if job.play else None
    skill = require_one_skill(demos.episodes, job.demonstrations)
    inputs = {"demonstrations": fingerprint(demos), "play": plays and fingerprint(plays), "skill": skill}
    marks = read_play_marks(job.play_marks, skill) if job.play_marks else None
    if marks is not None:
        require_marked(marks, plays.episodes if plays else [], job)
        inputs["play_marks"] = hashlib.sha256(job.play_marks.read_bytes()).hexdigest() if job.play_marks else ""
    if failed := [episode.name for episode in demos.episodes if episode.outcome == "fail"]:
        inputs["failed"] = ", ".join(failed)
    with TrainingRun(job.out, "reward", config, spec, world.hash, inputs) as run:
        if run.finished:
            return
        decoder: DecodedReward | None = None
        if config.kind == "decoder":
            goal = goal_of(demos, skill, config.goal)
            decoder = decoded_reward(model, goal, demos.episodes, config.seed)
            truth = truth or (lambda episode: recorded_margin(episode, goal, spec) >= 0)
        data = make_data(model, demos.episodes, plays.episodes if plays else [], config, truth, skill, marks)
        fitted = Fitted(decoder, [], data, {"items": 0}) if decoder else fit(run, model, data, config)
        fitted.classifier.success_ticks, fitted.classifier.on_robot = config.success_ticks, config.on_robot
        metrics = calibrate(model, fitted.classifier, fitted.screens, fitted.data, config)
        run.finish(fitted.classifier.state_dict(), {"skill": skill, **fitted.metrics, **metrics})


def require_marked(marks: PlayMarks, play: Sequence[Episode], job: RewardJob) -> None:
    """Raise `DiwaError` for marks of play that is not there, or has no episode of that number."""
    if not play:
        raise DiwaError(f"{job.play_marks} marks play, but no play is given: add --play")
    if unknown := sorted(marks.keys() - {episode.name for episode in play}):
        raise DiwaError(f"{job.play_marks} marks episode {unknown[0]}, but {job.play} has no episode of that number")


@dataclass(frozen=True)
class Fitted:
    """A trained classifier."""

    classifier: SuccessClassifier
    screens: Sequence[SuccessClassifier]
    """Those that screened play for it."""
    data: RewardData
    """The latents that it was trained on, and those held out, with the labels that were found."""
    metrics: dict[str, Any]
    """`items` that it was trained on, the share of play that was left out, and `onset_seconds` before the mark."""


def fit(run: TrainingRun, model: WorldModel, data: RewardData, config: RewardConfig) -> Fitted:
    """Train the classifiers that look for onsets, those that screen play without marks, and then the one on all."""
    finders, folds = onset_folds(data.demos, config.onset_folds), fold_count(data.play, config.play_folds)
    names = [*(f"onset_{fold}" for fold in range(finders)), *(f"screen_{fold}" for fold in range(folds)), "classifier"]
    nets = [make_trained(config, model).to(model.device) for _ in names]
    if frame := make_frame(config, model):
        names, nets = [*names, "frame"], [*nets, frame.to(model.device)]
    adams = [torch.optim.Adam(net.parameters(), config.learning_rate, fused=True) for net in nets]
    rng = torch.Generator(model.device).manual_seed(config.seed)
    parts: dict[str, Any] = dict(zip(names, nets, strict=True))
    run.track(**parts, **{f"{name}_adam": adam for name, adam in zip(names, adams, strict=True)}, draws=rng)
    done = 0

    def learn(index: int, items: Items, passes: int) -> None:
        nonlocal done
        done += passes
        curve = "loss" if names[index] == "classifier" else f"{names[index]}_loss"
        batches = math.ceil(len(items) / config.batch_size)
        train_epochs(run, curve, nets[index], adams[index], items, rng, batches, done)

    metrics: dict[str, Any] = {}
    for fold in range(finders):
        learn(fold, others(data.demos, fold, finders), math.ceil(config.epochs / 2 / finders))
    if finders:
        data, metrics["onset_seconds"] = with_onsets(data, nets[:finders], model.spec.rate)
    for fold in range(folds):
        learn(finders + fold, training_items(data.demos, data.play, fold, folds), math.ceil(config.epochs / folds))
    items, screens, classifier = data.demos.used(), nets[finders : finders + folds], nets[finders + folds]
    if data.play:
        play = screened(data.play, screens, config.play_success_above, seen=True)
        items, metrics["play_left_out"] = Items.join(items, play.used()), left_out(play)
        print(f"reward: {100 * metrics['play_left_out']:.0f} % of play may be successes and is left out")
    learn(finders + folds, items, config.epochs)
    if frame:
        # Unmarked play is no failure here: single frames of it show lamps that are on and drawers that are open.
        known = [data.frames.used(), *([data.frames_play] if data.frames_play else [])]
        learn(len(nets) - 1, Items.join(*known), config.epochs)
        classifier.frame = frame
    return Fitted(classifier, screens, data, {"items": len(items), **metrics})


def train_epochs(
    run: TrainingRun,
    name: str,
    net: RewardClassifier,
    adam: torch.optim.Optimizer,
    items: Items,
    rng: torch.Generator,
    batches: int,
    until: int,
) -> None:
    """Train `net` until epoch `until` of the run, on batches that hold `positive_share` of successes."""
    config: RewardConfig = run.config
    n_positive = round(config.batch_size * config.positive_share)
    labels = (torch.arange(config.batch_size, device=rng.device) < n_positive).long()
    (successes, failures), loss_of = rows_of_classes(items), compiled(net.loss, rng.device)
    for epoch in run.steps(until, "epochs"):
        positive = draw_rows(successes, batches, n_positive, rng)
        negative = draw_rows(failures, batches, config.batch_size - n_positive, rng)
        total = torch.zeros((), device=rng.device)
        for rows in torch.cat([positive, negative], 1):
            loss = loss_of(items.features[rows], labels, config.temperature)
            step(adam, loss)
            total += loss.detach() / batches
        run.log(epoch, {name: total})


def draw_rows(rows: Tensor, batches: int, count: int, rng: torch.Generator) -> Tensor:
    """(batches, count) of `rows` at random, with replacement."""
    drawn = torch.rand(batches * count, generator=rng, device=rng.device) * len(rows)
    return rows[drawn.long().clamp_max(len(rows) - 1)].view(batches, count)


def rows_of_classes(items: Items) -> tuple[Tensor, Tensor]:
    """Rows of successes, and rows of failures. Raises `DiwaError` if there are none of one of them."""
    positive, negative = ((items.labels == label).nonzero()[:, 0] for label in (POSITIVE, NEGATIVE))
    if not len(positive) or not len(negative):
        raise DiwaError(
            f"demonstrations give {len(positive)} successes and {len(negative)} failures, but both are needed: "
            "mark success at least 2 s after the start and hold still for 1 s after it"
        )
    return positive, negative


def make_trained(config: RewardConfig, model: WorldModel) -> RewardClassifier:
    """An untrained classifier of the kind that `config` names."""
    return (
        ImageClassifier(model, config.width)
        if config.kind == "images"
        else RewardClassifier(model.feature_dim, config.width)
    )


def make_frame(config: RewardConfig, model: WorldModel) -> RewardClassifier | None:
    """An untrained classifier of single frames, if `config` wants their opinion."""
    return None if config.on_robot == "latents" else RewardClassifier(model.picture_dim, config.width)


@dataclass(frozen=True)
class LoadedReward:
    """A classifier, or a decoder in its place, in evaluation mode with what it was made for."""

    classifier: SuccessClassifier
    skill: str
    checkpoint: Checkpoint


def load_reward(path: Path, world: LoadedWorldModel) -> LoadedReward:
    """The classifier of a `reward` checkpoint; `DiwaError` when it is of another phase, spec or world model."""
    checkpoint = load_checkpoint(path, "reward", world.spec, world.hash)
    config, model = checkpoint.config_as(RewardConfig), world.model

    def make() -> SuccessClassifier:
        if config.kind == "decoder":
            return DecodedReward(model.feature_dim)
        classifier = make_trained(config, model)
        classifier.frame, classifier.on_robot = make_frame(config, model), config.on_robot
        return classifier

    classifier = build(make, checkpoint.weights, path)
    classifier.success_ticks = config.success_ticks
    return LoadedReward(classifier.eval().requires_grad_(False), checkpoint.skill, checkpoint)
