"""`diwa dppo`: the baseline in the simulator, and how many environment steps it needs to match DiWA.

Its environments run in processes of their own, which end with this one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate, rate_summary
from diwa_cli.figures import Curve, lines
from diwa_cli.run_folder import read_json, read_metrics, write_text
from diwa_cli.statistics import DPPO_SEEDS, SuccessRate
from diwa_data.config import Job
from diwa_data.errors import DiwaError
from diwa_data.files import write_json
from diwa_data.processes import children_without_interrupts, end_with_parent
from diwa_data.robot import VectorEnvironment
from diwa_learning.core.checkpoint import is_finished, load_checkpoint
from diwa_learning.finetune.dppo import DPPOConfig, Practice, dppo
from diwa_sim.calvin import CalvinConfig
from diwa_sim.table import SimConfig


@dataclass(frozen=True)
class DPPOJob(Job):
    """Fine-tune a policy by PPO in the simulator, with the simulator's own rewards: the baseline DPPO.

    With --reward, its kept checkpoints are rolled out on the starts of learning curves afterwards (`curve/` in its
    folder): after how many environment steps does one succeed as often as --until says?
    """

    command_name: ClassVar[str] = "dppo"
    section: ClassVar[str] = "dppo"

    policy: Path
    """Checkpoint folder of `diwa train-policy`; its skill is what is practised."""
    world_model: Path
    """Checkpoint folder of the world model it was trained on, which filters what it sees."""
    out: Path
    """Checkpoint folder; an interrupted training in it continues."""
    until: float | Path | None = None
    """Success rate (a fraction), or folder of `diwa evaluate` whose last policy has it: practice ends once rollouts
    succeed as often (sets `--enough`)."""
    reward: Path | None = None
    """Checkpoint folder of a classifier, whose view is recorded in the rollouts of checkpoints."""
    practise: bool = True
    """Without it, the checkpoints that are there are rolled out, of an interrupted practice too."""
    config: DPPOConfig = field(default_factory=DPPOConfig)
    """Sizes and schedule."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """Environment, processes, and rollouts of checkpoints."""
    sim: SimConfig = field(default_factory=SimConfig)
    """Our simulated table."""

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

    def environments(skill: str, count: int) -> AbstractContextManager[VectorEnvironment]:
        return parallel_environments(count, workers, skill=skill, config=sim, limits=config.limits)

    dppo(policy, world_model, out, config, Practice(environments, DPPO_SEEDS, {"sim": dataclasses.asdict(sim)}))


@contextmanager
def parallel_environments(count: int, workers: int, **settings: Any) -> Iterator[AsyncVectorEnv]:
    """`count` of `diwa/Table-v0`, made with `settings`, in a process each, of which `workers` run at a time.

    They end with the block or this process. Raises `DiwaError` when one of the processes is gone.
    """
    if count < 1 or workers < 1:
        raise DiwaError(f"envs is {count} and workers {workers}: choose at least 1 of each")
    gymnasium.logger.min_level = gymnasium.logger.ERROR + 1  # it warns of every `DiwaError` with a traceback
    make = [partial(_make, **settings)] * count
    environments: AsyncVectorEnv | None = None
    try:
        with children_without_interrupts():
            environments = AsyncVectorEnv(
                make, context="spawn", autoreset_mode=AutoresetMode.DISABLED, max_concurrency=workers
            )
        yield environments
    except (EOFError, ConnectionError) as error:
        processes = environments.processes if environments is not None else []
        ended = wait([process.sentinel for process in processes], 5.0)
        code = next((process.exitcode for process in processes if process.sentinel in ended), "unknown")
        raise DiwaError(
            f"a process with a simulator ended (exit code {code}; -9: killed, out of memory?): "
            "the same command continues; try fewer --envs"
        ) from error
    finally:
        if environments is not None:
            environments.closed = True  # `close` would wait for answers
            for process in environments.processes:
                process.terminate()
            for process in environments.processes:
                process.join()


def _make(**settings: Any) -> gymnasium.Env:
    """One environment, in its process and once in this one, which asks it for its spaces."""
    end_with_parent()
    return gymnasium.make("diwa_sim:diwa/Table-v0", disable_env_checker=True, **settings)


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
