"""Phase 3: the reward classifier, on filtered and on imagined latents (METHOD section 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diwa_data.dataset import Episode, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec, require_same
from diwa_learning.checkpoint import Checkpoint, load_checkpoint, load_weights, load_world_model
from diwa_learning.features import Clips, require_one_skill
from diwa_learning.reward import (
    NEGATIVE,
    POSITIVE,
    RewardClassifier,
    choose_threshold,
    demonstration_labels,
    score_at,
)
from diwa_learning.reward_data import (
    Demonstrations,
    Items,
    Latents,
    Stretch,
    Truth,
    demonstration_latents,
    dreamt_success,
    encode_demonstrations,
    play_latents,
    screen_play,
)
from diwa_learning.sequences import fingerprint
from diwa_learning.training import TrainingRun
from diwa_learning.world_model import WorldModel

CHUNK, DREAM_SAMPLES = 4, 8
"""Actions between looks at the reward in the report's dreams, and dreams per held-out demonstration."""


@dataclass(frozen=True)
class RewardConfig:
    """Training of the reward classifier; the defaults are the paper's (Table S.4)."""

    width: int = 512
    """Units of each layer."""
    epochs: int = 100
    """Passes over all items; with play, as many before for the classifier that screens it."""
    batch_size: int = 32
    """Items per optimiser step."""
    learning_rate: float = 1e-6
    """Of Adam."""
    margin: float = 1.0
    """Seconds: frames of a demonstration are failures until so long before its success mark, then unused up to it."""
    temperature: float = 0.5
    """Of NT-Xent."""
    positive_share: float = 0.5
    """Share of each batch drawn from success items, which are rare."""
    latent_samples: int = 2
    """Draws of the noise of each demonstration's latents."""
    imagined_every: int = 8
    """Frames between the first frames of a demonstration's imagined stretches; the first starts at frame 0."""
    context: int = 1
    """Frames of a stretch that are filtered before imagination begins: as before a dream (`starts.context`)."""
    horizon: int = 72
    """Most actions imagined in a stretch: as long as a dream."""
    play_segments: int = 300
    """Random stretches of `horizon` actions of play that give negatives."""
    play_negative_below: float = 0.1
    """Play frames are negatives where a classifier trained on demonstrations alone scores below this."""
    held_out: float = 0.2
    """Share of demonstrations and of play stretches kept for threshold and report; at least one demonstration."""
    precision: float = 0.95
    """The threshold has the best recall at this precision on held-out imagined latents."""
    lowest_threshold: float = 0.5
    """But it is no lower: a dream that goes on until something passes finds what few recorded frames show."""
    save_every: int = 10
    """Epochs between saves of the resumable state."""
    seed: int = 0
    """Of weights, latents and batches."""


@dataclass(frozen=True)
class RewardData:
    """Latents for training and the held-out ones, demonstrations and play apart; play is not yet labelled."""

    demos: Latents
    demos_held: Latents
    play: Latents
    play_held: Latents
    held_out: Demonstrations


@dataclass(frozen=True)
class LoadedReward:
    """A classifier in evaluation mode with what it was made for."""

    classifier: RewardClassifier
    skill: str
    checkpoint: Checkpoint


def train_reward(
    demonstrations: Path,
    play: Path | None,
    world_model: Path,
    out: Path,
    config: RewardConfig,
    truth: Truth | None = None,
) -> None:
    """Train the classifier of one skill; leave a `reward` checkpoint with weights, threshold and held-out scores.

    `truth` takes the place of the operator's marks, to measure what they cost: only a simulator has one.
    """
    world, demos = load_world_model(world_model), load_dataset(demonstrations)
    model, plays = world.model, load_dataset(play, world.spec) if play else None
    require_same(world.spec, demos.spec, str(demonstrations))
    skill = require_one_skill(demos.episodes, demonstrations)
    inputs = {"demonstrations": fingerprint(demos), "play": plays and fingerprint(plays), "skill": skill}
    with TrainingRun(out, "reward", config, world.spec, world.hash, inputs) as run:
        if run.finished:
            return
        data = make_data(model, demos.episodes, plays.episodes if plays else [], config, truth)
        screen, classifier = (RewardClassifier(model.feature_dim, config.width) for _ in range(2))
        screen_adam, adam = (
            torch.optim.Adam(net.parameters(), config.learning_rate, fused=True) for net in (screen, classifier)
        )
        run.track(screen=screen, classifier=classifier, screen_adam=screen_adam, adam=adam)
        screening = config.epochs if len(data.play.filtered.labels) else 0
        train(run, "screen_loss", screen, screen_adam, data.demos.both(), until=screening)
        latents = data.demos.and_these(screen_play(data.play, screen, config.play_negative_below))
        train(run, "loss", classifier, adam, latents.both(), until=screening + config.epochs)
        held = data.demos_held.and_these(screen_play(data.play_held, screen, config.play_negative_below))
        metrics = judge(model, classifier, held, data.held_out.clips, config)
        run.finish(classifier.state_dict(), {"skill": skill, "items": len(latents.both().labels), **metrics})


def make_data(
    model: WorldModel,
    demonstrations: Sequence[Episode],
    play: Sequence[Episode],
    config: RewardConfig,
    truth: Truth | None = None,
) -> RewardData:
    """Encode everything, with some demonstrations and stretches of play held out."""
    unmarked = [episode.name for episode in demonstrations if not episode.success.any()]
    if unmarked:
        print(f"reward: left out, no success mark in them: demonstrations {', '.join(unmarked)}")
    demonstrations = [episode for episode in demonstrations if episode.success.any()]
    if len(demonstrations) < 2:
        raise DiwaError(
            "the reward needs two or more demonstrations with a success mark, one is held out to choose the "
            f"threshold; there are {len(demonstrations)}: mark success while recording"
        )

    def operator(episode: Episode) -> np.ndarray:
        return demonstration_labels(episode, model.spec.rate, config.margin)

    rng, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    order = rng.permutation(len(demonstrations))
    n_held = min(max(1, round(config.held_out * len(order))), len(order) - 1)
    held, train = (
        encode_demonstrations(model, [demonstrations[i] for i in some], truth or operator)
        for some in np.split(order, [n_held])
    )
    stretch = Stretch(config.context, config.horizon)
    demos, demos_held = (
        demonstration_latents(model, some, stretch, config.imagined_every, config.latent_samples, generator)
        for some in (train, held)
    )
    n_play_held = round(config.held_out * config.play_segments)
    play_train, play_held = (
        play_latents(model, play, segments, stretch, rng, truth)
        for segments in (config.play_segments - n_play_held, n_play_held)
    )
    return RewardData(demos, demos_held, play_train, play_held, held)


def train(
    run: TrainingRun, name: str, net: RewardClassifier, adam: torch.optim.Optimizer, items: Items, until: int
) -> None:
    """Train `net` on items until the run's epoch `until`; batches hold `positive_share` of successes."""
    config: RewardConfig = run.config
    positive, negative = ((items.labels == label).nonzero()[:, 0] for label in (POSITIVE, NEGATIVE))
    if not len(positive) or not len(negative):
        raise DiwaError(
            f"demonstrations give {len(positive)} successes and {len(negative)} failures, both are needed: "
            "mark success at least 2 s after the start and hold still for 1 s after it"
        )
    n_positive = round(config.batch_size * config.positive_share)
    n_batches = -(-len(items.labels) // config.batch_size)
    for epoch in run.steps(until, "epochs"):
        chosen = torch.cat(
            [
                positive[torch.randint(len(positive), (n_batches, n_positive))],
                negative[torch.randint(len(negative), (n_batches, config.batch_size - n_positive))],
            ],
            dim=1,
        )
        total = torch.zeros(())
        for batch in chosen:
            loss = net.loss(items.features[batch], items.labels[batch], config.temperature)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
            total += loss.detach() / n_batches
        run.require_finite(name, total)
        run.log(epoch, {name: total})


@torch.no_grad()
def judge(
    model: WorldModel, classifier: RewardClassifier, held: Latents, demos: Clips, config: RewardConfig
) -> dict[str, Any]:
    """Set the threshold from held-out imagined latents, and report how well it does.

    `dreams` are open-loop dreams from the first frames of held-out demonstrations: doing nothing should never
    succeed, the demonstrated actions, all of them, about as often as the recall says.
    """
    probability = {name: classifier.probability(items.features).numpy() for name, items in origins(held)}
    label = {name: items.labels.numpy() for name, items in origins(held)}
    threshold = choose_threshold(probability["imagined"], label["imagined"], config.precision, config.lowest_threshold)
    classifier.threshold.fill_(threshold.value)
    if not threshold.reached:
        print(f"reward: no threshold reaches precision {config.precision} on held-out imagined latents; took the best")
    scores = {name: score_at(threshold.value, probability[name], label[name]) for name, _ in origins(held)}
    generator = torch.Generator().manual_seed(config.seed)
    beginnings = demos.cut(range(len(demos.valid)), [0] * len(demos.valid), config.context + config.horizon)
    dreams = {
        name: float(dreamt_success(model, classifier, clips, config.context, CHUNK, DREAM_SAMPLES, generator).mean())
        for name, clips in (("idle", idle(beginnings, model, config.context)), ("demonstrated", demos))
    }
    return {
        "threshold": threshold.value,
        "threshold_reached": threshold.reached,
        **{name: dataclasses.asdict(score) for name, score in scores.items()},
        "dreams": dreams,
    }


def origins(latents: Latents) -> list[tuple[str, Items]]:
    """The items of each origin by name."""
    return [("filtered", latents.filtered), ("imagined", latents.imagined)]


def idle(clips: Clips, model: WorldModel, context: int) -> Clips:
    """The same first `context` frames, the null action ever after, and no end before the horizon."""
    led = torch.arange(clips.actions.shape[1])[:, None] < context - 1  # to the frames that are seen
    actions = torch.where(led, clips.actions, model.null_action)
    return Clips(clips.embeds, actions, torch.ones_like(clips.valid))


def load_reward(path: Path, spec: Spec, world_model_hash: str, feature_dim: int) -> LoadedReward:
    """The classifier of a `reward` checkpoint; `DiwaError` when it is of another phase, spec or world model."""
    checkpoint = load_checkpoint(path, "reward", spec, world_model_hash)
    classifier = RewardClassifier(feature_dim, checkpoint.config_as(RewardConfig).width)
    load_weights(classifier, checkpoint.weights, checkpoint.path)
    return LoadedReward(classifier.eval().requires_grad_(False), checkpoint.metrics["skill"], checkpoint)
