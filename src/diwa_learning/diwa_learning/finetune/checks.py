"""Checks of a world model on held-out recordings, before anything dreams in it: no simulator and no robot is asked.

Each is a number with the limits between which fine-tuning was seen to gain (docs/laptop.md), and a sentence that says
what is wrong beyond them. They are shares and ratios, so that they mean the same in models of any size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diwa_data.config import require_at_least, require_seed
from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_learning.ensemble.disagreement import Ensemble
from diwa_learning.ensemble.train import imagined_disagreement
from diwa_learning.reward.calibration import dreamt_success
from diwa_learning.reward.done import run_lengths
from diwa_learning.reward.train import LoadedReward
from diwa_learning.world_model.latents import (
    Clips,
    Segment,
    draw_segments,
    embed_clips,
    filtered_states,
    imagined_states,
    whole,
)
from diwa_learning.world_model.model import POSITION, WorldModel
from diwa_learning.world_model.rssm import State, categorical_kl, shift_actions


@dataclass(frozen=True)
class CheckConfig:
    """Settings of `diwa check-world-model`: number and length of the imagined segments."""

    clips: int = 48
    """Number of segments of held-out play to imagine."""
    context: int = 8
    """Frames of each segment that are filtered before imagination begins."""
    horizon: int = 40
    """Actions imagined in each segment."""
    pictures: int = 16
    """Number of these segments whose imagined images are also compared pixel by pixel."""
    dreams: int = 100
    """Number of dreams of the policy."""
    base_success: float | None = None
    """Share of tries in which the policy succeeds on the robot, from 0 to 1; none = unknown."""
    seed: int = 0
    """Seed of segments and noise."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "context", "horizon", "pictures", "dreams")
        require_at_least(self, 2, "clips")
        require_seed(self.seed)
        if self.base_success is not None and not 0 <= self.base_success <= 1:
            raise DiwaError(f"base_success is {self.base_success:g}; it is a share, from 0 to 1")


LIMITS = {
    "hand_error": (0.0, 1.0),
    "filtered_play": (0.15, math.inf),
    "demonstrations_error": (0.0, 1.0),
    "imagined_play": (0.3, math.inf),
    "psnr_gain": (0.0, math.inf),
    "action_gain": (1.0, math.inf),
    "kl": (0.0, math.inf),
    "filtered_disagreement": (0.0, 0.15),
    "imagined_disagreement": (0.0, 0.15),
    "demonstrated_success": (0.5, math.inf),
    "idle_success": (0.0, 0.1),
    "invented_success": (0.0, 0.1),
    "failed_success": (0.0, 0.1),
    "base_success": (0.01, 0.97),
}
"""Figure -> between which values fine-tuning was seen to gain, or may be expected to (docs/laptop.md)."""
TOLD = ("kl", "filtered_disagreement", "imagined_disagreement")
"""Figures that refuse nothing: models on which fine-tuning gains and others do not differ in them by much."""
TOLERANCE = 0.3
"""By how much the base's success in dreams may differ from the known one."""
SAMPLES = 4
"""Dreams of each failed attempt."""
MORE = "train the world model for more updates, or on more play"
RECORD = "train it on play from this setup"
FAILURES = f"mark failed attempts for the reward, or {MORE}"
ATTEMPTS = "train the world model on failed attempts too (train-world-model --attempts)"


@dataclass(frozen=True)
class Check:
    """One figure of a world model, and between which limits it must lie."""

    name: str
    value: float
    problem: str
    """The fault, where the limit is passed."""
    cure: str
    low: float
    high: float
    decisive: bool = True
    """Beyond its limits the world model is refused; otherwise that is only told."""

    @staticmethod
    def of(name: str, value: float, problem: str, cure: str = MORE) -> Check:
        """With the limits of its name."""
        return Check(name, value, problem, cure, *LIMITS[name], name not in TOLD)

    @property
    def passed(self) -> bool:
        """Whether the value lies within the limits; one that is not a number does not."""
        return self.low <= self.value <= self.high

    @property
    def wanted(self) -> str:
        """The limits in words."""
        return f"at least {self.low:.3g}" if math.isinf(self.high) else f"{self.low:.3g} to {self.high:.3g}"

    def as_json(self) -> dict[str, Any]:
        """Plain values; an open limit is null, and so is a value that is not a number."""
        open_ended = {name: None for name in ("value", "high") if not math.isfinite(getattr(self, name))}
        return {**vars(self), **open_ended, "passed": self.passed}


@dataclass(frozen=True)
class Imagined:
    """Segments of held-out play: filtered all along, and imagined after their first frames under the same actions."""

    clips: Clips
    segments: Sequence[Segment]
    noise: Tensor
    filtered: State
    imagined: State
    later: Tensor
    """(N, T) bool: the frames that are imagined."""

    def mean(self, values: Tensor) -> float:
        """Mean of (N, T) over the frames that are imagined."""
        return float(values[self.later].mean())


def imagine(model: WorldModel, episodes: Sequence[Episode], config: CheckConfig) -> Imagined:
    """Filter and imagine random segments. Raises `DiwaError` where no episode is long enough."""
    rng, generator = np.random.default_rng(config.seed), torch.Generator().manual_seed(config.seed)
    long = [episode for episode in episodes if len(episode) > config.context]
    if not long:
        raise DiwaError(f"no recording is longer than the check's context of {config.context} frames: lower it")
    segments = draw_segments(long, config.clips, config.context + config.horizon, rng)
    clips = embed_clips(model, segments)
    noise = model.rssm.noise(*clips.valid.shape, rng=generator)
    later = clips.valid.clone()
    later[:, : config.context] = False
    imagined = imagined_states(model, clips, noise, config.context)
    return Imagined(clips, segments, noise, filtered_states(model, clips, noise), imagined, later)


def padded(segments: Sequence[Segment], of_episode: Mapping[Episode, np.ndarray], like: Tensor) -> Tensor:
    """Arrays (frames, ...) of episodes, cut to the segments and padded: (N, T, ...)."""
    rows = [torch.from_numpy(np.asarray(of_episode[s.episode][s.start : s.stop])) for s in segments]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(like.device)


def world_model_checks(
    model: WorldModel, play: Imagined, demonstrations: Imagined | None, config: CheckConfig
) -> Iterator[Check]:
    """Figures of a world model alone, as far as it decodes hand and image components."""
    if model.state_decoder is not None:
        yield hand_check(model, play)
    if model.component_decoder is not None:
        yield from component_checks(model, play, demonstrations, config)
    yield from picture_checks(model, play, config)
    previous = shift_actions(play.clips.actions, model.null_action)
    observed = model.rssm.observe(play.clips.embeds, previous, torch.zeros_like(play.clips.valid), play.noise)
    kl = play.mean(categorical_kl(observed.posterior_logits, observed.prior_logits))
    yield Check.of("kl", kl, "KL(posterior || prior) is not a number")


def hand_check(model: WorldModel, play: Imagined) -> Check:
    """The imagined hand's error, over its distance from the target: 1 for a model that says it is at the target."""
    episodes = {segment.episode for segment in play.segments}
    state = padded(play.segments, {each: each.state[:, POSITION] for each in episodes}, play.later)
    targets = {each: each.targets(model.spec.action)[:, POSITION] for each in episodes}
    target = padded(play.segments, targets, play.later)
    error = play.mean((model.decode_state(play.imagined)[..., POSITION] - state).norm(dim=-1))
    lag = play.mean((target - state).norm(dim=-1))
    problem = f"imagined hands are {1000 * error:.0f} mm off where hand and target are {1000 * lag:.0f} mm apart"
    return Check.of("hand_error", error / max(lag, 1e-6), problem)


def component_checks(
    model: WorldModel, play: Imagined, demonstrations: Imagined | None, config: CheckConfig
) -> Iterator[Check]:
    """How much of the images' components, drawers and lamps among them, model states hold.

    Filtered: as a share of their variance on play, 1 if states tell all that pictures show; and the error on
    demonstrations over that on play, whose pictures theirs should be among. Imagined: the share of a still picture's
    error that imagination saves.
    """
    assert model.component_decoder is not None
    seen = model.seen_components(play.clips.embeds)
    spread = float(seen[play.later].var(0, correction=0).mean())
    imagined, still = (
        float((shown - seen)[play.later].square().mean())
        for shown in (
            model.component_decoder(play.imagined.features),
            seen[:, config.context - 1 : config.context].expand_as(seen),
        )
    )
    filtered = component_error(model, play)
    share = 1 - filtered / max(spread, 1e-9)
    yield Check.of("filtered_play", share, f"filtered states hold {100 * max(share, 0):.0f} % of what pictures show")
    if demonstrations:
        ratio = component_error(model, demonstrations) / max(filtered, 1e-9)
        problem = f"demonstrations look {ratio:.1f} times as strange to it as play does (has a camera moved since?)"
        yield Check.of("demonstrations_error", ratio, problem, RECORD)
    gain = 1 - imagined / max(still, 1e-9)
    problem = f"imagination under recorded actions is {100 * gain:.0f} % better than a still picture"
    yield Check.of("imagined_play", gain, problem)


def component_error(model: WorldModel, recordings: Imagined) -> float:
    """Mean squared error of the images' components, told by filtered states."""
    assert model.component_decoder is not None
    error = model.component_decoder(recordings.filtered.features) - model.seen_components(recordings.clips.embeds)
    return float(error[recordings.later].square().mean())


def picture_checks(model: WorldModel, play: Imagined, config: CheckConfig) -> Iterator[Check]:
    """Imagined pictures against the recorded ones: beyond a still picture, and beyond those under others' actions."""
    count = min(config.pictures, len(play.segments))
    clips = Clips(*(part[:count] for part in vars(play.clips).values()))
    later, segments = play.later[:count], play.segments[:count]
    known = torch.arange(clips.actions.shape[1], device=later.device)[:, None] < config.context - 1
    others = replace(clips, actions=torch.where(known, clips.actions, clips.actions.roll(1, 0)))
    wrong = imagined_states(model, others, play.noise[:count], config.context)

    own, other = (model.decode(states.features[later]) for states in (play.imagined[:count], wrong))
    errors = torch.zeros(3)
    for name, shown in own.items():
        images = padded(segments, {s.episode: s.episode.images[name] for s in segments}, later) / 255 - 0.5
        still = images[:, config.context - 1 : config.context].expand_as(images)[later]
        errors += torch.stack([F.mse_loss(each, images[later]) for each in (shown, other[name], still)]).cpu()
    own_error, other_error, still_error = errors.clamp_min(1e-12).tolist()
    gain, hold = (10 * math.log10(error / own_error) for error in (still_error, other_error))
    yield Check.of("psnr_gain", gain, f"imagined pictures are {gain:+.1f} dB against one that stands still")
    cure = f"look whether commands and images belong together (`diwa inspect`), or {MORE}"
    yield Check.of("action_gain", hold, "what is imagined hardly depends on the actions", cure)


def ensemble_checks(ensemble: Ensemble, play: Imagined, config: CheckConfig) -> Iterator[Check]:
    """Where imagination under recorded actions goes: to states that recordings know, or off to others."""
    filtered, imagined = (
        float(imagined_disagreement(ensemble, states, play.clips, config.context).mean())
        for states in (play.filtered, play.imagined)
    )
    yield Check.of("filtered_disagreement", filtered, "what follows recorded frames is a guess to the ensemble")
    yield Check.of("imagined_disagreement", imagined, "imagination goes where the ensemble knows no recording")


def reward_checks(
    reward: LoadedReward, model: WorldModel, play: Imagined, failed: Sequence[Episode], config: CheckConfig
) -> Iterator[Check]:
    """The success classifier on what was imagined: of held-out demonstrations as its training measured it, of play, and
    of failed attempts."""
    classifier, measured = reward.classifier, reward.checkpoint.metrics
    if "dreams" in measured:
        shown, idle = (float(measured["dreams"][name]) for name in ("demonstrated", "idle"))
        problem = f"of imagined demonstrations {100 * shown:.0f} % succeed"
        yield Check.of("demonstrated_success", shown, problem, f"{MORE}, or give the reward more demonstrations")
        problem = f"{100 * idle:.0f} % of dreams in which nothing is done succeed"
        yield Check.of("idle_success", idle, problem, FAILURES)

    def done(states: State, judged: Tensor) -> Tensor:
        sure = classifier.is_success(classifier.probability(states.features)) & judged
        return (run_lengths(sure, sure.new_zeros(len(sure), dtype=torch.int64)) >= classifier.success_ticks).any(1)

    never = ~done(play.filtered, play.clips.valid)
    invented = float((done(play.imagined, play.later) & never).sum() / never.sum().clamp_min(1))
    problem = f"{100 * invented:.0f} % of imagined play succeeds where the same play, filtered, does not"
    yield Check.of("invented_success", invented, problem, FAILURES)
    failed = [episode for episode in failed if len(episode) > config.context]
    if failed:
        generator = torch.Generator().manual_seed(config.seed)
        clips = embed_clips(model, [whole(episode) for episode in failed])
        wrong = float(dreamt_success(model, classifier, clips, config.context, SAMPLES, generator).mean())
        yield Check.of("failed_success", wrong, f"{100 * wrong:.0f} % of imagined failed attempts succeed", ATTEMPTS)


def policy_check(dreamt: float, config: CheckConfig) -> Check:
    """The share of its dreams in which the policy succeeds, before it is fine-tuned: what is known, or plausible."""
    said, name = f"the policy succeeds in {100 * dreamt:.0f} % of its dreams", "base_success"
    if (known := config.base_success) is not None:
        problem = f"{said}, and in {100 * known:.0f} % of its tries"
        return Check(name, dreamt, problem, MORE, max(0.0, known - TOLERANCE), min(1.0, known + TOLERANCE))
    if dreamt < LIMITS[name][0]:
        return Check.of(
            name, dreamt, f"{said}, so there is nothing to learn from", "train it longer, or on more demonstrations"
        )
    cure = "try it on the robot, and say how often it succeeds by --base-success"
    return replace(Check.of(name, dreamt, f"{said}: it is as good as can be, or dreams mislead", cure), decisive=False)
