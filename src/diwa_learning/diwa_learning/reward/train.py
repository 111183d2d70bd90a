"""Phase 3: the reward, a classifier of filtered and imagined latents or the world model's own decoder.

METHOD sections 3 and 1 (hybrid variant).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from diwa_data.config import Job
from diwa_data.dataset.dataset import Library, require_one_skill
from diwa_learning.core.capture import adam
from diwa_learning.core.checkpoint import Checkpoint, load_checkpoint
from diwa_learning.core.device import compute_device
from diwa_learning.core.run import TrainingRun
from diwa_learning.core.stacking import Stream, Streams, stack
from diwa_learning.core.tensor_file import build
from diwa_learning.reward.classifier import (
    ImageClassifier,
    RewardClassifier,
    RewardConfig,
    SuccessJudge,
    Threshold,
    choose_threshold,
    score_at,
)
from diwa_learning.reward.data import (
    ItemBank,
    Items,
    Latents,
    RewardData,
    Truth,
    dreamt_success,
    make_data,
    screen_play,
    train_epochs,
)
from diwa_learning.reward.decoder import DecodedReward, decoded_reward, recorded_margin, require_scene_decoder
from diwa_learning.world_model.checkpoint import LoadedWorldModel, load_world_model
from diwa_learning.world_model.latents import Clips
from diwa_learning.world_model.lockstep import track, train_together
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.replay import fingerprint

CHUNK, DREAM_SAMPLES = 4, 8
"""Actions between looks at the reward in the report's dreams, and dreams per held-out demonstration."""
LOWEST_RECALL = 0.7
"""Of held-out imagined latents; below it a warning. A policy fine-tuned at 0.55 got worse, at 0.79 better
(docs/laptop.md)."""


@dataclass(frozen=True)
class LoadedReward:
    """A classifier, or a decoder in its place, in evaluation mode with what it was made for."""

    classifier: SuccessJudge
    skill: str
    checkpoint: Checkpoint


@dataclass(frozen=True)
class RewardJob(Job):
    """Train the success classifier of one skill, which gives the reward in dreams.

    With --kind decoder, a hybrid world model's own decoder takes its place: only its scores are measured.
    """

    command_name: ClassVar[str] = "train-reward"
    section: ClassVar[str] = "reward"

    demonstrations: Path
    """HDF5 file with demonstrations of one skill."""
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
        train_rewards([self], self.world_model)


def train_rewards(jobs: Sequence[RewardJob], world_model: Path, truth: Truth | None = None) -> None:
    """Train many classifiers on one world model, those of one form stacked; each leaves what it would leave alone.

    `truth` takes the place of the operator's marks, to measure what they cost: only a simulator has one.
    """
    world = load_world_model(world_model, compute_device())
    if any(job.config.kind == "decoder" for job in jobs):
        require_scene_decoder(world.model, world_model)
    train_together(jobs, world, partial(prepare, truth=truth), train)


@dataclass(frozen=True)
class Member:
    """One run of a stack, ready to train."""

    job: RewardJob
    run: TrainingRun
    skill: str
    data: RewardData
    screen: SuccessJudge
    """Says which frames of play are surely failures, where nothing better knows."""
    classifier: SuccessJudge
    draws: Stream

    def form(self) -> Any:
        """All but the seed, and how many steps there are."""
        config, alone = self.job.config, None if self.classifier.stackable else self.job.out
        return dataclasses.replace(config, seed=0), self.data.batches(config), self.data.screening(config), alone


def prepare(
    job: RewardJob, world: LoadedWorldModel, library: Library, runs: ExitStack, truth: Truth | None
) -> Member | None:
    """Claim the job's folder and make its latents and networks; None when it is finished."""
    model, config = world.model, job.config
    demos, plays = library(job.demonstrations), library(job.play) if job.play else None
    skill = require_one_skill(demos.episodes, job.demonstrations)
    inputs = {"demonstrations": fingerprint(demos), "play": plays and fingerprint(plays), "skill": skill}
    run = runs.enter_context(TrainingRun(job.out, "reward", config, world.spec, world.hash, inputs))
    if run.finished:
        return None
    decoder = None
    if config.kind == "decoder":
        decoder = decoded_reward(model, skill, demos.episodes, config.seed)
        truth = truth or (lambda episode: recorded_margin(episode, skill, world.spec) >= 0)
    data = make_data(model, demos.episodes, plays.episodes if plays else [], config, truth)
    screen, classifier = (decoder or make_judge(config, model).to(model.device) for _ in range(2))
    return Member(job, run, skill, data, screen, classifier, Stream(config.seed, model.device))


def train(group: Sequence[Member], world: LoadedWorldModel) -> None:
    """Screen play, train on demonstrations and the play that passed; leaves the checkpoint of each run."""
    config, first = group[0].job.config, group[0].data
    if config.kind == "decoder":
        for member in group:
            finish(member, world.model, items=0)
        return
    screens, classifiers = (
        stack_classifiers([m.screen for m in group]),
        stack_classifiers([m.classifier for m in group]),
    )
    adams = [adam(net, config.learning_rate) for net in (screens, classifiers)]
    shares = track(group, screen=screens, classifier=classifiers, screen_adam=adams[0], adam=adams[1])
    draws, batches, screening = Streams([m.draws for m in group]), first.batches(config), first.screening(config)
    demos = ItemBank([member.data.demos.both() for member in group])
    train_epochs(group, "screen_loss", screens, adams[0], demos, draws, batches.screen, until=screening)
    for member, mine in zip(group, shares, strict=True):
        member.screen.load_state_dict(mine["screen"].state_dict())
    passed = [m.data.demos.and_these(screen_play(m.data.play, m.screen, config.play_negative_below)) for m in group]
    items = ItemBank([latents.both() for latents in passed])
    until = screening + config.epochs
    train_epochs(group, "loss", classifiers, adams[1], items, draws, batches.classifier, until)
    for member, mine, latents in zip(group, shares, passed, strict=True):
        member.classifier.load_state_dict(mine["classifier"].state_dict())
        finish(member, world.model, len(latents.both().labels))


def stack_classifiers(judges: Sequence[SuccessJudge]) -> RewardClassifier:
    """Those of a group, which are all classifiers, as one."""
    return stack([judge for judge in judges if isinstance(judge, RewardClassifier)])


def finish(member: Member, model: WorldModel, items: int) -> None:
    """Choose the threshold of one run, judge it, and leave its checkpoint."""
    config, data, classifier = member.job.config, member.data, member.classifier
    held = data.demos_held.and_these(screen_play(data.play_held, member.screen, config.play_negative_below))
    metrics = judge(model, classifier, held, data.held_out.clips, config)
    member.run.finish(classifier.state_dict(), {"skill": member.skill, "items": items, **metrics})


@torch.no_grad()
def judge(
    model: WorldModel, classifier: SuccessJudge, held: Latents, demos: Clips, config: RewardConfig
) -> dict[str, Any]:
    """Set the classifier's threshold from held-out imagined latents, and report how well it or a decoder does.

    `dreams` are open-loop dreams from the first frames of held-out demonstrations: doing nothing should never
    succeed, the demonstrated actions, all of them, about as often as the recall says.
    """
    probability = {name: classifier.probability(items.features).cpu().numpy() for name, items in origins(held)}
    label = {name: items.labels.cpu().numpy() for name, items in origins(held)}
    threshold = find_threshold(classifier, probability["imagined"], label["imagined"], config)
    classifier.threshold.fill_(threshold.value)
    if not threshold.reached:
        print(f"reward: precision {config.precision} is not reached on held-out imagined latents")
    scores = {name: score_at(threshold.value, probability[name], label[name]) for name, _ in origins(held)}
    said = (f"{name} precision {s.precision:.3f}, recall {s.recall:.3f}" for name, s in scores.items())
    print(f"reward: held-out latents, {'; '.join(said)}")
    if (recall := scores["imagined"].recall) < LOWEST_RECALL:
        print(
            f"reward: warning: it misses {100 * (1 - recall):.0f} % of what succeeds in imagination, and fine-tuning "
            "will please what it does see: take more demonstrations or another reward.kind"
        )
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


def find_threshold(
    classifier: SuccessJudge, probability: np.ndarray, label: np.ndarray, config: RewardConfig
) -> Threshold:
    """As `choose_threshold`; a decoder's stays where the probability says that the goal is passed."""
    if config.kind != "decoder":
        return choose_threshold(probability, label, config.precision, config.lowest_threshold)
    value = float(classifier.threshold)
    return Threshold(value, score_at(value, probability, label).precision >= config.precision)


def origins(latents: Latents) -> list[tuple[str, Items]]:
    """The items of each origin by name."""
    return [("filtered", latents.filtered), ("imagined", latents.imagined)]


def idle(clips: Clips, model: WorldModel, context: int) -> Clips:
    """The same first `context` frames, the null action ever after, and no end before the horizon."""
    step = torch.arange(clips.actions.shape[1], device=clips.actions.device)[:, None]
    actions = torch.where(step < context - 1, clips.actions, model.null_action)  # seen frames keep theirs
    return Clips(clips.embeds, actions, torch.ones_like(clips.valid))


def make_judge(config: RewardConfig, model: WorldModel) -> SuccessJudge:
    """An untrained judge of the kind that `config` names."""
    if config.kind == "decoder":
        return DecodedReward(model.feature_dim)
    if config.kind == "images":
        return ImageClassifier(model, config.width)
    return RewardClassifier(model.feature_dim, config.width)


def load_reward(path: Path, world: LoadedWorldModel) -> LoadedReward:
    """The judge of a `reward` checkpoint; `DiwaError` when it is of another phase, spec or world model."""
    checkpoint = load_checkpoint(path, "reward", world.spec, world.hash)
    config = checkpoint.config_as(RewardConfig)
    classifier = build(lambda: make_judge(config, world.model), checkpoint.weights, path)
    return LoadedReward(classifier.eval().requires_grad_(False), checkpoint.skill, checkpoint)
