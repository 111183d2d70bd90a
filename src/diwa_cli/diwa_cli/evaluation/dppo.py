"""`diwa dppo`: the baseline in the simulator, and how many environment steps it needs to match DiWA.

Its environments run in processes of their own, which end with this one.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np

from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate, rate_summary
from diwa_cli.figures import Curve, lines
from diwa_cli.run_folder import read_json, read_metrics, write_text
from diwa_cli.statistics import DPPO_SEEDS, SuccessRate
from diwa_data.config import Job
from diwa_data.errors import DiwaError
from diwa_data.files import write_json
from diwa_data.processes import children_without_interrupts, end_with_parent
from diwa_data.robot import VectorEnvironment
from diwa_learning.core.checkpoint import is_finished, load_checkpoint, read_spec
from diwa_learning.finetune.dppo import DPPOConfig, Practice, dppo
from diwa_sim.calvin.config import CalvinConfig
from diwa_sim.environments import seeing
from diwa_sim.table import SimConfig


@dataclass(frozen=True)
class DPPOJob(Job):
    """Fine-tune a policy by PPO in the simulator, with the simulator's own rewards: the baseline DPPO.

    With --reward, it then rolls out the kept checkpoints from the starts of learning curves (`curve/` in its folder).
    That shows after how many environment steps one succeeds as often as --until says.
    """

    command_name: ClassVar[str] = "dppo"
    section: ClassVar[str] = "dppo"

    policy: Path
    """Checkpoint folder of `diwa train-policy`; its skill is practised."""
    world_model: Path
    """Checkpoint folder of the world model that the policy was trained on; it filters the observations."""
    out: Path
    """Checkpoint folder; an interrupted training continues."""
    until: float | Path | None = None
    """Practice ends once rollouts succeed this often (sets `--enough`): a rate from 0 to 1, or a folder of
    `diwa evaluate` whose last policy has it."""
    reward: Path | None = None
    """Checkpoint folder of a classifier; its probability is recorded in the checkpoints' rollouts."""
    practise: bool = True
    """Practise. `--no-practise` only rolls out the checkpoints that exist, also those of an interrupted practice."""
    config: DPPOConfig = field(default_factory=DPPOConfig)
    """Sizes and schedule."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Environment, processes, and rollouts of checkpoints."""
    sim: SimConfig = field(default_factory=SimConfig)
    """The simulated table."""

    def run(self) -> None:
        """Practise, or continue; roll out checkpoints if there is a classifier, and print the answer."""
        if self.reward and self.until is None:
            raise DiwaError("with --reward, name the success rate to reach: --until 0.8, or a folder of diwa evaluate")
        rate = judged_rate(self.until) if isinstance(self.until, Path) else self.until
        config = self.config if rate is None else dataclasses.replace(self.config, enough=rate)
        if self.practise:
            where, workers = self.evaluate.chosen(self.sim), self.evaluate.workers
            dppo_in_simulator(self.policy, self.world_model, self.out, config, where, workers)
        if self.reward and rate is not None:
            judged = dataclasses.replace(self.evaluate, seeds="curve", videos=0)
            print(steps_to_match(self.out, self.world_model, self.reward, rate, judged, self.sim))


def dppo_in_simulator(
    policy: Path, world_model: Path, out: Path, config: DPPOConfig, sim: SimConfig | CalvinConfig, workers: int
) -> None:
    """Fine-tune `policy` in a simulated environment, in `workers` processes."""
    sim = seeing(sim, read_spec(world_model))

    def environments(skill: str, count: int) -> AbstractContextManager[VectorEnvironment]:
        return parallel_environments(count, workers, skill=skill, config=sim, limits=config.limits)

    dppo(policy, world_model, out, config, Practice(environments, DPPO_SEEDS, {"sim": dataclasses.asdict(sim)}))


class ParallelEnvironments:
    """`VectorEnvironment` of `count` simulated robots, spread over processes; results do not depend on their number.

    gymnasium's `AsyncVectorEnv` takes a process an environment: two thirds of the speed on two cores, 90 MB each, and
    over a second each to start.
    """

    def __init__(self, count: int, workers: int, settings: Mapping[str, Any]):
        self.num_envs, context = count, multiprocessing.get_context("spawn")
        self._shares = np.array_split(np.arange(count), min(workers, count))
        self._pipes: list[Connection] = []
        self.processes: list[BaseProcess] = []
        with children_without_interrupts():
            for share in self._shares:
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, len(share), settings), daemon=True)
                process.start()
                there.close()  # now the process alone holds it: when it dies, reading here ends
                self._pipes.append(here)
                self.processes.append(process)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each environment."""
        return tuple(value for share in self._ask("get", [(name,)] * len(self._pipes)) for value in share)

    def reset(
        self, *, seed: list[int | None], options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start those in `options["reset_mask"]` again, or all; the others' observations are their last ones."""
        mask = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        observed = self._ask("reset", [([seed[row] for row in share], mask[share]) for share in self._shares])
        return _joined(observed), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One tick of raw actions (N, A)."""
        found = self._ask("step", [(actions[share],) for share in self._shares])
        terminated = np.concatenate([each[1] for each in found])
        observed = _joined([each[0] for each in found])
        return observed, terminated.astype(np.float64), terminated, np.zeros(self.num_envs, bool), {}

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()

    def _ask(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Call a method of every process's share, all at a time. Raises `DiwaError` when a process is gone."""
        try:
            for pipe, mine in zip(self._pipes, arguments, strict=True):
                pipe.send((method, mine))
            answers = [pipe.recv() for pipe in self._pipes]
        except (EOFError, OSError) as error:
            ended = wait([process.sentinel for process in self.processes], 5.0)
            code = next((process.exitcode for process in self.processes if process.sentinel in ended), "unknown")
            raise DiwaError(
                f"a process with simulators ended (exit code {code}; -9: killed, out of memory?): "
                "the same command continues; try fewer --envs"
            ) from error
        for answer in answers:
            if isinstance(answer, DiwaError):
                raise answer
        return answers


@contextmanager
def parallel_environments(count: int, workers: int, **settings: Any) -> Iterator[ParallelEnvironments]:
    """`count` of `diwa/Table-v0`, made with `settings`, in at most `workers` processes.

    They end with the block or this process. Raises `DiwaError` when one of the processes is gone.
    """
    if count < 1 or workers < 1:
        raise DiwaError(f"envs is {count} and workers {workers}: choose at least 1 of each")
    environments = ParallelEnvironments(count, workers, settings)
    try:
        yield environments
    finally:
        environments.close()


class _Share:
    """The environments of one process."""

    def __init__(self, count: int, settings: Mapping[str, Any]):
        make = partial(gymnasium.make, "diwa_sim:diwa/Table-v0", disable_env_checker=True, **settings)
        self._environments = [make().unwrapped for _ in range(count)]
        self._observed: list[dict[str, np.ndarray]] = [{}] * count

    def get(self, name: str) -> list[Any]:
        return [getattr(environment, name) for environment in self._environments]

    def reset(self, seeds: Sequence[int | None], mask: np.ndarray) -> dict[str, np.ndarray]:
        for row in map(int, mask.nonzero()[0]):
            self._observed[row], _ = self._environments[row].reset(seed=seeds[row])
        return _stacked(self._observed)

    def step(self, actions: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        stepped = [environment.step(action) for environment, action in zip(self._environments, actions, strict=True)]
        self._observed = [observed for observed, *_ in stepped]
        return _stacked(self._observed), np.array([terminated for _, _, terminated, _, _ in stepped])


def _serve(connection: Connection, count: int, settings: Mapping[str, Any]) -> None:
    """A process's life: answer calls until the other end is gone; a `DiwaError` is the last answer."""
    end_with_parent()
    try:
        share = _Share(count, settings)
        while True:
            method, arguments = connection.recv()
            connection.send(getattr(share, method)(*arguments))
    except DiwaError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        return


def _stacked(observations: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([each[name] for each in observations]) for name in observations[0]}


def _joined(observations: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([each[name] for each in observations]) for name in observations[0]}


def steps_to_match(
    run: Path, world_model: Path, reward: Path, rate: float, config: EvaluateConfig, sim: SimConfig
) -> str:
    """Roll out the kept checkpoints of `run` and say after how many environment steps one first reached `rate`.

    Evaluates in `run/curve`, where finished rollouts are kept, and leaves `dppo.json` and `dppo.svg` there.
    """
    kept = checkpoints_by_steps(run)
    setting = dataclasses.replace(config, skill=load_checkpoint(next(iter(kept.values())), "finetune").skill)
    policies = {f"{steps:09d}": path for steps, path in kept.items()}
    judged = evaluate(policies, world_model, reward, run / "curve", setting, sim)
    rates = {steps: judged.rate(name) for steps, name in zip(kept, policies, strict=True)}
    found = first_to_reach(rates, rate)
    curve = [{"environment_steps": steps, **rate_summary(each)} for steps, each in rates.items()]
    write_json(run / "curve" / "dppo.json", {"rate": rate, "environment_steps": found, "curve": curve})
    points = {"DPPO": Curve(list(rates), [each.rate for each in rates.values()])}
    write_text(run / "curve" / "dppo.svg", lines(points, "environment steps", "success"))
    return text(rates, rate, found)


def judged_rate(judged: Path) -> float:
    """Success rate of the last policy in a folder of `diwa evaluate`. Raises `DiwaError` where there is none."""
    found = read_json(judged / "evaluation.json")
    if found is None:
        raise DiwaError(f"{judged} holds no evaluation: give the folder of `diwa evaluate --out`, or a success rate")
    return list(found["policies"].values())[-1]["rate"]


def checkpoints_by_steps(run: Path) -> dict[int, Path]:
    """Environment steps -> checkpoint of a DPPO run, in order. Raises `DiwaError` when none has been kept yet."""
    folders = [*sorted(run.glob("iterations/[0-9]*")), run]
    found = {(read_metrics(path) or {}).get("environment_steps", -1): path for path in folders if is_finished(path)}
    if not found or -1 in found:
        raise DiwaError(f"{run} holds no checkpoint of `diwa dppo`: give the folder of one that has kept some")
    return {int(steps): path for steps, path in sorted(found.items())}


def first_to_reach(rates: Mapping[int, SuccessRate], rate: float) -> int | None:
    """The fewest environment steps with a success rate of at least `rate`; None if there are none."""
    return next((steps for steps, each in rates.items() if each.rate >= rate), None)


def text(rates: Mapping[int, SuccessRate], rate: float, found: int | None) -> str:
    """A line per checkpoint and the answer."""
    rows = [f"{steps:>9,} environment steps: {each.successes} of {each.rollouts}" for steps, each in rates.items()]
    answer = f"not reached within {max(rates):,}" if found is None else f"reached after {found:,}"
    return "\n".join([*rows, f"{100 * rate:g} %: {answer} environment steps"])
