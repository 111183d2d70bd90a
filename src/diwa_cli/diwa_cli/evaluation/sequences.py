"""`diwa evaluate-sequences`: how many of five skills in a row are done, in CALVIN's manner, as deployment runs them.

Orders are possible from their starts; each skill ends by its classifier's word, and the simulator's oracle says whether
it was right. The first skill that the oracle finds not done ends the sequence.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.stats import t

from diwa_cli.evaluation.evaluate import checkpoint_hash, rate_summary
from diwa_cli.evaluation.rollouts import one_thread_each, read_rollouts
from diwa_cli.statistics import SEEDS, Interval, SuccessRate
from diwa_data import __version__
from diwa_data.config import Job, require_at_least
from diwa_data.errors import DiwaError
from diwa_data.files import FolderLock, full_disk_as_error, read_object, require_ours, require_same_settings, write_json
from diwa_data.limits import MotionLimits
from diwa_data.progress import progress
from diwa_deploy.bundle import CARD, Bundle, installed_skills
from diwa_deploy.sequence import Part, SequenceConfig, SkillSequence, find_bundles, load_runners
from diwa_learning.core.checkpoint import read_spec
from diwa_sim.chains import draw_chain
from diwa_sim.table import SimConfig, SimulatedPanda
from diwa_sim.tasks import PAPER_TASKS, succeeded


@dataclass(frozen=True)
class EvaluateSequencesConfig:
    """Settings of `diwa evaluate-sequences`: number of sequences, and their lengths."""

    seeds: Literal["tuning", "curve", "final"] = "final"
    """Range of seeds that decide starts and orders, as in `diwa evaluate`."""
    sequences: int = 100
    """Number of sequences, the same for every policy."""
    length: int = 5
    """Number of different skills in each sequence."""
    max_steps: int = 72
    """Control ticks after which a try counts as failed."""
    workers: int = 2
    """Number of processes; each uses one thread."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Safety limits, as on the robot."""
    between: SequenceConfig = field(default_factory=SequenceConfig)
    """Moves and tries between the skills of a sequence."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "sequences", "length", "max_steps", "workers")


@dataclass(frozen=True)
class SequenceJob:
    """One sequence to run: which policies of the bundles, and the seed of its start, its order and all sampling."""

    policy: str
    seed: int


@dataclass(frozen=True)
class Setting:
    """The settings that all sequences of an evaluation share."""

    skills: tuple[str, ...]
    """Those that sequences are drawn of."""
    folder: Path | None
    length: int
    max_steps: int
    limits: MotionLimits
    between: SequenceConfig
    sim: SimConfig


@dataclass(frozen=True)
class SequenceResult:
    """The result of one sequence; the lists have an entry for each skill that was run."""

    policy: str
    seed: int
    skills: list[str]
    """The order that was drawn."""
    declared: list[bool]
    """The classifier's word: it ended the skill."""
    done: list[bool]
    """The oracle's, on the scene in which the skill ended."""
    reasons: list[str]
    """Why each ended."""
    steps: list[list[int]]
    """Control ticks of each try."""
    moving: list[int]
    """Ticks that the hand was moved for, before each skill and its tries."""

    @property
    def length(self) -> int:
        """Skills in a row that were declared done and were."""
        both = [*(a and b for a, b in zip(self.declared, self.done, strict=True)), False]
        return both.index(False)


@dataclass(frozen=True)
class EvaluateSequencesJob(Job):
    """Run seeded sequences of skills on the simulated table, and report how many skills are done in a row.

    A sequence consists of different skills of the eight, in an order that is possible from its start. As in deployment,
    the classifier ends each skill; the simulator's oracle judges it.
    """

    command_name: ClassVar[str] = "evaluate-sequences"
    section: ClassVar[str] = "evaluate_sequences"

    out: Path
    """Folder for sequences.json; an interrupted evaluation in it continues."""
    skills: Path | None = None
    """Folder with a bundle of each skill, such as `runs/table/skills`; without it, the installed ones."""
    policies: tuple[Literal["finetuned", "base"], ...] = ("finetuned",)
    """Policies of the bundles to run; the shipped bundles hold no `base`."""
    config: EvaluateSequencesConfig = field(default_factory=EvaluateSequencesConfig)
    """Sequences and limits."""
    sim: SimConfig = field(default_factory=SimConfig)
    """The simulated table."""

    def run(self) -> None:
        """Evaluate, or continue, and print a line per policy."""
        for row in evaluate_sequences(self.skills, self.policies, self.out, self.config, self.sim):
            print(text(row))


def evaluate_sequences(
    folder: Path | None, policies: Sequence[str], out: Path, config: EvaluateSequencesConfig, sim: SimConfig
) -> list[dict[str, Any]]:
    """Run every policy's sequences; writes sequences.json, and returns its rows, one a policy.

    Finished sequences are kept in `out/rollouts.jsonl`: an interrupted evaluation continues, and more can be added.
    Raises `DiwaError` if `out` holds results of other bundles or settings.
    """
    if not policies:
        raise DiwaError("name at least one policy: --policies finetuned")
    found = [path.parent.name for path in folder.glob(f"*/{CARD}")] if folder else installed_skills()
    names = tuple(skill for skill in PAPER_TASKS if skill in found)
    bundles = find_bundles(names, folder)
    setting = Setting(
        names, folder, config.length, config.max_steps, config.limits, config.between, _seeing(sim, bundles)
    )
    seeds = SEEDS[config.seeds][: config.sequences]
    for seed in seeds:
        draw_chain(seed, names, config.length, sim.start)
    with FolderLock(out):
        _claim(out, bundles, policies, config.seeds, setting)
        jobs = [SequenceJob(policy, seed) for seed in seeds for policy in policies]
        results = run_jobs(jobs, setting, out / "rollouts.jsonl", config.workers)
        rows = [row([each for each in results if each.policy == policy], config.length) for policy in policies]
        write_json(
            out / "sequences.json",
            {
                "software": f"diwa-ros2 {__version__}",
                "config": dataclasses.asdict(config),
                "rows": rows,
                "sequences": [dataclasses.asdict(each) for each in results],
            },
        )
    return rows


def row(results: Sequence[SequenceResult], length: int) -> dict[str, Any]:
    """Mean completed length of one policy with its 95 % interval, and by position how many came so far in a row.

    `by_skill` counts the skills that were reached, with all before them done: done by the oracle's word and declared so
    by the classifier, declared only, done only.
    """
    lengths = [each.length for each in results]
    by_skill: dict[str, dict[str, int]] = {}
    for each in results:
        for skill, declared, done in zip(each.skills, each.declared, each.done, strict=False):
            counts = by_skill.setdefault(skill, {"reached": 0, "both": 0, "only_declared": 0, "only_done": 0})
            counts["reached"] += 1
            for name, true in (
                ("both", declared and done),
                ("only_declared", declared and not done),
                ("only_done", done and not declared),
            ):
                counts[name] += true
    interval = mean_interval(lengths, length)
    return {
        "policy": results[0].policy,
        "sequences": len(results),
        "mean_length": float(np.mean(lengths)),
        "interval": [interval.low, interval.high],
        "of": length,
        "by_position": [
            rate_summary(SuccessRate(sum(each > position for each in lengths), len(lengths)))
            for position in range(length)
        ],
        "by_skill": dict(sorted(by_skill.items())),
    }


def mean_interval(lengths: Sequence[int], most: int) -> Interval:
    """95 % interval of the mean of completed lengths, 0 to `most`: Student's.

    Where all are equal, or there is one, the sum of Wilson's intervals of the positions.
    """
    mean, count = float(np.mean(lengths)), len(lengths)
    if len(set(lengths)) == 1:
        each = [SuccessRate(sum(one > position for one in lengths), count).interval for position in range(most)]
        return Interval(sum(one.low for one in each), sum(one.high for one in each))
    half = float(t.ppf(0.975, count - 1) * np.std(lengths, ddof=1) / math.sqrt(count))
    return Interval(max(0.0, mean - half), min(float(most), mean + half))


def text(found: dict[str, Any]) -> str:
    """A line for a policy's row."""
    low, high = found["interval"]
    share = " ".join(f"{100 * each['rate']:.0f}" for each in found["by_position"])
    return (
        f"{found['policy']}: {found['mean_length']:.2f} of {found['of']} in a row (95 %: {low:.2f} to {high:.2f}) over "
        f"{found['sequences']} sequences; 1 to {found['of']} in a row: {share} %"
    )


class Runner:
    """A table and the skills loaded so far: runs one sequence after the other."""

    def __init__(self, setting: Setting):
        self._setting, self._robot = setting, SimulatedPanda(setting.sim, setting.limits)
        self._load = functools.cache(self._runners)

    def run(self, job: SequenceJob) -> SequenceResult:
        """Run a sequence until it ends, or a skill was not done by the oracle's word."""
        setting, robot, names = self._setting, self._robot, self._robot.spec.scene_state
        chain = draw_chain(job.seed, setting.skills, setting.length, setting.sim.start)
        robot.place(chain.start)
        sequence = SkillSequence(chain.skills, self._load(job.policy), setting.between)
        if problem := sequence.problem(robot.measured_pose):
            raise DiwaError(f"the sequence of seed {job.seed} cannot begin: {problem}")
        scene, parts, done = robot.scene_state(), list[Part](), list[bool]()
        for part in sequence.run(robot, setting.max_steps, job.seed):
            before, scene = scene, robot.scene_state()
            parts.append(part)
            done.append(succeeded(part.skill, before, scene, names))
            if not done[-1]:
                break
        return SequenceResult(
            policy=job.policy,
            seed=job.seed,
            skills=list(chain.skills),
            declared=[part.done for part in parts],
            done=done,
            reasons=[part.reason for part in parts],
            steps=[[one.steps for one in part.tries] for part in parts],
            moving=[part.moving for part in parts],
        )

    def close(self) -> None:
        """Free the simulator."""
        self._robot.close()

    def _runners(self, policy: str) -> Any:
        bundles = find_bundles(self._setting.skills, self._setting.folder)
        return load_runners(bundles, self._robot.spec, self._setting.limits, policy)


def run_jobs(jobs: Sequence[SequenceJob], setting: Setting, kept: Path, workers: int) -> list[SequenceResult]:
    """Results of all `jobs`, in their order; those already in the file `kept`, which gets each, are not run again."""
    done = {(each.policy, each.seed): each for each in read_rollouts(kept, SequenceResult)}
    left = [job for job in jobs if (job.policy, job.seed) not in done]
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        with progress("sequences", len(jobs), "sequences", len(jobs) - len(left)) as bar, kept.open("a") as file:
            for result in one_thread_each(functools.partial(_one, setting), left, workers):
                done[result.policy, result.seed] = result
                with full_disk_as_error(kept):
                    file.write(json.dumps(dataclasses.asdict(result)) + "\n")
                    file.flush()
                mine = [each.length for each in done.values() if each.policy == result.policy]
                bar.advance(note=f"{result.policy}: {np.mean(mine):.2f} of {setting.length} in a row")
    finally:
        if _runner.cache_info().currsize:
            _runner(setting).close()
            _runner.cache_clear()
    return [done[job.policy, job.seed] for job in jobs]


@functools.lru_cache(maxsize=1)
def _runner(setting: Setting) -> Runner:
    """The one of this process."""
    return Runner(setting)


def _one(setting: Setting, job: SequenceJob) -> SequenceResult:
    return _runner(setting).run(job)


def _seeing(sim: SimConfig, bundles: dict[str, Bundle]) -> SimConfig:
    """`sim` with the cameras, the gripper and the objects of the bundles' contract. Raises `DiwaError` if none is."""
    if not bundles:
        raise DiwaError(
            f"there is no bundle of {' or '.join(PAPER_TASKS)}: name the folder that holds bundles with --skills"
        )
    return sim.like(read_spec(next(iter(bundles.values())).world_model))


def _claim(out: Path, bundles: dict[str, Bundle], policies: Sequence[str], seeds: str, setting: Setting) -> None:
    """Remember in `out/inputs.json` whose results these are; refuse to mix them with others."""
    mine: dict[str, Any] = {**dataclasses.asdict(setting), "seeds": seeds}
    del mine["folder"]
    for skill, bundle in bundles.items():
        parts = {"world_model": bundle.world_model, "reward": bundle.reward}
        parts |= {f"policy {policy}": bundle.policy_named(policy) for policy in policies}
        mine |= {f"{skill} {name}": checkpoint_hash(path) for name, path in parts.items()}
    inputs = out / "inputs.json"
    require_ours(out, "evaluation of sequences", inputs.name)
    theirs = read_object(inputs, f"delete {out} to evaluate again") if inputs.is_file() else {}
    common = theirs.keys() & mine.keys()
    require_same_settings(out, {key: theirs[key] for key in common}, {key: mine[key] for key in common})
    write_json(inputs, {**theirs, **mine})
