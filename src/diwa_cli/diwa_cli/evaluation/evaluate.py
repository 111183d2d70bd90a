"""`diwa evaluate`: how often each of several policies succeeds from the same start states, and by how much they differ.

The simulator's oracle judges; nothing here reaches training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from diwa_cli.evaluation.deployment import Declared, declared
from diwa_cli.evaluation.rollouts import RolloutJob, RolloutResult, Setting, run_jobs
from diwa_cli.evaluation.tapes import TapeFile
from diwa_cli.figures import success_bars
from diwa_cli.run_folder import write_text
from diwa_cli.statistics import SEEDS, SuccessRate, paired_difference
from diwa_data import __version__
from diwa_data.config import Job, require_at_least
from diwa_data.errors import DiwaError
from diwa_data.files import FolderLock, read_object, require_ours, require_same_settings, write_json
from diwa_data.limits import MotionLimits
from diwa_learning.core.checkpoint import is_finished, read_header, read_spec, weights_hash
from diwa_sim.environments import EnvironmentConfig, require_task, start_states
from diwa_sim.table import SimConfig


@dataclass(frozen=True)
class EvaluateConfig(EnvironmentConfig):
    """Settings of `diwa evaluate`: start states and the length of a rollout."""

    skill: str = "open_drawer"
    """Skill to perform; its oracle decides whether a rollout succeeded."""
    seeds: Literal["tuning", "curve", "final"] = "final"
    """Range of start states; the three never overlap."""
    rollouts: int = 100
    """Number of start states, the same for every policy.
    With calvin.data at most the number of annotated segments of the skill; each is used once."""
    max_steps: int = 72
    """Control ticks after which a rollout counts as failed."""
    ddim_steps: int = 0
    """Deterministic denoising steps (DDIM) for each chunk; 0 = all of the policy's steps, with noise (DDPM)."""
    videos: int = 6
    """Number of start states, from the first on, whose rollouts are filmed."""
    tapes: bool = False
    """Keep every rollout with its images in the dataset rollouts.h5 (about 0.5 MB each at 72 ticks).
    Each then continues for 8 ticks after its end; results stay the same. Finished ones without a tape run again."""
    workers: int = 2
    """Number of processes; each uses one thread."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Safety limits, as on the robot."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "max_steps", "workers")
        require_at_least(self, 0, "videos")


@dataclass(frozen=True)
class Evaluation:
    """Results of every policy on the same start states, in the same order."""

    rollouts: dict[str, list[RolloutResult]]
    declared: dict[str, Declared] = field(default_factory=dict)
    """How deployment would have judged each policy's rollouts; empty without tapes."""

    def successes(self, policy: str) -> list[bool]:
        """Success from each start state."""
        return [rollout.success for rollout in self.rollouts[policy]]

    def rate(self, policy: str) -> SuccessRate:
        """How often `policy` succeeded."""
        return SuccessRate(sum(self.successes(policy)), len(self.rollouts[policy]))


@dataclass(frozen=True)
class EvaluateJob(Job):
    """Roll out policies from the same start states in the simulator: success, 95 % intervals, paired differences."""

    command_name: ClassVar[str] = "evaluate"
    section: ClassVar[str] = "evaluate"

    policies: dict[str, Path]
    """Names and checkpoint folders: `base BASE/policy finetuned RUN/finetuned`.
    The others are compared with the first."""
    world_model: Path
    """Checkpoint folder of the world model that the policies were trained on."""
    reward: Path
    """Checkpoint folder of the classifier that the videos show; the simulator's oracle decides about success."""
    out: Path
    """Folder for evaluation.json, success.svg, videos and tapes; an interrupted evaluation in it continues."""
    curve: int = 0
    """Checkpoints of the last policy's fine-tuning to evaluate instead of the policies: its learning curve; 0 = none.
    They are spread evenly from the first policy to the last."""
    config: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Start states and limits."""
    sim: SimConfig = field(default_factory=SimConfig)
    """The simulated table."""

    def run(self) -> None:
        """Evaluate, or continue, and print the rates."""
        policies = self.policies
        if self.curve and len(policies) > 1:
            base, *_, tuned = policies.values()
            policies = curve_policies(base, tuned, self.curve)
        print(text(evaluate(policies, self.world_model, self.reward, self.out, self.config, self.sim)))


def curve_policies(base: Path, finetuned: Path, count: int) -> dict[str, Path]:
    """About `count` policies by iteration: `base`, the last checkpoint of fine-tuning, and evenly between."""
    kept = sorted(finetuned.glob("iterations/[0-9]*"))
    found, count = [("000000", base), *((path.name, path) for path in kept)], max(2, count)
    chosen = {round(index * (len(found) - 1) / (count - 1)) for index in range(count)}
    return dict(found[index] for index in sorted(chosen))


def evaluate(
    policies: Mapping[str, Path], world_model: Path, reward: Path, out: Path, config: EvaluateConfig, sim: SimConfig
) -> Evaluation:
    """Roll out every policy (name -> checkpoint) on the same starts; writes evaluation.json, success.svg and videos.

    Finished rollouts are kept in `out/rollouts.jsonl` (with tapes, whole in `out/rollouts.h5`): an interrupted
    evaluation continues, and more rollouts, more policies or tapes can be added. Raises `DiwaError` if `out` holds
    results of other checkpoints or settings.
    """
    environment = config.chosen(sim)
    require_task(config.skill, environment)
    config = each_start_once(config, start_states(config.skill, environment))
    setting = Setting(
        config.skill, world_model, reward, config.max_steps, config.limits, environment, config.ddim_steps
    )
    seeds = start_seeds(config)
    if differing := config.limits.compared(read_spec(world_model).limits):
        print(differing)
    with FolderLock(out):
        _claim(out, policies, config.seeds, setting)
        tapes = TapeFile(out / "rollouts.h5") if config.tapes else None
        jobs = [
            RolloutJob(
                name,
                path,
                seed,
                video=out / "videos" / f"{name}_{seed}.mp4" if index < config.videos else None,
                tape=tapes.missing(name, seed) if tapes else None,
            )
            for index, seed in enumerate(seeds)
            for name, path in policies.items()
        ]
        done = run_jobs(jobs, setting, out / "rollouts.jsonl", config.workers, f"evaluation, {config.seeds} seeds")
        judged: dict[str, Declared] = {}
        if tapes:
            tapes.join()
            judged = declared(out / "rollouts.h5", reward, [(job.policy, job.seed) for job in jobs])
        by_policy = {name: [rollout for rollout in done if rollout.policy == name] for name in policies}
        result = Evaluation(by_policy, judged)
        write_json(out / "evaluation.json", summary(result, config))
        write_text(out / "success.svg", success_bars({name: result.rate(name) for name in policies}))
    return result


def each_start_once(config: EvaluateConfig, count: int | None) -> EvaluateConfig:
    """The same with no more rollouts than there are start states (None: no end of them). Says so where it is fewer."""
    if count is None or config.rollouts <= count:
        return config
    print(f"{config.calvin.data} has {count} annotated segments of {config.skill}: a rollout from each, no more")
    return dataclasses.replace(config, rollouts=count)


def start_seeds(config: EvaluateConfig) -> Sequence[int]:
    """Seeds of the start states, each also that of the agent's sampling."""
    if not 1 <= config.rollouts <= len(SEEDS[config.seeds]):
        raise DiwaError(f"rollouts is {config.rollouts}: choose 1 to {len(SEEDS[config.seeds])}")
    return SEEDS[config.seeds][: config.rollouts]


def summary(result: Evaluation, config: EvaluateConfig) -> dict[str, Any]:
    """Contents of `evaluation.json`: rates and Wilson intervals, differences to the first policy, every rollout.

    With tapes also how deployment would have judged them.
    """
    first, *others = result.rollouts
    return {
        "software": f"diwa-ros2 {__version__}",
        "config": dataclasses.asdict(config),
        "policies": {name: rate_summary(result.rate(name)) for name in result.rollouts},
        "differences": {f"{name} - {first}": difference_summary(result, first, name) for name in others},
        "deployment": {name: one.summary() for name, one in result.declared.items()},
        "rollouts": [dataclasses.asdict(rollout) for rollouts in result.rollouts.values() for rollout in rollouts],
    }


def rate_summary(rate: SuccessRate) -> dict[str, Any]:
    """Counts, rate and Wilson's 95 % interval, as fractions."""
    ends = [rate.interval.low, rate.interval.high]
    return {"successes": rate.successes, "rollouts": rate.rollouts, "rate": rate.rate, "interval": ends}


def difference_summary(result: Evaluation, first: str, second: str) -> dict[str, Any]:
    """Paired difference `second` - `first` in percentage points with Newcombe's 95 % interval, and its four counts."""
    difference = paired_difference(result.successes(first), result.successes(second))
    return {
        "points": 100 * difference.difference,
        "interval": [100 * difference.interval.low, 100 * difference.interval.high],
        "both": difference.both,
        f"only_{first}": difference.only_first,
        f"only_{second}": difference.only_second,
        "neither": difference.neither,
    }


def text(result: Evaluation) -> str:
    """A line per policy, one per difference to the first, and with tapes one per policy as deployment sees it."""
    first, *others = result.rollouts
    lines = []
    for name in result.rollouts:
        rate, interval = result.rate(name), result.rate(name).interval
        lines.append(
            f"{name}: {rate.successes} of {rate.rollouts} ({100 * rate.rate:.0f} %, "
            f"95 %: {100 * interval.low:.0f} to {100 * interval.high:.0f})"
        )
    for name in others:
        difference = difference_summary(result, first, name)
        low, high = difference["interval"]
        lines.append(f"{name} - {first}: {difference['points']:+.0f} points (95 %, paired: {low:+.0f} to {high:+.0f})")
    lines += [f"{name}, as deployment sees it: {one.text()}" for name, one in result.declared.items()]
    return "\n".join(lines)


def _claim(out: Path, policies: Mapping[str, Path], seeds: str, setting: Setting) -> None:
    """Remember in `out/inputs.json` whose results these are; refuse to mix them with others."""
    if not policies:
        raise DiwaError("name at least one policy: --policies base DIR finetuned DIR")
    mine = {
        **dataclasses.asdict(setting),
        "seeds": seeds,
        "world_model": checkpoint_hash(setting.world_model),
        "reward": checkpoint_hash(setting.reward),
        **{f"policy {name}": checkpoint_hash(path) for name, path in policies.items()},
    }
    inputs = out / "inputs.json"
    require_ours(out, "evaluation", inputs.name)
    theirs = read_object(inputs, f"delete {out} to evaluate again") if inputs.is_file() else {}
    theirs = {"ddim_steps": 0, **theirs} if theirs else {}  # results from before there was a choice
    common = theirs.keys() & mine.keys()
    before, now = ({key: each[key] for key in common} for each in (theirs, mine))
    require_same_settings(out, before, now, usual={"sim": dataclasses.asdict(SimConfig())})
    write_json(inputs, {**theirs, **mine})


def checkpoint_hash(path: Path) -> str:
    """Hash of a checkpoint's weights. Raises `DiwaError` where there is no finished checkpoint."""
    if not path.is_dir():
        raise DiwaError(f"no checkpoint folder {path}: give one of `diwa train-policy` or `diwa finetune`")
    phase = read_header(path)["phase"]
    if not is_finished(path):
        raise DiwaError(f"{path} has no weights yet: its training ({phase}) is unfinished")
    return weights_hash(path)
