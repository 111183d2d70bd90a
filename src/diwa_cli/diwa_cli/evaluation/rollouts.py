"""Seeded rollouts of policies in the simulator, in parallel; finished ones are kept as JSON lines."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diwa_cli.video import Film
from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path, full_disk_as_error, parse_json, read_bytes
from diwa_data.images import Frame, preprocess_observation
from diwa_data.motion import MotionLimits, SafetyFilter
from diwa_data.pose import Pose, action_sequence
from diwa_data.processes import children_without_interrupts, process_pool
from diwa_data.progress import progress
from diwa_data.robot import Environment, Observation
from diwa_deploy.control import Agent, Tick, control_loop
from diwa_learning.agent import load_agent
from diwa_sim.calvin.environment import CalvinConfig
from diwa_sim.environments import open_environment
from diwa_sim.table import SimConfig


@dataclass(frozen=True)
class Job:
    """One rollout to do."""

    policy: str
    """Name under which its result is reported."""
    checkpoint: Path
    """Policy checkpoint."""
    seed: int
    """Of the environment's start state and of all sampling of the agent."""
    video: Path | None = None
    """Where to write an mp4; None for nowhere."""


@dataclass(frozen=True)
class Rollout:
    """The result of one job."""

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
    """What all rollouts of an evaluation share."""

    skill: str
    world_model: Path
    reward: Path
    max_steps: int
    limits: MotionLimits
    sim: SimConfig | CalvinConfig
    """Which simulated robot and table, and how they start."""


class Runner:
    """An environment and the agents loaded so far: runs one job after the other."""

    def __init__(self, setting: Setting):
        self._setting = setting
        self._environment = open_environment(setting.sim, setting.limits)
        self._agents: dict[Path, Agent] = {}

    def __call__(self, job: Job) -> Rollout:
        """Reset the environment to the job's seed and run its policy until the oracle is true or time is up."""
        self._environment.reset(self._setting.skill, job.seed)
        film = Film(self._environment) if job.video else None
        agent = self._agent(job.checkpoint)
        safety = SafetyFilter(self._setting.limits, self._environment.spec)
        rollout = rollout_until_success(self._environment, agent, safety, self._setting.max_steps, job, film)
        if job.video and film:
            film.write(job.video)
        return rollout

    def close(self) -> None:
        """Free the simulator."""
        self._environment.close()

    def _agent(self, checkpoint: Path) -> Agent:
        if checkpoint not in self._agents:
            spec = self._environment.spec
            self._agents[checkpoint] = load_agent(self._setting.world_model, checkpoint, self._setting.reward, spec)
        return self._agents[checkpoint]


def rollout_until_success(
    environment: Environment, agent: Agent, safety: SafetyFilter, max_steps: int, job: Job, film: Film | None
) -> Rollout:
    """Run `agent` in the environment as it stands until its oracle is true or `max_steps` ticks are over."""
    result = control_loop(
        environment,
        agent,
        safety,
        max_steps,
        seed=job.seed,
        on_tick=film,
        stop=lambda: "oracle" if environment.succeeded() else None,
    )
    latencies = 1e3 * np.array([tick.latency for tick in result.ticks])
    return Rollout(
        policy=job.policy,
        seed=job.seed,
        success=environment.succeeded(),
        steps=result.steps,
        probabilities=[round(float(tick.success_probability), 3) for tick in result.ticks],
        interventions=dict(result.interventions),
        latency_ms=(round(float(np.median(latencies)), 2), round(float(np.percentile(latencies, 99)), 2)),
    )


def tape_rollouts(checkpoint: Path, seeds: Sequence[int], setting: Setting) -> list[Episode]:
    """Whole rollouts of one policy, not ended by success, as the dataset would hold them.

    `success` is true from the first frame on in which the oracle was.
    """
    environment, episodes = open_environment(setting.sim, setting.limits), []
    agent = load_agent(setting.world_model, checkpoint, setting.reward, environment.spec)
    with progress("rollouts", len(seeds), "rollouts") as bar:
        for seed in seeds:
            environment.reset(setting.skill, seed)
            tape = Tape(environment)
            safety = SafetyFilter(setting.limits, environment.spec)
            control_loop(environment, agent, safety, setting.max_steps, seed, on_tick=tape)
            episodes.append(tape.episode(str(seed)))
            bar.advance()
    environment.close()
    return episodes


class Tape:
    """Keeps a rollout's frames, targets and the oracle's verdicts."""

    def __init__(self, environment: Environment):
        self._environment = environment
        self._frames: list[Frame] = []
        self._targets: list[Pose] = []
        self._grippers = [environment.spec.action.gripper_open]
        self._success = [environment.succeeded()]

    def __call__(self, observation: Observation, tick: Tick) -> None:
        """Take one control tick, after its command."""
        self._frames.append(preprocess_observation(observation, self._environment.spec))
        self._targets.append(observation.target)
        self._grippers.append(float(tick.action[6]))
        self._success.append(self._environment.succeeded())

    def episode(self, name: str) -> Episode:
        """All frames including the last state, whose action holds."""
        spec, last = self._environment.spec, self._environment.observe()
        frames = [*self._frames, preprocess_observation(last, spec)]
        actions = action_sequence([*self._targets, last.target], np.array(self._grippers), spec.action).actions
        time = np.arange(len(frames)) / spec.rate
        scenes = [frame.scene_state for frame in frames if frame.scene_state is not None]
        return Episode(
            name,
            {name: np.stack([frame.images[name] for frame in frames]) for name in frames[0].images},
            np.stack([frame.state for frame in frames]),
            np.stack([*actions, spec.action.null]),
            np.logical_or.accumulate(self._success),
            stamp=time,
            received=time,
            scene_state=np.stack(scenes) if scenes else None,
            attributes={},
        )


def run_jobs(jobs: Sequence[Job], setting: Setting, kept: Path, workers: int, title: str) -> list[Rollout]:
    """Results of all `jobs`, in their order; those already in the file `kept` are not run again.

    Ctrl-C waits for the rollouts under way (seconds), keeps them and raises KeyboardInterrupt.
    """
    done = {(rollout.policy, rollout.seed): rollout for rollout in read_rollouts(kept)}
    missing = [job for job in jobs if (job.policy, job.seed) not in done]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with progress(title, len(jobs), "rollouts", len(jobs) - len(missing)) as bar, kept.open("a") as file:
        for rollout in _results(missing, setting, workers):
            done[rollout.policy, rollout.seed] = rollout
            with full_disk_as_error(kept):
                file.write(json.dumps(dataclasses.asdict(rollout)) + "\n")
                file.flush()
            bar.advance(note=f"{rollout.policy}: {_share(done.values(), rollout.policy)}")
    return [done[job.policy, job.seed] for job in jobs]


def read_rollouts(kept: Path) -> list[Rollout]:
    """The rollouts in a JSON lines file, none if it is not there; a last line cut off by a kill is dropped."""
    if not kept.is_file():
        return []
    cure = "delete it and run again"
    written = read_bytes(kept, cure)
    whole = written[: written.rfind(b"\n") + 1]
    if whole != written:
        with atomic_path(kept) as temporary:
            temporary.write_bytes(whole)
    try:
        return [Rollout(**parse_json(line, str(kept), cure)) for line in whole.splitlines()]
    except TypeError as error:
        raise DiwaError(f"{kept} is damaged ({error}): {cure}") from error


def _share(rollouts: Iterable[Rollout], policy: str) -> str:
    mine = [rollout.success for rollout in rollouts if rollout.policy == policy]
    return f"{sum(mine)} of {len(mine)}"


def _results(jobs: Sequence[Job], setting: Setting, workers: int) -> Iterator[Rollout]:
    """Run the jobs, in this process if one worker is enough."""
    if min(workers, len(jobs)) <= 1:
        yield from _results_here(jobs, setting)
        return
    executor = process_pool(workers, _start_worker, setting)
    try:
        with children_without_interrupts():
            futures = [executor.submit(_run_in_worker, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise DiwaError("a worker was killed (out of memory?): run again with fewer --workers") from error
    finally:
        executor.shutdown(cancel_futures=True)


def _results_here(jobs: Sequence[Job], setting: Setting) -> Iterator[Rollout]:
    if not jobs:
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the workers: the same sums in the same order
    runner = Runner(setting)
    try:
        for job in jobs:
            yield runner(job)
    finally:
        runner.close()
        torch.set_num_threads(threads)


_runner: Runner | None = None
"""The worker process's own."""


def _start_worker(setting: Setting) -> None:
    global _runner
    torch.set_num_threads(1)
    _runner = Runner(setting)


def _run_in_worker(job: Job) -> Rollout:
    if _runner is None:
        raise RuntimeError("the worker was not started")
    return _runner(job)
