"""Threshold and report of a trained classifier, or of a decoder in its place, from what was held out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diwa_learning.reward.classifier import (
    NEGATIVE,
    POSITIVE,
    RewardClassifier,
    RewardConfig,
    SuccessClassifier,
)
from diwa_learning.reward.data import Items, RewardData
from diwa_learning.reward.done import run_lengths
from diwa_learning.reward.screening import screened
from diwa_learning.reward.threshold import (
    RolloutScores,
    Threshold,
    choose_threshold,
    rollout_threshold,
    score_at,
    score_rollouts,
    strict_threshold,
)
from diwa_learning.world_model.latents import Clips, imagined_states
from diwa_learning.world_model.model import WorldModel

DREAM_SAMPLES = 8
"""Dreams of each held-out demonstration in the report."""
LEAST_DOUBT = 2**-24
"""Floor of one less the threshold: of float32, in which probabilities are computed."""
LOWEST_RECALL = 0.7
"""Recall on held-out imagined latents below which a warning is printed. A policy fine-tuned at 0.55 got worse, at 0.79
better (docs/laptop.md)."""


@torch.no_grad()
def calibrate(
    model: WorldModel,
    classifier: SuccessClassifier,
    screens: Sequence[SuccessClassifier],
    data: RewardData,
    config: RewardConfig,
) -> dict[str, Any]:
    """Set the classifier's threshold (`sure`) from what was held out, and report how well it or a decoder does.

    `dreams` are open-loop dreams from the first frames of held-out demonstrations: doing nothing should never succeed,
    the demonstrated actions, all of them, about as often as the recall says.
    """
    frame, classifier.frame = classifier.frame, None  # dreams have no images: the threshold comes from latents alone
    play = screened(data.play_held, screens, config.play_success_above, seen=False) if data.play_held else None
    held = Items.join(data.demos_held, *([play] if play else [])).used()
    scores = held_out_rollouts(model, classifier, data, config)
    origins = {"filtered": held.where(~held.imagined), "imagined": held.where(held.imagined)}
    label = {name: items.labels.cpu().numpy() for name, items in origins.items()}
    probability = {name: classifier.probability(items.features).cpu().numpy() for name, items in origins.items()}
    if config.kind == "decoder":  # its own stays: where the probability says that the goal is passed
        own = float(classifier.threshold)
        score = score_at(own, probability["imagined"], label["imagined"])
        threshold = Threshold(own, score.precision >= config.precision)
    else:
        threshold = sure(scores, probability, label, config)
    classifier.threshold.fill_(threshold.value)
    if frame is not None:
        align(frame, data.frames_held, threshold.value, config)
        classifier.frame = frame
        scores = held_out_rollouts(model, classifier, data, config)
    if not threshold.reached:
        print(f"reward: precision {config.precision} is not reached on held-out imagined latents")
    frames = {name: score_at(threshold.value, probability[name], label[name]) for name in origins}
    said = (f"{name} precision {s.precision:.3f}, recall {s.recall:.3f}" for name, s in frames.items())
    false, found = scores.declared(threshold.value)
    print(f"reward: held-out latents, {'; '.join(said)}")
    print(
        f"reward: held-out rollouts, declared done {false} of {len(scores.without)} without success, "
        f"{found} of {len(scores.successes)} successes"
    )
    if (recall := frames["imagined"].recall) < LOWEST_RECALL:
        print(
            f"reward: warning: it misses {100 * (1 - recall):.0f} % of what succeeds in imagination, and fine-tuning "
            "will please what it does see: take more demonstrations or another reward.kind"
        )
    return {
        "threshold": threshold.value,
        "threshold_reached": threshold.reached,
        **{name: dataclasses.asdict(score) for name, score in frames.items()},
        "rollouts": {
            "without_success": len(scores.without),
            "false_success": false,
            "successes": len(scores.successes),
            "missed": len(scores.successes) - found,
        },
        "dreams": dreams(model, classifier, data.held, config),
    }


def align(frame: RewardClassifier, held: Items, threshold: float, config: RewardConfig) -> None:
    """Shift a frame classifier's logits so that it is sure above the latents' `threshold`.

    By itself it would be sure where its log-odds are as high as `missed_success` of the held-out frames of success
    allow, and at least 0.
    """
    logits = frame.logits(held.features[held.labels == POSITIVE]).double()
    log_odds = (logits[:, POSITIVE] - logits[:, NEGATIVE]).sort().values
    least = min(int(config.missed_success * len(log_odds)), len(log_odds) - 1)
    own = float(log_odds[least].clamp(min=0)) if len(log_odds) else 0.0
    last = frame.head[-1]
    assert isinstance(last, torch.nn.Linear)
    last.bias[POSITIVE] += math.log(threshold / max(1 - threshold, LEAST_DOUBT)) - own


def sure(
    scores: RolloutScores, probability: Mapping[str, np.ndarray], label: Mapping[str, np.ndarray], config: RewardConfig
) -> Threshold:
    """The threshold by held-out rollouts, and by probabilities and labels (N,) of `filtered` and `imagined` latents.

    It is the highest one that at most `missed_success` of the filtered latents of success do not pass: a policy's
    failures look more like success than any that was recorded. It is higher where it must be for the wanted precision
    on imagined latents, or for at most `false_success` of rollouts without success to be declared done, as long as
    any success still is.
    """
    lowest = strict_threshold(probability["filtered"], label["filtered"], config.missed_success)
    by_rollouts = rollout_threshold(scores, config.false_success)
    if scores.declared(by_rollouts)[1]:
        lowest = max(lowest, by_rollouts)
    else:
        print("reward: no threshold parts held-out rollouts without success from successes: latents alone choose it")
    lowest = max(lowest, config.lowest_threshold)
    return choose_threshold(probability["imagined"], label["imagined"], config.precision, lowest)


def held_out_rollouts(
    model: WorldModel, classifier: SuccessClassifier, data: RewardData, config: RewardConfig
) -> RolloutScores:
    """Scores of held-out demonstrations, which are rollouts without success until shortly before their mark, of failed
    attempts, and of play as far as it is marked: other play holds successes that nobody knows of."""
    clips = [each for each in (data.held, data.failed_held, data.play_clips_held) if each]
    rng = torch.Generator().manual_seed(config.seed)
    return RolloutScores.join([score_rollouts(model, classifier, each, rng) for each in clips])


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
        probability = classifier.probability(imagined_states(model, clips, noise, context).features)
        judged = clips.valid & (torch.arange(probability.shape[1], device=probability.device) >= context)
        lengths = run_lengths(
            classifier.is_success(probability) & judged, torch.zeros_like(judged[:, 0], dtype=torch.int64)
        )
        found.append((lengths >= classifier.success_ticks).any(dim=1))
    return torch.stack(found).float().mean(dim=0)


def idle(clips: Clips, model: WorldModel, context: int) -> Clips:
    """The same first `context` frames, the null action ever after, and no end before the horizon."""
    step = torch.arange(clips.actions.shape[1], device=clips.actions.device)[:, None]
    actions = torch.where(step < context - 1, clips.actions, model.null_action)  # seen frames keep theirs
    return Clips(clips.embeds, actions, torch.ones_like(clips.valid))
