"""The plan of a sweep: its runs, and the phases from recording to evaluation. A demo is a sweep of one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, Literal, get_type_hints

from diwa_cli.evaluation.dppo import DPPOJob
from diwa_cli.evaluation.dream import DreamFilmConfig, DreamJob
from diwa_cli.evaluation.evaluate import EvaluateConfig, EvaluateJob, start_seeds
from diwa_cli.evaluation.run_skill import ReplayJob
from diwa_cli.pipeline.execute import ALL_CORES, Phase
from diwa_cli.run_folder import BASE, FINETUNED, Run, RunFolder, SweepFolder
from diwa_data.config import Source
from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import BuildDatasetJob
from diwa_data.errors import DiwaError
from diwa_learning.ensemble.disagreement import EnsembleConfig
from diwa_learning.ensemble.train import EnsembleJob
from diwa_learning.finetune.dppo import DPPOConfig
from diwa_learning.finetune.train import FinetuneConfig, FinetuneJob
from diwa_learning.policy.train import PolicyConfig, PolicyJob
from diwa_learning.reward.classifier import RewardConfig
from diwa_learning.reward.train import RewardJob
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.train import WorldModelJob
from diwa_sim.environments import EnvironmentConfig, require_task
from diwa_sim.mark_play import MarkPlayJob
from diwa_sim.operator.record import RecordJob, SimulatedRecordConfig
from diwa_sim.table import SimConfig
from diwa_sim.tasks import PAPER_TASKS, task

ALL = "all"
"""As a skill: all of the paper."""
STAGES = (
    "record", "build", "replay", "mark", "train_world_model", "train_ensemble", "train_policy", "train_reward",
    "finetune", "evaluate_curve", "evaluate", "dream", "dppo",
)  # fmt: skip
"""Kinds of phases, in an order in which each finds its inputs finished."""
FREE = (
    "skills", "seeds", "alphas", "dppo_seeds", "curve_rollouts", "curve_checkpoints", "reuse", "jobs", "ray",
    "workers", "stacked",
)  # fmt: skip
"""Settings that may change between two calls on one folder: a sweep can grow, and go on elsewhere. The last two are of
earlier versions."""
DPPO_ROLLOUTS = 50
"""Start states on which each checkpoint of the baseline is judged."""


@dataclass(frozen=True)
class Amounts:
    """Amount of everything in a demo or sweep; sizes of networks and trainings are in the preset's other sections."""

    play_minutes: float = 40.0
    """Minutes of play to record."""
    demonstrations: int = 50
    """Demonstrations to record of each skill."""
    failures: int = 40
    """Attempts at each skill that the operator spoils on purpose. World model and classifier learn from them; without
    them a hand that is where the skill ends is a success in dreams, and policies left the bulb dark."""
    mark_play: bool = False
    """The simulator marks when each skill is done in play, in place of a person who watches the film; the success
    classifier learns from that."""
    rollouts: int = 200
    """Start states of final evaluations, the same for all policies."""
    starts: Literal["tuning", "final"] = "final"
    """Range of these start states: `final` is for a result that is told, `tuning` for all that comes before."""
    curve_rollouts: int = 20
    """Start states on which each checkpoint of a learning curve is evaluated."""
    curve_checkpoints: int = 0
    """Checkpoints on the learning curve of a run, the policy before fine-tuning included; 0 = no curve."""
    seed: int = 0
    """Seed of the recordings and the world model, which all runs share; in a demo, of all phases."""
    world_model_of: str = ""
    """Folder of a finished demo or sweep whose play and world model to use; empty = record and train them."""


@dataclass(frozen=True)
class SweepConfig(Amounts):
    """Settings of `diwa sweep`."""

    skills: tuple[str, ...] = (ALL,)
    """Simulated tasks to learn; `all` = the paper's eight. With other tasks, play includes tries at them."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of policy, classifier and fine-tuning."""
    alphas: tuple[float, ...] = ()
    """Values of alpha_BC to try; none = the preset's."""
    dppo_seeds: tuple[int, ...] = ()
    """Seeds whose base policies DPPO also fine-tunes in the simulator, until it matches DiWA; none = no baseline."""
    videos: int = 1
    """Number of start states of every final evaluation that are filmed."""
    reuse: str = ""
    """Folder of another sweep: what it finished with the same settings is linked instead of made again.
    Empty = that of `world_model_of`."""
    jobs: int = 2
    """Phases that run at a time, on Ray; at most the number of cores. 1 = one after the other, without Ray."""
    ray: str = ""
    """Address of the Ray cluster to run on (`auto`, ray://HOST:10001); empty = this machine."""


@dataclass(frozen=True)
class DemoConfig(Amounts):
    """Settings of `diwa demo`."""

    skill: str = "open_drawer"
    """Simulated task to learn. If it is none of the paper's eight, play includes tries at it."""
    curve_checkpoints: int = 5
    """Checkpoints on the learning curve, including the policy before fine-tuning."""

    def as_sweep(self, source: Source) -> SweepConfig:
        """The sweep of one run that it is."""
        same = {name: value for name, value in vars(self).items() if name != "skill"}
        videos = source.section(EvaluateConfig, "evaluate").videos
        return SweepConfig(skills=(self.skill,), seeds=(self.seed,), videos=videos, jobs=1, **same)


@dataclass(frozen=True)
class Settings:
    """Settings of every phase of one run."""

    play: SimulatedRecordConfig
    demonstrations: SimulatedRecordConfig
    dataset: DatasetConfig
    world_model: WorldModelConfig
    ensemble: EnsembleConfig
    policy: PolicyConfig
    reward: RewardConfig
    finetune: FinetuneConfig
    dppo: DPPOConfig
    curve: EvaluateConfig
    final: EvaluateConfig
    sim: SimConfig


@dataclass(frozen=True)
class Sweep:
    """A sweep's configuration, resolved."""

    config: SweepConfig
    source: Source

    @property
    def skills(self) -> tuple[str, ...]:
        """Skills by name, each once. Raises `DiwaError` for an unknown one."""
        named, place = dict.fromkeys(self.config.skills), self.place.chosen(SimConfig())
        return PAPER_TASKS if ALL in named else tuple(require_task(name, place) for name in named)

    @property
    def place(self) -> EnvironmentConfig:
        """Where its recordings are made, and its policies judged."""
        return self.source.section(SimulatedRecordConfig, "record")

    def runs(self) -> list[Run]:
        """All runs, each once. Raises `DiwaError` if there is none."""
        found: dict[Run, None] = {}
        for skill in self.skills:
            alphas = self.config.alphas or (self.settings(skill).finetune.alpha_for(skill),)
            found |= {Run(skill, seed, alpha): None for seed in self.config.seeds for alpha in alphas}
        if not found:
            raise DiwaError("a sweep needs at least one skill and one seed: --skills open_drawer --seeds 0")
        return list(found)

    def settings(self, skill: str, seed: int | None = None) -> Settings:
        """Settings of the runs of a skill and a seed; without one, of what all runs share."""
        return _settings(self, skill, self.config.seed if seed is None else seed)

    def identity(self) -> dict[str, Any]:
        """The settings that decide its results: its own, and those of its phases."""
        settings = dataclasses.asdict(self.settings(self.skills[0]))
        del settings["curve"]
        for values in settings.values():
            values.pop("skill", None)
        del settings["finetune"]["alpha_bc_of"]  # it names the runs
        return {"sweep": dataclasses.asdict(self.config), **settings}


def usual() -> dict[str, Any]:
    """The defaults of the settings in `Sweep.identity`: a sweep that is older than a setting ran with its default."""
    kinds = {"sweep": SweepConfig, **get_type_hints(Settings)}
    return {name: dataclasses.asdict(kind()) for name, kind in kinds.items()}


@cache
def _settings(sweep: Sweep, skill: str, seed: int) -> Settings:
    """Sections of the source, with the amounts of the sweep, a skill and a seed."""
    c, section = sweep.config, sweep.source.section
    record = dataclasses.replace(section(SimulatedRecordConfig, "record"), seed=seed)
    usual = section(EvaluateConfig, "evaluate")
    judged = dataclasses.replace(usual, skill=skill, environment=sweep.place.environment)
    sim, added = section(SimConfig, "sim"), [name for name in sweep.skills if name not in PAPER_TASKS]
    brought = [each.name for name in added for each in task(name).objects]
    shown = dataclasses.replace(record, skill=skill, episodes=c.demonstrations, failures=c.failures, tasks=())
    own: dict[str, Any] = {
        "play": dataclasses.replace(record, skill="", minutes=c.play_minutes, tasks=_each(record.tasks, added)),
        "demonstrations": shown,
        "sim": dataclasses.replace(sim, objects=_each(sim.objects, brought)),
        "curve": dataclasses.replace(judged, seeds="curve", rollouts=c.curve_rollouts, videos=0),
        "final": dataclasses.replace(judged, seeds=c.starts, rollouts=c.rollouts, videos=c.videos),
    }
    others = {name: section(kind, name) for name, kind in get_type_hints(Settings).items() if name not in own}
    learned = {name: dataclasses.replace(one, seed=seed) for name, one in others.items() if hasattr(one, "seed")}
    return Settings(**own, **{**others, **learned})


def _each(*names: Iterable[str]) -> tuple[str, ...]:
    """All the names, each once."""
    return tuple(dict.fromkeys(chain(*names)))


def plan(folder: SweepFolder, sweep: Sweep) -> list[Phase]:
    """The phases of a sweep, by stage."""
    runs = [RunFolder(folder, run) for run in sweep.runs()]
    phases = list(shared_phases(folder, sweep))
    for one in {one.run.skill: one for one in runs}.values():
        phases += skill_phases(one, sweep)
    for one in {one.run.trained: one for one in runs}.values():
        phases += trained_phases(one, sweep)
    for one in runs:
        phases += run_phases(one, sweep)
    return sorted(phases, key=lambda phase: STAGES.index(phase.stage))


def shared_phases(folder: SweepFolder, sweep: Sweep) -> Iterator[Phase]:
    """Play and world model, unless they are another sweep's, and the ensemble if fine-tuning needs one."""
    s = sweep.settings(sweep.skills[0])
    if not sweep.config.world_model_of:
        yield Phase("record_play", RecordJob(folder.play_bags, s.play, s.sim), cores=s.play.workers)
        job = BuildDatasetJob((folder.play_bags,), folder.play, s.dataset)
        yield Phase("build_play", job, ("record_play",), s.dataset.workers)
        # Play, as in the paper, for all skills at once, and what fails. Demonstrations succeed whatever the hand seems
        # to do, and a model that has seen them dreams of success.
        runs = {run.skill: RunFolder(folder, run) for run in sweep.runs()} if sweep.config.failures else {}
        attempts = tuple(run.demonstrations for run in runs.values())
        model = WorldModelJob((folder.play,), folder.world_model, s.world_model, attempts)
        yield Phase("train_world_model", model, ("build_play", *(f"{skill}/build" for skill in runs)), ALL_CORES)
    if s.finetune.needs_ensemble:
        ensemble = EnsembleJob((folder.play,), folder.world_model, folder.ensemble, s.ensemble)
        yield Phase("train_ensemble", ensemble, _after(sweep))


def skill_phases(f: RunFolder, sweep: Sweep) -> Iterator[Phase]:
    """Recording, dataset and replay of a skill's demonstrations."""
    skill, s = f.run.skill, sweep.settings(f.run.skill)
    record = RecordJob(f.demonstration_bags, s.demonstrations, s.sim)
    yield Phase(f"{skill}/record", record, cores=s.demonstrations.workers)
    job = BuildDatasetJob((f.demonstration_bags,), f.demonstrations, s.dataset)
    yield Phase(f"{skill}/build", job, (f"{skill}/record",), s.dataset.workers)
    yield Phase(f"{skill}/replay", ReplayJob(f.demonstrations, f.replay), (f"{skill}/build",))
    if sweep.config.mark_play:
        played = () if sweep.config.world_model_of else ("build_play",)
        yield Phase(f"{skill}/mark_play", MarkPlayJob(f.play, f.play_marks, skill), played)


def trained_phases(f: RunFolder, sweep: Sweep) -> Iterator[Phase]:
    """Policy and classifier of a skill and seed, and the policy's evaluation."""
    name, s, after = f.run.trained, sweep.settings(f.run.skill, f.run.seed), _after(sweep, f"{f.run.skill}/build")
    yield Phase(f"{name}/train_policy", PolicyJob(f.demonstrations, f.world_model, f.policy, s.policy), after)
    marks = f.play_marks if sweep.config.mark_play else None
    reward = RewardJob(f.demonstrations, f.world_model, f.reward, f.play, s.reward, marks)
    marked = (*after, f"{f.run.skill}/mark_play") if marks else after
    yield Phase(f"{name}/train_reward", reward, marked)
    judged = EvaluateJob({BASE: f.policy}, f.world_model, f.reward, f.base_final, config=s.final, sim=s.sim)
    learned = (f"{name}/train_policy", f"{name}/train_reward")
    yield Phase(f"{name}/evaluate", judged, learned, s.final.workers)


def run_phases(f: RunFolder, sweep: Sweep) -> Iterator[Phase]:
    """Fine-tuning of a run, its learning curve, its evaluation from the starts of its base, and the baseline."""
    name, c, s = f.run.name, sweep.config, sweep.settings(f.run.skill, f.run.seed)
    config = dataclasses.replace(s.finetune, alpha_bc=f.run.alpha)
    ensemble = f.ensemble if config.needs_ensemble else None
    learned = [
        f"{f.run.trained}/train_policy",
        f"{f.run.trained}/train_reward",
        *(["train_ensemble"] if ensemble else []),
    ]
    tuned = FinetuneJob(f.policy, f.reward, f.world_model, f.demonstrations, f.finetuned, f.play, ensemble, config)
    yield Phase(f"{name}/finetune", tuned, tuple(learned))
    models, after = (f.world_model, f.reward), (f"{name}/finetune",)
    if c.curve_checkpoints:
        both = {BASE: f.policy, FINETUNED: f.finetuned}
        curve = EvaluateJob(both, *models, f.curve, c.curve_checkpoints, s.curve, s.sim)
        yield Phase(f"{name}/evaluate_curve", curve, after, s.curve.workers)
    judged = EvaluateJob({FINETUNED: f.finetuned}, *models, f.final, config=s.final, sim=s.sim)
    yield Phase(f"{name}/evaluate", judged, after, s.final.workers)
    if c.videos:
        place: dict[str, Any] = {key: getattr(s.final, key) for key in ("environment", "calvin", "limits")}
        film = sweep.source.section(DreamFilmConfig, "dream")
        film_config = dataclasses.replace(film, clips=1, seed=start_seeds(s.final)[0], **place)
        dream = DreamJob(
            world_model=f.world_model, policy=f.finetuned, reward=f.reward, out=f.dream, config=film_config, sim=s.sim
        )
        yield Phase(f"{name}/dream", dream, after)
    if f.run.seed in c.dppo_seeds:
        usual = sweep.source.section(EvaluateConfig, "evaluate")
        where = dataclasses.replace(usual, environment=sweep.place.environment, rollouts=DPPO_ROLLOUTS)
        dppo = DPPOJob(f.policy, f.world_model, f.dppo, f.final, f.reward, config=s.dppo, evaluate=where, sim=s.sim)
        yield Phase(f"{name}/dppo", dppo, (f"{name}/evaluate",), ALL_CORES)


def _after(sweep: Sweep, *names: str) -> tuple[str, ...]:
    """These phases, and the world model's if the sweep trains it."""
    return (*names, *([] if sweep.config.world_model_of else ["train_world_model"]))
