"""Phase 3: the reward, a classifier of filtered and imagined latents or the world model's own decoder."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from diwa_data.config import Job
from diwa_data.dataset.dataset import load_dataset, require_one_skill
from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import Checkpoint, build, load_checkpoint
from diwa_learning.core.device import compiled, compute_device, step
from diwa_learning.core.run import TrainingRun, require_run_folder
from diwa_learning.reward.classifier import (
    NEGATIVE,
    POSITIVE,
    DecodedReward,
    ImageClassifier,
    RewardClassifier,
    RewardConfig,
    SuccessClassifier,
    Threshold,
    choose_threshold,
    decoded_reward,
    goal_of,
    recorded_margin,
    score_at,
)
from diwa_learning.reward.data import Items, RewardData, Truth, make_data, screen_play
from diwa_learning.reward.done import run_lengths
from diwa_learning.world_model.latents import Clips, imagined_states
from diwa_learning.world_model.model import LoadedWorldModel, WorldModel, load_world_model
from diwa_learning.world_model.replay import fingerprint

DREAM_SAMPLES = 8
"""Dreams of each held-out demonstration in the report."""
LOWEST_RECALL = 0.7
"""Recall on held-out imagined latents below which a warning is printed. A policy fine-tuned at 0.55 got worse, at 0.79
better (docs/laptop.md)."""


@dataclass(frozen=True)
class RewardJob(Job):
    """Train the success classifier of one skill, which gives the reward in dreams.

    With --kind decoder, a hybrid world model's own decoder takes its place: only its scores are measured.
    """

    command_name: ClassVar[str] = "train-reward"
    section: ClassVar[str] = "reward"

    demonstrations: Path
    """HDF5 file with demonstrations of one skill; attempts that are marked failed give negatives."""
    world_model: Path
    """Checkpoint folder of `diwa train-world-model`."""
    out: Path
    """Checkpoint folder; an interrupted training in it continues."""
    play: Path | None = None
    """HDF5 file with play, for more negatives."""
    config: RewardConfig = field(default_factory=RewardConfig)
    """Sizes and schedule."""

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
        data = make_data(model, demos.episodes, plays.episodes if plays else [], config, truth)
        screen, classifier, items = (decoder, decoder, 0) if decoder else fit(run, model, data, config)
        held = Items.join(data.demos_held, screen_play(data.play_held, screen, config.play_negative_below))
        metrics = calibrate(model, classifier, held, data.held_out, config)
        run.finish(classifier.state_dict(), {"skill": skill, "items": items, **metrics})


def fit(
    run: TrainingRun, model: WorldModel, data: RewardData, config: RewardConfig
) -> tuple[RewardClassifier, RewardClassifier, int]:
    """Train a classifier on demonstrations alone, which screens play, then another one on both.

    Returns the two, and how many items the second one was trained on.
    """
    screen, classifier = (make_trained(config, model).to(model.device) for _ in range(2))
    adams = [torch.optim.Adam(net.parameters(), config.learning_rate, fused=True) for net in (screen, classifier)]
    rng = torch.Generator(model.device).manual_seed(config.seed)
    run.track(screen=screen, classifier=classifier, screen_adam=adams[0], adam=adams[1], draws=rng)
    share, screening = (1 - config.held_out) / config.batch_size, config.epochs if len(data.play) else 0
    n_demos = len(data.demos) + len(data.demos_held)
    n_play = 2 * config.play_segments * (config.context + config.horizon) if screening else 0
    train_epochs(run, "screen_loss", screen, adams[0], data.demos, rng, math.ceil(share * n_demos), screening)
    items = Items.join(data.demos, screen_play(data.play, screen, config.play_negative_below))
    batches = math.ceil(share * (n_demos + n_play))
    train_epochs(run, "loss", classifier, adams[1], items, rng, batches, screening + config.epochs)
    return screen, classifier, len(items)


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
            f"demonstrations give {len(positive)} successes and {len(negative)} failures, both are needed: "
            "mark success at least 2 s after the start and hold still for 1 s after it"
        )
    return positive, negative


@torch.no_grad()
def calibrate(
    model: WorldModel, classifier: SuccessClassifier, held: Items, demos: Clips, config: RewardConfig
) -> dict[str, Any]:
    """Set the classifier's threshold from held-out imagined latents, and report how well it or a decoder does.

    `dreams` are open-loop dreams from the first frames of held-out demonstrations: doing nothing should never
    succeed, the demonstrated actions, all of them, about as often as the recall says.
    """
    origins = {"filtered": held.where(~held.imagined), "imagined": held.where(held.imagined)}
    label = {name: items.labels.cpu().numpy() for name, items in origins.items()}
    probability = {name: classifier.probability(items.features).cpu().numpy() for name, items in origins.items()}
    scored = probability["imagined"], label["imagined"]
    if config.kind == "decoder":  # its own stays: where the probability says that the goal is passed
        own = float(classifier.threshold)
        threshold = Threshold(own, score_at(own, *scored).precision >= config.precision)
    else:
        threshold = choose_threshold(*scored, config.precision, config.lowest_threshold)
    classifier.threshold.fill_(threshold.value)
    if not threshold.reached:
        print(f"reward: precision {config.precision} is not reached on held-out imagined latents")
    scores = {name: score_at(threshold.value, probability[name], label[name]) for name in origins}
    said = (f"{name} precision {s.precision:.3f}, recall {s.recall:.3f}" for name, s in scores.items())
    print(f"reward: held-out latents, {'; '.join(said)}")
    if (recall := scores["imagined"].recall) < LOWEST_RECALL:
        print(
            f"reward: warning: it misses {100 * (1 - recall):.0f} % of what succeeds in imagination, and fine-tuning "
            "will please what it does see: take more demonstrations or another reward.kind"
        )
    return {
        "threshold": threshold.value,
        "threshold_reached": threshold.reached,
        **{name: dataclasses.asdict(score) for name, score in scores.items()},
        "dreams": dreams(model, classifier, demos, config),
    }


def dreams(model: WorldModel, classifier: SuccessClassifier, demos: Clips, config: RewardConfig) -> dict[str, float]:
    """Share of open-loop dreams from the first frames of demonstrations that succeed, idle and as demonstrated."""
    generator = torch.Generator().manual_seed(config.seed)
    beginnings = demos.cut(range(len(demos.valid)), [0] * len(demos.valid), config.context + config.horizon)
    return {
        name: float(dreamt_success(model, classifier, clips, config.context, DREAM_SAMPLES, generator).mean())
        for name, clips in (("idle", idle(beginnings, model, config.context)), ("demonstrated", demos))
    }


@torch.no_grad()
def dreamt_success(
    model: WorldModel,
    classifier: SuccessClassifier,
    clips: Clips,
    context: int,
    samples: int,
    generator: torch.Generator,
) -> Tensor:
    """Share of each clip's (N,) dreams under its own actions in which the skill is done (`reward/done.py`).

    The first `context` frames are filtered, and not judged.
    """
    found = []
    for _ in range(samples):
        noise = model.rssm.noise(*clips.valid.shape, rng=generator)
        sure = classifier.is_success(classifier.probability(imagined_states(model, clips, noise, context).features))
        lengths = run_lengths((sure & clips.valid)[:, context:], sure.new_zeros(len(sure), dtype=torch.int64))
        found.append((lengths >= classifier.success_ticks).any(dim=1))
    return torch.stack(found).float().mean(dim=0)


def idle(clips: Clips, model: WorldModel, context: int) -> Clips:
    """The same first `context` frames, the null action ever after, and no end before the horizon."""
    step = torch.arange(clips.actions.shape[1], device=clips.actions.device)[:, None]
    actions = torch.where(step < context - 1, clips.actions, model.null_action)  # seen frames keep theirs
    return Clips(clips.embeds, actions, torch.ones_like(clips.valid))


def make_trained(config: RewardConfig, model: WorldModel) -> RewardClassifier:
    """An untrained classifier of the kind that `config` names."""
    return (
        ImageClassifier(model, config.width)
        if config.kind == "images"
        else RewardClassifier(model.feature_dim, config.width)
    )


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
        return DecodedReward(model.feature_dim) if config.kind == "decoder" else make_trained(config, model)

    classifier = build(make, checkpoint.weights, path)
    classifier.success_ticks = config.success_ticks
    return LoadedReward(classifier.eval().requires_grad_(False), checkpoint.skill, checkpoint)
