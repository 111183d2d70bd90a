"""`diwa demo`: every phase from recording to the report, at a small scale, in one folder.

Each phase calls the function behind its command and prints that command. Finished phases are skipped, interrupted
ones continue, and the seconds of each add up over interruptions.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diwa_cli.doctor import versions
from diwa_cli.evaluation.evaluate import EvaluateConfig
from diwa_cli.pipeline.bundles import UNITS, start_region
from diwa_cli.pipeline.jobs import Phase, PhaseMaker, claim
from diwa_cli.report.run import write_report
from diwa_cli.run_folder import BASE, FINETUNED, PhaseLog, RunFolder, read_json
from diwa_data.config import Source, command_line
from diwa_data.dataset.dataset import DatasetConfig
from diwa_data.errors import DiwaError
from diwa_data.files import FolderLock, require_output, write_json
from diwa_data.recording.recorder import RecordConfig
from diwa_data.skills import require_skill
from diwa_deploy.bundle import is_plain_bundle, write_bundle
from diwa_learning.core.checkpoint import is_finished
from diwa_learning.ensemble.disagreement import GuardConfig
from diwa_learning.finetune.dppo import DPPOConfig
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.policy.train import PolicyConfig
from diwa_learning.reward.classifier import RewardConfig
from diwa_learning.world_model.config import WorldModelConfig
from diwa_sim.table import SimConfig


@dataclass(frozen=True)
class DemoConfig:
    """`diwa demo`: how much of everything; sizes of networks and trainings are in the preset's other sections."""

    skill: str = "open_drawer"
    """Skill to learn."""
    play_minutes: float = 40.0
    """Minutes of play to record."""
    demonstrations: int = 50
    """Demonstrations to record."""
    rollouts: int = 200
    """Start states of the final, paired evaluation."""
    curve_rollouts: int = 20
    """Start states on which each checkpoint of the learning curve is evaluated."""
    curve_checkpoints: int = 5
    """Checkpoints on the learning curve, the policy before fine-tuning included."""
    seed: int = 0
    """Of every phase."""
    world_model_of: str = ""
    """Folder of another demo whose play and world model to use, for one more skill; empty = record and train them."""


@dataclass(frozen=True)
class Settings:
    """The configuration of every phase of one demo."""

    demo: DemoConfig
    play: RecordConfig
    demonstrations: RecordConfig
    dataset: DatasetConfig
    world_model: WorldModelConfig
    guard: GuardConfig
    policy: PolicyConfig
    reward: RewardConfig
    finetune: FinetuneConfig
    dppo: DPPOConfig
    curve: EvaluateConfig
    final: EvaluateConfig
    sim: SimConfig

    @classmethod
    def load(cls, demo: DemoConfig, source: Source) -> Settings:
        """Take each phase's section from `source`, with the demo's amounts, skill and seed."""
        require_skill(demo.skill)
        record_config = dataclasses.replace(source.section(RecordConfig, "record"), seed=demo.seed)
        evaluation = dataclasses.replace(
            source.section(EvaluateConfig, "evaluate"), skill=demo.skill, environment="table"
        )
        return cls(
            demo=demo,
            play=dataclasses.replace(record_config, skill="", minutes=demo.play_minutes),
            demonstrations=dataclasses.replace(record_config, skill=demo.skill, episodes=demo.demonstrations),
            dataset=source.section(DatasetConfig, "dataset"),
            world_model=dataclasses.replace(source.section(WorldModelConfig, "world_model"), seed=demo.seed),
            guard=dataclasses.replace(source.section(GuardConfig, "guard"), seed=demo.seed),
            policy=dataclasses.replace(source.section(PolicyConfig, "policy"), seed=demo.seed),
            reward=dataclasses.replace(source.section(RewardConfig, "reward"), seed=demo.seed),
            finetune=dataclasses.replace(source.section(FinetuneConfig, "finetune"), seed=demo.seed),
            dppo=dataclasses.replace(source.section(DPPOConfig, "dppo"), seed=demo.seed),
            curve=dataclasses.replace(evaluation, seeds="curve", rollouts=demo.curve_rollouts, videos=0),
            final=dataclasses.replace(evaluation, seeds="final", rollouts=demo.rollouts),
            sim=source.section(SimConfig, "sim"),
        )


def demo(out: Path, config: DemoConfig, source: Source) -> None:
    """Run every phase that is not finished; leaves `report.html`, `results.json` and `skills/<skill>` in `out`.

    Raises `DiwaError` when `out` holds a demo of another configuration.
    """
    settings = Settings.load(config, source)
    if config.world_model_of and not is_finished(RunFolder(Path(config.world_model_of)).world_model):
        raise DiwaError(f"{config.world_model_of} has no trained world model: give the folder of a finished demo")
    command = command_line("demo", source, config, "demo", out=out)
    with FolderLock(out):
        require_output(RunFolder(out).bundle(config.skill), replaces=is_plain_bundle)
        claim(RunFolder(out), "demo", command, dataclasses.asdict(settings))
        _demo(RunFolder(out), config, settings, PhaseMaker(source, settings.sim), command)


def _demo(folder: RunFolder, config: DemoConfig, settings: Settings, make: PhaseMaker, command: str) -> None:
    log = PhaseLog(folder.phases)
    for phase in phases(folder, settings, make):
        if phase.is_done(log):
            print(f"[{phase.name}] finished earlier, {log.seconds[phase.name]:.0f} s")
            continue
        print(f"\n[{phase.name}] {phase.command}", flush=True)
        phase.perform(log)
    found = results(folder, config.skill)
    write_json(folder.results, found)
    parts = {
        "world_model": folder.world_model,
        "policy": folder.finetuned,
        "reward": folder.reward,
        BASE: folder.policy,
    }
    start = start_region(folder.demonstrations, config.skill).to_card()
    write_bundle(
        folder.bundle(config.skill), parts, {**found, "command": command, "versions": versions(), "start": start}
    )
    print(f"\n{headline(folder)}")
    print(f"report: {folder.report}\nresults: {folder.results}\nskill bundle: {folder.bundle(config.skill)}")


def phases(folder: RunFolder, settings: Settings, make: PhaseMaker) -> Iterator[Phase]:
    """The phases in order; each is made when its predecessors are finished."""
    yield from data_phases(folder, settings, make)
    yield from learning_phases(folder, settings, make)
    yield from evaluation_phases(folder, settings, make)


def data_phases(folder: RunFolder, s: Settings, make: PhaseMaker) -> Iterator[Phase]:
    """Recording, dataset building, replay."""
    recordings = [("demonstrations", folder.demonstration_bags, folder.demonstrations, s.demonstrations)]
    if folder.learned is folder:
        recordings.insert(0, ("play", folder.play_bags, folder.play, s.play))
    for name, bags, _, config in recordings:
        yield make.record(f"record_{name}", bags, config)
    for name, bags, out, _ in recordings:
        yield make.build(f"build_{name}", bags, out, s.dataset)
    yield make.replay("replay", folder.demonstrations, folder.replay)


def learning_phases(f: RunFolder, s: Settings, make: PhaseMaker) -> Iterator[Phase]:
    """World model, policy, reward, fine-tuning."""
    if f.learned is f:
        # Play alone, as in the paper, for all skills at once. Demonstrations succeed whatever the hand seems to do, and
        # a model that has seen them dreams of success.
        yield make.world_model("train_world_model", [f.play], f.world_model, s.world_model)
    yield make.policy("train_policy", f.demonstrations, f.world_model, f.policy, s.policy)
    yield make.reward("train_reward", f.demonstrations, f.play, f.world_model, f.reward, s.reward)
    guard = f.guard if s.finetune.needs_guard else None
    if guard:
        yield make.guard("train_guard", [f.play], f.world_model, guard, s.guard)
    yield make.finetune(
        "finetune", f.policy, f.reward, f.world_model, f.demonstrations, f.play, guard, f.finetuned, s.finetune
    )


def evaluation_phases(f: RunFolder, s: Settings, make: PhaseMaker) -> Iterator[Phase]:
    """Learning curve, final evaluation and report."""
    curve = curve_policies(f, s.demo.curve_checkpoints)
    yield make.evaluate("evaluate_curve", curve, f.world_model, f.reward, f.curve, s.curve)
    final = {BASE: f.policy, FINETUNED: f.finetuned}
    yield make.evaluate("evaluate_final", final, f.world_model, f.reward, f.final, s.final)
    yield Phase("report", shlex.join(["diwa", "report", str(f.path)]), f.report, partial(write_report, f.path))


def curve_policies(folder: RunFolder, count: int) -> dict[str, Path]:
    """About `count` checkpoints by iteration: before fine-tuning, after its last iteration, and evenly between."""
    kept = sorted(folder.finetuned.glob("iterations/[0-9]*"))
    found, count = [folder.policy, *kept], max(2, count)
    names = ["000000", *(path.name for path in kept)]
    chosen = {round(index * (len(found) - 1) / (count - 1)) for index in range(count)}
    return {names[index]: found[index] for index in sorted(chosen)}


def results(folder: RunFolder, skill: str) -> dict[str, Any]:
    """What `results.json` holds: rates and intervals as fractions 0..1, the paired difference in points."""
    evaluation = read_json(folder.final / "evaluation.json")
    return {
        "skill": skill,
        BASE: evaluation["policies"][BASE],
        FINETUNED: evaluation["policies"][FINETUNED],
        "difference": evaluation["differences"][f"{FINETUNED} - {BASE}"],
        "units": UNITS,
        "phases": PhaseLog(folder.phases).seconds,
    }


def headline(folder: RunFolder) -> str:
    """The result in a line."""
    found = read_json(folder.results)
    base, tuned, difference = found[BASE], found[FINETUNED], found["difference"]
    low, high = difference["interval"]
    return (
        f"{found['skill']}: {base['successes']} of {base['rollouts']} after imitation, {tuned['successes']} of "
        f"{tuned['rollouts']} after dreaming; "
        f"difference {difference['points']:+.0f} points (95 %: {low:+.0f} to {high:+.0f})"
    )
