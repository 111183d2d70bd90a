"""`diwa dream`: a film of what a world model imagines.

From eight frames it goes on alone: first under the recorded actions, to be compared with what was recorded, then with
a policy that acts in the dream itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from diwa_cli.evaluation.rollouts import Setting, tape_rollouts
from diwa_cli.evaluation.scene_check import SceneReader, agreement, differences, remark, stated, unclear
from diwa_cli.video import Row, film_frames, require_film, write_video
from diwa_data.config import Job, require_at_least, require_seed
from diwa_data.dataset.dataset import Episode, load_dataset, open_episode
from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.progress import progress
from diwa_deploy.bundle import dreaming_skills, find_bundle
from diwa_learning.agent import NoClassifier
from diwa_learning.core.checkpoint import read_header
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.policy.base import ChainPolicy
from diwa_learning.policy.checkpoint import load_policy
from diwa_learning.reward.classifier import SuccessClassifier
from diwa_learning.reward.done import done_tick
from diwa_learning.reward.train import load_reward
from diwa_learning.world_model import probes
from diwa_learning.world_model.latents import draw_segments, embed_clips, filtered_states, imagined_states, whole
from diwa_learning.world_model.model import LoadedWorldModel, load_world_model
from diwa_learning.world_model.networks import to_uint8
from diwa_learning.world_model.open_loop import HORIZON
from diwa_learning.world_model.replay import held_out_of
from diwa_learning.world_model.rssm import State
from diwa_sim.environments import EnvironmentConfig, seeing
from diwa_sim.table import ROBOT, SimConfig

CONTEXT = 8
"""Frames that are seen before a dream begins: as many as the filter needs to know the scene."""
RECORDED, SIMULATED = "recorded", "simulated: the policy acts"
IMAGINED, ACTED = "imagined: the same actions", "dreamt: the policy acts"
"""Names of a film's rows."""


@dataclass(frozen=True)
class DreamFilmConfig(EnvironmentConfig):
    """Settings of `diwa dream`: number and length of the clips."""

    clips: int = 3
    """Clips in the film, one after the other: random ones of a dataset, or one start state each in the simulator."""
    horizon: int = HORIZON
    """Most actions imagined in each clip."""
    context: int = CONTEXT
    """Frames that the world model sees before it imagines."""
    same_actions: bool = True
    """Show also what is imagined under the actions that were recorded or simulated, beside what the policy dreams."""
    seed: int = 0
    """Seed of the choice of clips, of the first start state and of all sampling."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Safety limits in the simulator."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "clips", "horizon", "context")
        require_seed(self.seed)


@dataclass(frozen=True)
class DreamJob(Job):
    """Film what a world model dreams beside what was recorded: under the same actions, or with a policy that acts.

    With --skill, the policy of a bundle first runs in the simulator, and then dreams from the same starts. Where the
    scene is known, every frame says what is true. On the simulated table, film and terminal also name each lamp or
    drawer that the dream shows wrong.
    """

    command_name: ClassVar[str] = "dream"
    section: ClassVar[str] = "dream"
    check_out: ClassVar[Callable[[Path], None]] = staticmethod(require_film)

    skill: str = ""
    """Skill whose bundle gives world model, policy and classifier; not together with --world-model."""
    checkpoint: Path | None = None
    """Folder of that bundle, such as `runs/demo/skills/open_drawer`; without it, the installed one."""
    world_model: Path | None = None
    """Checkpoint folder of `diwa train-world-model`."""
    policy: Path | None = None
    """Policy that acts in the dreams: checkpoint folder of `diwa train-policy` or `diwa finetune`."""
    reward: Path | None = None
    """Classifier of the policy's skill; its probability is drawn below the images."""
    dataset: Path | None = None
    """HDF5 file whose frames begin the dreams: held-out episodes, if the model was trained on the file.
    Without a dataset, the policy first runs in the simulator."""
    out: Path = Path("dream.mp4")
    """Film to write: MP4, or an animated WebP, which pages like a README show."""
    config: DreamFilmConfig = field(default_factory=DreamFilmConfig)
    """Number and length of the clips."""
    sim: SimConfig = field(default_factory=SimConfig)
    """The simulated table."""

    def run(self) -> None:
        """Dream, write the film, and print a few lines about each clip."""
        parts = find_parts(self)
        world = load_world_model(parts.world_model, decodes=False)
        if not world.model.decodes:
            raise DiwaError(f"{parts.world_model} keeps no image decoders, so its dreams cannot be drawn: {parts.cure}")
        spec = world.spec
        policy = load_policy(parts.policy, spec, world.hash, world.model.feature_dim) if parts.policy else None
        reward = load_reward(parts.reward, world).classifier if parts.reward else None
        dreamer = Dreamer(world, policy.policy if policy else None, reward, self.config)
        if self.dataset:
            clips = recorded_clips(self.dataset, world, parts.world_model, self.config)
        else:
            assert policy, "find_parts asks for one"
            clips = rollout_clips(policy.skill, parts, world, self)
        on_table = spec.robot == ROBOT and all(clip.scene_state is not None for clip in clips)
        film: list[np.ndarray] = []
        checking = closing(SceneReader(self.sim.like(spec))) if on_table else nullcontext()
        with checking as reader, progress("dreaming", len(clips), "clips") as bar:
            for number, clip in enumerate(clips, 1):
                rows, lines = dreamer.dream(clip, self.config.seed + number, reader)
                film += film_frames(rows, self.config.context, spec.rate, f"clip {number} of {len(clips)}")
                print("\n".join([f"clip {number}: {about(clip)}", *(f"  {line}" for line in lines)]))
                bar.advance()
        if not on_table:
            print("not checked against the true scene: it is known on the simulated table only")
        write_video(self.out, film, spec.rate)
        print(f"film: {self.out}")


@dataclass(frozen=True)
class Parts:
    """Checkpoints of what dreams."""

    world_model: Path
    policy: Path | None
    reward: Path | None
    cure: str = "give the world model that this compact one was made of"
    """Line that says what to do if the world model has no image decoders."""


def find_parts(job: DreamJob) -> Parts:
    """The checkpoints that dream, of a bundle or as named. Raises `DiwaError` if that is not enough for a film."""
    if job.skill:
        if named := [flag for flag in ("world_model", "policy", "reward") if getattr(job, flag)]:
            raise DiwaError(f"--skill brings its own --{named[0].replace('_', '-')}: leave one of the two out")
        bundle = find_bundle(job.skill, job.checkpoint)
        others = [f"try --skill {skill}, whose dreams can be seen at once; or " for skill in dreaming_skills()]
        cure = (
            f"{''.join(others[:1])}make a bundle that dreams with `diwa demo --skill {job.skill}`, then add "
            f"--checkpoint runs/demo/skills/{job.skill}"
        )
        return Parts(bundle.world_model, bundle.policy, bundle.reward, cure)
    if job.world_model is None:
        raise DiwaError("name what dreams: --skill SKILL of a bundle, or --world-model FOLDER with --dataset FILE")
    if job.checkpoint:
        raise DiwaError("--checkpoint is the bundle of a --skill: name the skill too")
    if job.dataset is None and (job.policy is None or job.reward is None):
        raise DiwaError(
            "there is nothing to dream from: add --dataset FILE.h5, or a --policy and its --reward that run in the "
            "simulator first"
        )
    return Parts(job.world_model, job.policy, job.reward)


def recorded_clips(path: Path, world: LoadedWorldModel, checkpoint: Path, config: DreamFilmConfig) -> list[Episode]:
    """Clips of a dataset at random, held out of training if the model was trained on it; demonstrations from their
    start. Raises `DiwaError` if no episode is longer than the context.
    """
    data, settings = load_dataset(path, world.spec, images=False), world.model.config
    trained_on = read_header(checkpoint).get("inputs", {}).get("datasets", [])
    free = held_out_of(data, trained_on, settings.held_out, np.random.default_rng(settings.seed))
    long_enough = [episode for episode in free if len(episode) > config.context]
    if not long_enough:
        longest = max(map(len, free))
        raise DiwaError(f"{path}: --context is {config.context}, but the longest episode has {longest} frames")
    rng, length = np.random.default_rng(config.seed), config.context + config.horizon
    chosen = draw_segments(long_enough, config.clips, length, rng)
    return [cut(path, each.episode.name, each.start, each.stop) for each in chosen]


def cut(path: Path, name: str, start: int, stop: int) -> Episode:
    """Frames `start` to `stop` of an episode; only they are read."""
    with open_episode(path, name) as data:
        episode, some = data.episodes[0], slice(start, stop)
        images = {camera: np.asarray(frames[some]) for camera, frames in episode.images.items()}
        arrays = {key: getattr(episode, key)[some] for key in ("state", "action", "success", "stamp", "received")}
        scene = None if episode.scene_state is None else episode.scene_state[some]
        target = episode.targets(data.spec.action)[some]
    attributes = {**episode.attributes, "tick": start}
    return replace(episode, images=images, scene_state=scene, target=target, attributes=attributes, **arrays)


def rollout_clips(skill: str, parts: Parts, world: LoadedWorldModel, job: DreamJob) -> list[Episode]:
    """The policy's rollouts in the simulator, one from each start state, not ended by success."""
    assert parts.policy
    assert parts.reward
    config = job.config
    where = seeing(config.chosen(job.sim), world.spec)
    steps = config.context + config.horizon - 1
    setting = Setting(skill, parts.world_model, parts.reward, steps, config.limits, where)
    seeds = [config.seed + number for number in range(config.clips)]
    rollouts = tape_rollouts(parts.policy, seeds, setting)
    return [replace(each, attributes={**each.attributes, "skill": skill}) for each in rollouts]


def is_rollout(clip: Episode) -> bool:
    """Whether it was run for the film, and not cut from a recording."""
    return "tick" not in clip.attributes


def about(clip: Episode) -> str:
    """Where a clip is from."""
    skill = clip.attributes.get("skill") or "play"
    if is_rollout(clip):
        return f"{skill} from start {clip.name}, {'success' if clip.success.any() else 'no success'} in the simulator"
    return f"{skill}, episode {clip.name} from tick {clip.attributes['tick']}"


def truths(clip: Episode, names: Sequence[str]) -> list[str]:
    """The truth in each frame of a clip; nothing where the scene is unknown. Only the simulator knows when a skill
    is done.
    """
    if clip.scene_state is None or not stated(clip.scene_state[0], names):
        return []
    ends = [(" · done" if done else " · not done") if is_rollout(clip) else "" for done in clip.success]
    return [f"true: {stated(scene, names)}{end}" for scene, end in zip(clip.scene_state, ends, strict=True)]


class Dreamer:
    """A world model, with a policy and a classifier where they are given."""

    def __init__(
        self,
        world: LoadedWorldModel,
        policy: ChainPolicy | None,
        classifier: SuccessClassifier | None,
        config: DreamFilmConfig,
    ):
        self._world, self._policy, self._classifier, self._config = world, policy, classifier, config

    @torch.no_grad()
    def dream(self, clip: Episode, seed: int, reader: SceneReader | None) -> tuple[list[Row], list[str]]:
        """Rows of the film of one clip, and lines about it; a `reader` compares what is shown with the true scene."""
        model, context, rng = self._world.model, self._config.context, torch.Generator().manual_seed(seed)
        clips = embed_clips(model, [whole(clip)])
        noise = probes.noise(model, clips, rng)
        filtered = filtered_states(model, clips, noise)
        dreams = {}
        if self._config.same_actions or not self._policy:
            dreams[IMAGINED] = imagined_states(model, clips, noise, context)
        if self._policy:
            dreams[ACTED] = State.cat(
                [filtered[:, :context], self._act(self._policy, filtered[:, context - 1], rng)], 1
            )
        seen = self._row(SIMULATED if is_rollout(clip) else RECORDED, filtered, clip.images)
        rows, lines = [replace(seen, truth=truths(clip, self._world.spec.scene_state))], []
        for name, states in dreams.items():
            images = {camera: to_uint8(image)[0].numpy() for camera, image in model.decode(states.features).items()}
            row = self._row(name, states, images)
            if reader:
                hands = clip.state[np.arange(len(row)).clip(max=len(clip) - 1)]
                if model.state_decoder is not None:  # without one the hand is taken to be where it truly is
                    hands = model.decode_state(states)[0, :, : self._world.spec.state_dim].numpy()
                row, found = self._checked(row, hands, clip, reader)
                lines.append(f"{name.partition(':')[0]}: {found}")
            rows.append(row)
        rate, done = self._world.spec.rate, [row for row in rows if row.done is not None]
        ends = [f"{row.name.partition(':')[0]} after {(row.done or 0) / rate:.1f} s" for row in done]
        if self._classifier:
            lines.append(f"done, by the classifier: {', '.join(ends) or 'never'}")
        return rows, lines

    def _act(self, policy: ChainPolicy, state: State, rng: torch.Generator) -> State:
        """States (1, T, ...) after `state` (1, ...) in which the policy acts, until the skill is done."""
        model, classifier = self._world.model, self._classifier or NoClassifier()
        dream = Dream(model, classifier, state, DreamConfig(dreams=1), rng)
        found: list[State] = []
        for _ in range(-(-self._config.horizon // policy.chunk)):
            chunk = policy.sample(state.features, policy.draw_noise(1, rng)).actions
            found.append(dream.imagine(state, chunk, model.rssm.noise(policy.chunk, 1, rng=rng)))
            state = found[-1][:, -1]
            if self._done(State.cat(found, 1)) is not None:
                break
        return State.cat(found, 1)[:, : self._config.horizon]

    def _row(self, name: str, states: State, images: Mapping[str, np.ndarray]) -> Row:
        """A row of these images, with what the classifier makes of the states (1, T, ...)."""
        if self._classifier is None:
            return Row(name, images)
        probability = self._classifier.probability(states.features)[0].tolist()
        return Row(name, images, probability, self._done(states))

    def _done(self, states: State) -> int | None:
        """The first of the states (1, T, ...) at which the skill is done."""
        if self._classifier is None:
            return None
        sure = self._classifier.is_success(self._classifier.probability(states.features))[0].tolist()
        return done_tick(sure, self._classifier.success_ticks)

    def _checked(self, row: Row, hands: np.ndarray, clip: Episode, reader: SceneReader) -> tuple[Row, str]:
        """The row with remarks, and a line about it: in what it differs from the true scenes of the clip.

        A policy's own dream is held against what the same policy did in the simulator from the same start. Beside a
        recording it has no truth but the scene in which it began.
        """
        acted, names, against = row.name == ACTED, self._world.spec.scene_state, "simulated" if is_rollout(clip) else ""
        assert clip.scene_state is not None
        scenes = clip.scene_state[np.arange(len(row)).clip(max=len(clip) - 1)]  # the last one stays
        alone = acted and not against
        if alone:
            scenes = np.broadcast_to(clip.scene_state[self._config.context - 1], scenes.shape)
        between = " → " if alone else ", dreamt " if acted else ", shown "
        shown = reader.read(row.images[self._world.spec.cameras[0].name], hands, scenes, follow=acted)
        wrong, hidden = differences(shown, scenes, names), [unclear(each) for each in shown]
        same = "as seen last" if alone else f"as {against or 'recorded'}"
        agreed = [agreement(*each, same) for each in zip(wrong, hidden, strict=True)]
        remarks = [remark(*each, alone) for each in zip(wrong, hidden, strict=True)]
        row = replace(row, truth=agreed, remarks=remarks)
        if acted:
            last = ", ".join(f"{name} {between.join(both)}" for name, both in wrong[-1].items())
            return row, f"at its end {'; '.join(filter(None, [last, remark({}, hidden[-1]), agreed[-1]]))}"
        first = {name: between.join(both) for each in reversed(wrong) for name, both in each.items()}
        said = (
            [f"wrong are {_counted(wrong, {name: f' (first {how})' for name, how in first.items()})}"] if first else []
        )
        said += [f"unclear are {_counted(hidden, {})}"] if any(hidden) else []
        return row, ". ".join(said) or f"{agreed[-1]} in every frame"


def _counted(found: Sequence[Collection[str]], more: Mapping[str, str]) -> str:
    """In how many frames each name was found, with `more` about it."""
    count = Counter(name for each in found for name in each)
    return "; ".join(f"{name} in {n} of {len(found)} frames{more.get(name, '')}" for name, n in count.items())
