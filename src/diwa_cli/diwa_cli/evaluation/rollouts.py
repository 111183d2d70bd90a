"""Seeded rollouts of policies in the simulator, in parallel; finished ones are kept as JSON lines."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from diwa_cli.evaluation.tapes import EXTRA_TICKS, Tape
from diwa_cli.video import Film
from diwa_data.dataset.dataset import Episode, save_dataset
from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path, full_disk_as_error, parse_json, read_bytes
from diwa_data.limits import MotionLimits
from diwa_data.motion import SafetyFilter
from diwa_data.processes import run_unordered
from diwa_data.progress import progress
from diwa_data.robot import Observation
from diwa_deploy.control import ControlResult, Tick, control_loop
from diwa_learning.agent import Agent, load_agent
from diwa_learning.core.checkpoint import read_spec
from diwa_sim.calvin.config import CalvinConfig
from diwa_sim.environments import goal_labels, open_environment, seeing
from diwa_sim.table import SimConfig

Item = TypeVar("Item")
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class RolloutJob:
    """One rollout to do."""

    policy: str
    """Name under which its result is reported."""
    checkpoint: Path
    """Policy checkpoint."""
    seed: int
    """Seed of the environment's start state and of all sampling of the agent."""
    video: Path | None = None
    """Where to write an mp4; None for nowhere."""
    tape: Path | None = None
    """Where to write the whole rollout as a dataset; None for nowhere."""


@dataclass(frozen=True)
class RolloutResult:
    """The result of one rollout."""

    policy: str
    seed: int
    success: bool
    """The environment's oracle was true once."""
    steps: int
    """Control ticks until then, or all of them."""
    probabilities: list[float]
    """The classifier's success probability at each tick."""
    interventions: dict[str, int]
    """Ticks in which each safety limit intervened."""
    latency_ms: tuple[float, float]
    """Median and 99th percentile of observation -> command, milliseconds."""


@dataclass(frozen=True)
class Setting:
    """The settings that all rollouts of an evaluation share."""

    skill: str
    world_model: Path
    reward: Path
    max_steps: int
    limits: MotionLimits
    sim: SimConfig | CalvinConfig
    """Which simulated robot and table, and how they start."""
    ddim_steps: int = 0
    """Deterministic steps that a chunk is sampled in; 0: all of the policy's, with noise."""


class Runner:
    """An environment and the agents loaded so far: runs one policy after the other."""

    def __init__(self, setting: Setting):
        self._setting = setting
        where = seeing(setting.sim, read_spec(setting.world_model))
        self._environment = open_environment(where, setting.limits)
        self._agents: dict[Path, Agent] = {}

    def roll_out(self, job: RolloutJob) -> RolloutResult:
        """Run the job's policy from its start until the oracle is true or time is up.

        With a tape it goes on for `EXTRA_TICKS` beyond the time, ended by nothing; the result is the same.
        """
        setting, environment = self._setting, self._environment
        environment.reset(setting.skill, job.seed)
        film, tape = Film(environment) if job.video else None, Tape(environment) if job.tape else None
        judged: list[bool] = []  # by the oracle, after each command

        def keep(observation: Observation, tick: Tick) -> None:
            if film:
                film(observation, tick)
            if tape:
                tape(observation, tick)

        def stop() -> str | None:
            judged.append(environment.succeeded())
            return "oracle" if judged[-1] and not tape else None

        steps = setting.max_steps + (EXTRA_TICKS if tape else 0)
        found = self._run(job.checkpoint, job.seed, steps, keep, stop)
        in_time = judged[: setting.max_steps]
        success = any(in_time)
        counted = ControlResult(found.reason, found.ticks[: in_time.index(True) + 1 if success else len(in_time)])
        if job.video and film:
            film.write(job.video)
        if job.tape and tape:
            outcome = "success" if success else "fail"
            about = {"source": "rollout", "skill": setting.skill, "policy": job.policy, "seed": job.seed}
            labels = goal_labels(setting.skill, setting.sim)
            episode = tape.episode(f"{job.seed}", {**about, "outcome": outcome, "labels": labels})
            save_dataset(job.tape, environment.spec, [episode])
        median, slowest = latency(counted)
        return RolloutResult(
            policy=job.policy,
            seed=job.seed,
            success=success,
            steps=counted.steps,
            probabilities=[round(float(tick.success_probability), 3) for tick in counted.ticks],
            interventions=dict(counted.interventions),
            latency_ms=(round(median, 2), round(slowest, 2)),
        )

    def tape(self, checkpoint: Path, seed: int) -> Episode:
        """A whole rollout, not ended by success."""
        self._environment.reset(self._setting.skill, seed)
        tape = Tape(self._environment)
        self._run(checkpoint, seed, self._setting.max_steps, tape, None)
        return tape.episode(f"{seed}")

    def close(self) -> None:
        """Free the simulator."""
        self._environment.close()

    def _run(
        self,
        checkpoint: Path,
        seed: int,
        max_steps: int,
        on_tick: Callable[[Observation, Tick], None] | None,
        stop: Callable[[], str | None] | None,
    ) -> ControlResult:
        setting, spec = self._setting, self._environment.spec
        if checkpoint not in self._agents:
            self._agents[checkpoint] = load_agent(
                setting.world_model, checkpoint, setting.reward, spec, setting.ddim_steps
            )
        agent, safety = self._agents[checkpoint], SafetyFilter(setting.limits, spec)
        return control_loop(self._environment, agent, safety, max_steps, seed, on_tick=on_tick, stop=stop)


def latency(result: ControlResult) -> tuple[float, float]:
    """Median and 99th percentile of the time from an observation to its command, milliseconds."""
    median, slowest = np.percentile([1e3 * tick.latency for tick in result.ticks], [50, 99])
    return float(median), float(slowest)


def tape_rollouts(checkpoint: Path, seeds: Sequence[int], setting: Setting) -> list[Episode]:
    """Whole rollouts of one policy, not ended by success, as the dataset would hold them.

    `success` is true from the first frame on in which the oracle was.
    """
    episodes = []
    with closing(Runner(setting)) as runner, progress("rollouts", len(seeds), "rollouts") as bar:
        for seed in seeds:
            episodes.append(runner.tape(checkpoint, seed))
            bar.advance()
    return episodes


def run_jobs(jobs: Sequence[RolloutJob], setting: Setting, kept: Path, workers: int, title: str) -> list[RolloutResult]:
    """Results of all `jobs`, in their order; those already in the file `kept`, which gets each, are not run again.

    Those without the tape that their job wants are; `DiwaError` if they end otherwise than before.
    """
    done = {(rollout.policy, rollout.seed): rollout for rollout in read_rollouts(kept, RolloutResult)}
    missing = [job for job in jobs if (job.policy, job.seed) not in done]
    again = [dataclasses.replace(job, video=None) for job in jobs if job.tape and (job.policy, job.seed) in done]
    left, tapes = [*missing, *again], {(job.policy, job.seed): job.tape for job in again}
    kept.parent.mkdir(parents=True, exist_ok=True)
    with progress(title, len(jobs), "rollouts", len(jobs) - len(left)) as bar, kept.open("a") as file:
        for rollout in _roll_out(left, setting, workers):
            key = (rollout.policy, rollout.seed)
            if key not in done:
                with full_disk_as_error(kept):
                    file.write(json.dumps(dataclasses.asdict(rollout)) + "\n")
                    file.flush()
            _require_repeated(done.setdefault(key, rollout), rollout, kept, tapes.get(key))
            wins = [one.success for one in done.values() if one.policy == rollout.policy]
            bar.advance(note=f"{rollout.policy}: {sum(wins)} of {len(wins)}")
    return [done[job.policy, job.seed] for job in jobs]


def _require_repeated(kept: RolloutResult, again: RolloutResult, where: Path, tape: Path | None) -> None:
    """Raise `DiwaError`, and delete its tape, unless a rollout that was run again ended as the one that is kept."""
    one, other = (f"{'success' if r.success else 'failure'} after {r.steps} ticks" for r in (kept, again))
    if one != other:
        if tape:
            tape.unlink(missing_ok=True)
        raise DiwaError(
            f"{where}: {kept.policy} from seed {kept.seed} was a {one}, but run again for its tape it is a {other}: "
            "if machine or version have changed, evaluate into another folder"
        )


def read_rollouts(kept: Path, kind: type[Kept]) -> list[Kept]:
    """The results in a JSON lines file, none if it is not there; a last line cut off by a kill is dropped."""
    if not kept.is_file():
        return []
    cure = "delete it and run again"
    written = read_bytes(kept, cure)
    whole = written[: written.rfind(b"\n") + 1]
    if whole != written:
        with atomic_path(kept) as temporary:
            temporary.write_bytes(whole)
    try:
        return [kind(**parse_json(line, str(kept), cure)) for line in whole.splitlines()]
    except TypeError as error:
        raise DiwaError(f"{kept} is damaged ({error}): {cure}") from error


def _roll_out(jobs: Sequence[RolloutJob], setting: Setting, workers: int) -> Iterator[RolloutResult]:
    """Results as they are done."""
    try:
        yield from one_thread_each(functools.partial(_one, setting), jobs, workers)
    finally:
        if _runner.cache_info().currsize:
            _runner(setting).close()
            _runner.cache_clear()


def one_thread_each(work: Callable[[Item], Kept], items: Sequence[Item], workers: int) -> Iterator[Kept]:
    """`work(item)` of all items as they are done, each by one thread wherever it runs: the same sums in the same
    order."""
    threads, died = torch.get_num_threads(), "a worker was killed (out of memory?): run again with fewer --workers"
    one_thread = functools.partial(torch.set_num_threads, 1)
    one_thread()
    try:
        yield from run_unordered(work, items, workers, died, one_thread)
    finally:
        torch.set_num_threads(threads)


@functools.lru_cache(maxsize=1)
def _runner(setting: Setting) -> Runner:
    """The one of this process."""
    return Runner(setting)


def _one(setting: Setting, job: RolloutJob) -> RolloutResult:
    return _runner(setting).roll_out(job)
