"""Phases: the steps from recording to evaluation, each the call behind a command. Demos and sweeps are made of them."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diwa_cli.doctor import machine, versions
from diwa_cli.evaluation.dppo import match_in_simulator
from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate
from diwa_cli.evaluation.run_skill import replay_dataset
from diwa_cli.run_folder import PhaseLog, RunFolder
from diwa_data.config import Source, command_line
from diwa_data.dataset.dataset import DatasetConfig, build_dataset
from diwa_data.errors import DiwaError
from diwa_data.files import require_ours, write_json
from diwa_data.recording.recorder import RecordConfig
from diwa_learning.core.run import differences
from diwa_learning.ensemble.disagreement import GuardConfig
from diwa_learning.ensemble.train import GuardJob
from diwa_learning.finetune.dppo import DPPOConfig
from diwa_learning.finetune.train import FinetuneConfig, FinetuneJob, finetune_runs
from diwa_learning.policy.train import PolicyConfig, PolicyJob, train_policies
from diwa_learning.reward.classifier import RewardConfig
from diwa_learning.reward.train import RewardJob
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.train import WorldModelJob
from diwa_sim.operator.record import record
from diwa_sim.table import SimConfig

ALL_CORES = 1024
"""Of a phase that uses as many cores as there are."""


@dataclass(frozen=True)
class Training:
    """A training that can be done alone, or stacked with others of its kind."""

    together: Callable[[Sequence[Any], Path], None]
    """`train_policies` or `finetune_runs`."""
    job: Any
    """What it takes a list of."""
    world_model: Path
    """All jobs of a call have one world model."""

    def __call__(self) -> None:
        """Do it alone."""
        self.together([self.job], self.world_model)


@dataclass(frozen=True)
class Phase:
    """One step of a run; can be sent to another process."""

    name: str
    """Unique in the run: `train_policy`, in a sweep `open_drawer/seed_0/train_policy`."""
    command: str
    """What a user would type for it."""
    output: Path
    """There once it is finished."""
    run: Callable[[], Any]
    """Does it, or continues it; a `Training` can be stacked."""
    after: tuple[str, ...] = ()
    """Names of the phases whose outputs it reads."""
    cores: int = 1
    """How many it uses well by itself, with processes or threads of its own."""
    learns: bool = False
    """Whether it trains a network: a GPU helps."""

    def perform(self, log: PhaseLog) -> None:
        """Run it, keeping time, command and error in `log`."""
        with log.running(self.name, self.command):
            self.run()

    def is_done(self, log: PhaseLog) -> bool:
        """Whether it was finished earlier and its output is still there."""
        return log.is_done(self.name) and self.output.exists()


@dataclass(frozen=True)
class PhaseMaker:
    """Makes phases whose commands show what differs from `source`."""

    source: Source
    sim: SimConfig

    def record(self, name: str, bags: Path, config: RecordConfig) -> Phase:
        """Teleoperation of the simulated robot into `bags`."""
        command = self._line("record", config, "record", out=bags)
        return Phase(name, command, bags, partial(record, bags, config, self.sim), cores=config.workers)

    def build(self, name: str, bags: Path, out: Path, config: DatasetConfig, after: Sequence[str] = ()) -> Phase:
        """Bags to the dataset `out`."""
        command = self._line("build-dataset", config, "dataset", _=bags, out=out)
        return Phase(name, command, out, partial(build_dataset, [bags], out, config), tuple(after), config.workers)

    def replay(self, name: str, demonstrations: Path, out: Path, after: Sequence[str] = ()) -> Phase:
        """The dataset's actions, open loop."""
        command = shlex.join(["diwa", "replay", str(demonstrations), "--out", str(out)])
        return Phase(name, command, out, partial(replay_dataset, demonstrations, out=out), tuple(after))

    def world_model(
        self, name: str, datasets: Sequence[Path], out: Path, config: WorldModelConfig, after: Sequence[str] = ()
    ) -> Phase:
        """The world model on `datasets`."""
        command = self._line("train-world-model", config, "world_model", datasets=list(datasets), out=out)
        run = WorldModelJob(tuple(datasets), out, config).run
        return Phase(name, command, out, run, tuple(after), ALL_CORES, learns=True)

    def guard(
        self,
        name: str,
        datasets: Sequence[Path],
        world_model: Path,
        out: Path,
        config: GuardConfig,
        after: Sequence[str] = (),
    ) -> Phase:
        """The guard of the world model's dreams."""
        command = self._line("train-guard", config, "guard", datasets=list(datasets), world_model=world_model, out=out)
        run = GuardJob(tuple(datasets), world_model, out, config).run
        return Phase(name, command, out, run, tuple(after), learns=True)

    def policy(
        self,
        name: str,
        demonstrations: Path,
        world_model: Path,
        out: Path,
        config: PolicyConfig,
        after: Sequence[str] = (),
    ) -> Phase:
        """The base policy."""
        paths = {"demonstrations": demonstrations, "world_model": world_model, "out": out}
        command = self._line("train-policy", config, "policy", **paths)
        run = Training(train_policies, PolicyJob(demonstrations, world_model, out, config), world_model)
        return Phase(name, command, out, run, tuple(after), learns=True)

    def reward(
        self,
        name: str,
        demonstrations: Path,
        play: Path,
        world_model: Path,
        out: Path,
        config: RewardConfig,
        after: Sequence[str] = (),
    ) -> Phase:
        """The success classifier."""
        paths = {"demonstrations": demonstrations, "world_model": world_model, "play": play, "out": out}
        command = self._line("train-reward", config, "reward", **paths)
        job = RewardJob(demonstrations, world_model, out, play, config)
        return Phase(name, command, out, job.run, tuple(after), learns=True)

    def finetune(
        self,
        name: str,
        policy: Path,
        reward: Path,
        world_model: Path,
        demonstrations: Path,
        play: Path,
        guard: Path | None,
        out: Path,
        config: FinetuneConfig,
        after: Sequence[str] = (),
    ) -> Phase:
        """Fine-tuning in dreams."""
        paths = {"policy": policy, "reward": reward, "demonstrations": demonstrations, "world_model": world_model}
        paths |= {"play": play, **({"guard": guard} if guard else {}), "out": out}
        command = self._line("finetune", config, "finetune", **paths)
        job = FinetuneJob(policy, reward, world_model, demonstrations, out, play, guard, config)
        run = Training(finetune_runs, job, world_model)
        return Phase(name, command, out, run, tuple(after), learns=True)

    def dppo(
        self,
        name: str,
        policy: Path,
        world_model: Path,
        reward: Path,
        judged: Path,
        out: Path,
        config: DPPOConfig,
        evaluation: EvaluateConfig,
        after: Sequence[str] = (),
    ) -> Phase:
        """The baseline in the simulator, until it is as good as the policy judged in `judged`."""
        practise = self._line("dppo", config, "dppo", policy=policy, world_model=world_model, out=out, until=judged)
        paths = {"run": out, "world_model": world_model, "reward": reward, "rate": judged}
        count = dataclasses.replace(evaluation, skill=EvaluateConfig().skill, seeds=EvaluateConfig().seeds, videos=0)
        command = f"{practise} && {self._line('dppo-steps', count, 'evaluate', **paths)}"
        run = partial(match_in_simulator, policy, world_model, reward, judged, out, config, evaluation, self.sim)
        return Phase(name, command, out / "curve" / "dppo.json", run, tuple(after), ALL_CORES, learns=True)

    def evaluate(
        self,
        name: str,
        policies: Mapping[str, Path],
        world_model: Path,
        reward: Path,
        out: Path,
        config: EvaluateConfig,
        after: Sequence[str] = (),
    ) -> Phase:
        """Rollouts of `policies` from the same starts."""
        pairs = [word for pair in policies.items() for word in pair]
        paths = {"policies": pairs, "world_model": world_model, "reward": reward, "out": out}
        command = self._line("evaluate", config, "evaluate", **paths)
        run = partial(evaluate, policies, world_model, reward, out, config, self.sim)
        return Phase(name, command, out / "evaluation.json", run, tuple(after), config.workers)

    def _line(self, command: str, config: Any, section: str, **paths: Any) -> str:
        return command_line(command, self.source, config, section, **paths)


def claim(folder: RunFolder, kind: str, command: str, config: dict[str, Any], free: Collection[str] = ()) -> None:
    """Write what this run is into `run.json`, or check that the one there is the same run.

    Values whose dotted names are in `free` may change. Raises `DiwaError` when the folder holds something else, or a
    `kind` (demo, sweep) of another configuration.
    """
    config = json.loads(json.dumps(config, default=str))
    earlier = folder.config
    require_ours(folder.path, kind, folder.description.name)
    if earlier:
        if kind not in earlier:
            raise DiwaError(f"{folder.path} holds {', '.join(earlier)} and no {kind}: choose another --out")
        changes = [
            f"{name} was {old!r}, is {new!r}" for name, old, new in differences("", earlier, config) if name not in free
        ]
        if changes:
            raise DiwaError(
                f"{folder.path} was begun differently: {'; '.join(changes)}. Restore that or choose another --out"
            )
    if earlier != config:
        description = {"command": command, "versions": versions(), "machine": machine(), "config": config}
        write_json(folder.description, description)
