"""What a sweep consists of: its runs, and its phases by stage."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diwa_cli.evaluation.evaluate import EvaluateConfig
from diwa_cli.pipeline.demo import DemoConfig, Settings
from diwa_cli.pipeline.jobs import Phase, PhaseMaker
from diwa_cli.run_folder import BASE, FINETUNED, Run, SweepFolder
from diwa_data.config import Source
from diwa_data.errors import DiwaError
from diwa_data.skills import SKILLS, require_skill

ALL = "all"
"""As a skill: every one."""


@dataclass(frozen=True)
class SweepConfig:
    """`diwa sweep`: what is swept, and how much of everything; sizes are in the preset's other sections."""

    skills: tuple[str, ...] = (ALL,)
    """Skills to learn; `all` for the eight."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of policy, classifier and fine-tuning."""
    alphas: tuple[float, ...] = ()
    """Values of alpha_BC; none = the preset's."""
    dppo_seeds: tuple[int, ...] = ()
    """Seeds whose base policies DPPO fine-tunes in the simulator too, until they are as good; none = no baseline."""
    play_minutes: float = 40.0
    """Minutes of play to record."""
    demonstrations: int = 50
    """Demonstrations to record of each skill."""
    rollouts: int = 200
    """Start states of every evaluation, the same for all."""
    videos: int = 1
    """Start states of every evaluation that are filmed."""
    seed: int = 0
    """Of the recordings and the world model, which all runs share."""
    world_model_of: str = ""
    """Folder of a finished demo or sweep whose play and world model to use; empty = record and train them."""
    reuse: str = ""
    """Folder of another sweep: what it has finished and is configured alike is linked, not made again; empty =
    that of `world_model_of`."""
    stacked: bool | None = None
    """Whether policies, classifiers and fine-tunings train stacked, all at once on one device; None = on a GPU."""
    workers: int = 2
    """Phases at a time, of those that use one core: policies, classifiers, fine-tunings. With 1, each uses all."""
    ray: str = ""
    """`local` starts Ray on this machine, an address (`auto`, ray://HOST:10001) uses a cluster; empty = without Ray."""


DPPO_ROLLOUTS = 50
"""Start states on which each checkpoint of the baseline is judged."""

FREE = ("skills", "seeds", "alphas", "dppo_seeds", "reuse", "stacked", "workers", "ray")
"""What may change between two calls on one folder: a sweep can grow, and go on elsewhere."""


@dataclass(frozen=True)
class Stage:
    """Phases of one kind, which do not wait for each other."""

    name: str
    phases: tuple[Phase, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep's configuration, resolved."""

    config: SweepConfig
    source: Source

    @property
    def skills(self) -> tuple[str, ...]:
        """Skills by name, each once. Raises `DiwaError` for an unknown one."""
        named = dict.fromkeys(self.config.skills)
        return SKILLS if ALL in named else tuple(require_skill(name) for name in named)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds, each once."""
        return tuple(dict.fromkeys(self.config.seeds))

    def alphas(self, skill: str) -> tuple[float, ...]:
        """Values of alpha_BC for a skill, each once."""
        preset = self.settings(skill, self.config.seed).finetune.alpha_for(skill)
        return tuple(dict.fromkeys(self.config.alphas)) or (preset,)

    def runs(self) -> list[Run]:
        """All of them. Raises `DiwaError` if there is none."""
        found = [
            Run(skill, seed, alpha) for skill in self.skills for seed in self.seeds for alpha in self.alphas(skill)
        ]
        if not found:
            raise DiwaError("a sweep needs at least one skill and one seed: --skills open_drawer --seeds 0")
        return found

    def settings(self, skill: str, seed: int) -> Settings:
        """Of the demo that does the same."""
        return _settings(self, skill, seed)


def plan(folder: SweepFolder, sweep: Sweep) -> list[Stage]:
    """The phases of a sweep by stage, in an order in which each finds its inputs finished."""
    runs, practising = sweep.runs(), sweep.config.dppo_seeds
    trained = list({run.trained: run for run in runs}.values())
    make = PhaseMaker(sweep.source, sweep.settings(sweep.skills[0], sweep.config.seed).sim)
    stages = [
        *data_stages(folder, sweep, make),
        Stage("train_policy", tuple(policy_phase(folder, sweep, make, run) for run in trained)),
        Stage("train_reward", tuple(reward_phase(folder, sweep, make, run) for run in trained)),
        Stage("finetune", tuple(finetune_phase(folder, sweep, make, run) for run in runs)),
        Stage(
            "evaluate",
            tuple(base_phase(folder, sweep, make, run) for run in trained)
            + tuple(finetuned_phase(folder, sweep, make, run) for run in runs),
        ),
        Stage("dppo", tuple(dppo_phase(folder, sweep, make, run) for run in runs if run.seed in practising)),
    ]
    return [stage for stage in stages if stage.phases]


def data_stages(folder: SweepFolder, sweep: Sweep, make: PhaseMaker) -> list[Stage]:
    """Recordings, datasets, replays and the world model, with the sweep's own seed."""
    shared, own = folder.shared, not sweep.config.world_model_of
    s = sweep.settings(sweep.skills[0], sweep.config.seed)
    records, builds, replays, world_models, guards = [], [], [], [], []
    if own:
        records.append(make.record("record_play", shared.play_bags, s.play))
        builds.append(make.build("build_play", shared.play_bags, shared.play, s.dataset, ["record_play"]))
        world_models.append(
            make.world_model("train_world_model", [shared.play], shared.world_model, s.world_model, ["build_play"])
        )
    if guard := guard_of(folder, sweep):
        guards.append(make.guard("train_guard", [shared.play], shared.world_model, guard, s.guard, _after(sweep)))
    for skill in sweep.skills:
        mine, config = folder.of(skill), sweep.settings(skill, sweep.config.seed).demonstrations
        records.append(make.record(f"{skill}/record", mine.demonstration_bags, config))
        builds.append(
            make.build(f"{skill}/build", mine.demonstration_bags, mine.demonstrations, s.dataset, [f"{skill}/record"])
        )
        replays.append(make.replay(f"{skill}/replay", mine.demonstrations, mine.replay, [f"{skill}/build"]))
    found = {
        "record": records, "build": builds, "replay": replays, "train_world_model": world_models, "train_guard": guards,
    }  # fmt: skip
    return [Stage(name, tuple(phases)) for name, phases in found.items()]


def guard_of(folder: SweepFolder, sweep: Sweep) -> Path | None:
    """The guard of all dreams, if fine-tuning needs one."""
    config = sweep.settings(sweep.skills[0], sweep.config.seed).finetune
    return folder.shared.guard if config.needs_guard else None


def policy_phase(folder: SweepFolder, sweep: Sweep, make: PhaseMaker, run: Run) -> Phase:
    """The base policy of a skill and seed."""
    return make.policy(
        f"{run.trained}/train_policy",
        folder.of(run.skill).demonstrations,
        folder.shared.world_model,
        folder.of(run.trained).policy,
        sweep.settings(run.skill, run.seed).policy,
        _after(sweep, f"{run.skill}/build"),
    )


def reward_phase(folder: SweepFolder, sweep: Sweep, make: PhaseMaker, run: Run) -> Phase:
    """The classifier of a skill and seed."""
    return make.reward(
        f"{run.trained}/train_reward",
        folder.of(run.skill).demonstrations,
        folder.shared.play,
        folder.shared.world_model,
        folder.of(run.trained).reward,
        sweep.settings(run.skill, run.seed).reward,
        _after(sweep, f"{run.skill}/build"),
    )


def finetune_phase(folder: SweepFolder, sweep: Sweep, make: PhaseMaker, run: Run) -> Phase:
    """The fine-tuning of a run."""
    trained, shared, guard = folder.of(run.trained), folder.shared, guard_of(folder, sweep)
    after = [f"{run.trained}/train_policy", f"{run.trained}/train_reward", *(["train_guard"] if guard else [])]
    return make.finetune(
        f"{run.name}/finetune",
        trained.policy,
        trained.reward,
        shared.world_model,
        folder.of(run.skill).demonstrations,
        shared.play,
        guard,
        folder.of(run.name).finetuned,
        dataclasses.replace(sweep.settings(run.skill, run.seed).finetune, alpha_bc=run.alpha),
        after,
    )


def base_phase(folder: SweepFolder, sweep: Sweep, make: PhaseMaker, run: Run) -> Phase:
    """The evaluation of the base policy of a skill and seed, once for all values of alpha_BC."""
    trained, after = folder.of(run.trained), [f"{run.trained}/train_policy", f"{run.trained}/train_reward"]
    name, policies, config = f"{run.trained}/evaluate", {BASE: trained.policy}, _judging(sweep, run)
    return make.evaluate(name, policies, folder.shared.world_model, trained.reward, trained.final, config, after)


def finetuned_phase(folder: SweepFolder, sweep: Sweep, make: PhaseMaker, run: Run) -> Phase:
    """The evaluation of a fine-tuned policy, on the starts of its base."""
    trained, mine = folder.of(run.trained), folder.of(run.name)
    name, policies, after = f"{run.name}/evaluate", {FINETUNED: mine.finetuned}, [f"{run.name}/finetune"]
    config = _judging(sweep, run)
    return make.evaluate(name, policies, folder.shared.world_model, trained.reward, mine.final, config, after)


def dppo_phase(folder: SweepFolder, sweep: Sweep, make: PhaseMaker, run: Run) -> Phase:
    """The baseline, on the base policy of a run until it is as good as the run's result."""
    trained, mine, settings = folder.of(run.trained), folder.of(run.name), sweep.settings(run.skill, run.seed)
    evaluation = dataclasses.replace(settings.curve, rollouts=DPPO_ROLLOUTS)
    paths = (trained.policy, folder.shared.world_model, trained.reward, mine.final, mine.dppo)
    return make.dppo(f"{run.name}/dppo", *paths, settings.dppo, evaluation, [f"{run.name}/evaluate"])


def _judging(sweep: Sweep, run: Run) -> EvaluateConfig:
    """The evaluation of a run, in one process: phases side by side start none of their own each time.

    Unless it asks for more processes than there are phases at a time.
    """
    config = sweep.settings(run.skill, run.seed).final
    return dataclasses.replace(config, workers=1) if config.workers <= sweep.config.workers else config


@cache
def _settings(sweep: Sweep, skill: str, seed: int) -> Settings:
    c = sweep.config
    demo = dataclasses.replace(
        sweep.source.section(DemoConfig, "demo"),
        skill=skill,
        seed=seed,
        play_minutes=c.play_minutes,
        demonstrations=c.demonstrations,
        rollouts=c.rollouts,
    )
    found = Settings.load(demo, sweep.source)
    return dataclasses.replace(found, final=dataclasses.replace(found.final, videos=c.videos))


def _after(sweep: Sweep, *names: str) -> list[str]:
    """These phases, and the world model's if the sweep trains it."""
    return [*names, *([] if sweep.config.world_model_of else ["train_world_model"])]
