"""`diwa sweep`: skills x seeds x alpha_BC from nothing to one report, and `diwa demo`, a sweep of one run.

Play is recorded and the world model trained once, demonstrations once for each skill; every skill and seed has its own
policy and classifier, every alpha_BC its own fine-tuning. All are judged from the same start states.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from diwa_cli.doctor import machine, versions
from diwa_cli.pipeline.bundles import write_sweep_bundles
from diwa_cli.pipeline.execute import Outcome, Phase, run_inline
from diwa_cli.pipeline.plan import FREE, DemoConfig, Sweep, SweepConfig, plan, usual
from diwa_cli.pipeline.results import JudgedRun, headline, judged_runs, results, table, write_rollouts
from diwa_cli.report.report import write_report
from diwa_cli.run_folder import SweepFolder
from diwa_data.config import Job, Source, merged
from diwa_data.errors import DiwaError, how_to_install
from diwa_data.files import FolderLock, as_json, require_ours, require_output, require_same_settings, write_json
from diwa_deploy.bundle import is_plain_bundle
from diwa_learning.core.checkpoint import is_finished

_PLAY, _DEMONSTRATIONS = ("play", "dataset", "sim"), ("demonstrations", "dataset", "sim")
_WORLD_MODEL = (*_PLAY, *_DEMONSTRATIONS, "world_model")
_LEARNED = (*_WORLD_MODEL, "policy", "reward")
DEPENDS_ON = {
    "record_play": _PLAY,
    "build_play": _PLAY,
    "train_world_model": _WORLD_MODEL,
    "train_ensemble": (*_WORLD_MODEL, "ensemble"),
    "record": _DEMONSTRATIONS,
    "build": _DEMONSTRATIONS,
    "replay": _DEMONSTRATIONS,
    "train_policy": (*_WORLD_MODEL, "policy"),
    "train_reward": (*_WORLD_MODEL, "reward"),
    "finetune": (*_LEARNED, "ensemble", "finetune"),
    "evaluate": (*_LEARNED, "ensemble", "finetune", "final"),
    "dream": (*_LEARNED, "ensemble", "finetune", "final"),
}
"""Last part of a phase's name -> the sections of the configuration that decide its output."""
TOY = "debug"
"""Preset of toy sizes."""
TOY_BEGINS = """\
preset debug: toy networks on toy data, which cannot learn a skill. Expect as few successes after dreaming as before.
What you see instead, in minutes: every phase from recording to report, its command, and the files it leaves."""
TOY_ENDS = """
preset debug: these figures say nothing about the method, toy sizes cannot succeed. The report shows what each phase
leaves and which command made it. To learn the skill, give the same command without `--preset debug` and with another
--out."""


@dataclass(frozen=True)
class SweepJob(Job):
    """Train skills x seeds x alpha_BC on one world model, and judge all from the same starts: one table, one report.

    Finished phases are skipped, and interrupted ones continue. A phase that fails stops only what needs it; it is named
    at the end, and the exit status is 1.
    """

    command_name: ClassVar[str] = "sweep"
    section: ClassVar[str] = "sweep"

    out: Path = Path("runs/sweep")
    """Folder of the sweep. More skills, seeds and values of alpha_BC can be added to it later."""
    config: SweepConfig = field(default_factory=SweepConfig)
    """Runs and amounts."""
    source: Source = field(default_factory=Source)
    """Settings of the phases."""

    def run(self) -> bool:
        """Whether all phases are done. Raises `DiwaError` when `out` holds something else, or other settings."""
        config = self.config
        if config.jobs < 1:
            raise DiwaError(f"jobs is {config.jobs}: choose 1 or more")
        if config.reuse and not SweepFolder(Path(config.reuse)).is_sweep:
            raise DiwaError(f"{config.reuse} holds no sweep: give --reuse the folder of one")
        return _run(SweepFolder(self.out), Sweep(config, self.source), self.command(self.source), FREE, table)


@dataclass(frozen=True)
class DemoJob(Job):
    """Record, build datasets, train, fine-tune in dreams, evaluate and report, all in one folder."""

    command_name: ClassVar[str] = "demo"
    section: ClassVar[str] = "demo"

    out: Path = Path("runs/demo")
    """Folder of the run. Finished phases are skipped, and an interrupted one continues."""
    config: DemoConfig = field(default_factory=DemoConfig)
    """Skill and amounts."""
    source: Source = field(default_factory=Source)
    """Settings of the phases."""

    def run(self) -> bool:
        """Run the sweep of one run that a demo is; its folder holds one demo, with the same settings for ever."""
        what = Sweep(self.config.as_sweep(self.source), self.source)
        return _run(SweepFolder(self.out), what, self.command(self.source), (), headline)


def _run(
    folder: SweepFolder,
    what: Sweep,
    command: str,
    free: Collection[str],
    text: Callable[[Sequence[JudgedRun]], str],
) -> bool:
    """Run every phase that is not finished; leaves results, rollouts, report and skill bundles in the folder."""
    other = what.config.world_model_of
    if other and not is_finished(SweepFolder(Path(other)).world_model):
        raise DiwaError(f"{other} has no trained world model: give the folder of a finished demo or sweep")
    with FolderLock(folder.path):
        for skill in what.skills:
            require_output(folder.bundle(skill), replaces=is_plain_bundle)
        claim(folder, command, what.identity(), free)
        phases = plan(folder, what)
        if what.source.preset == TOY:
            print(TOY_BEGINS, flush=True)
        reuse(phases, folder, what)
        outcome = execute(phases, folder, what)
        judged = judged_runs(folder, what.runs(), outcome.done)
        write_json(folder.results, results(judged, phases, outcome, command, what.source))
        write_rollouts(folder, judged)
        write_sweep_bundles(folder, judged, command)
        write_report(folder.path)
    print(f"\n{text(judged)}\n\nreport: {folder.report}\nresults: {folder.results}")
    print("".join(f"skill bundle: {folder.bundle(skill)}\n" for skill in {one.run.skill: 0 for one in judged}), end="")
    print(failures(folder, outcome), end="")
    if what.source.preset == TOY:
        print(TOY_ENDS)
    return not outcome.failed


def claim(folder: SweepFolder, command: str, config: dict[str, Any], free: Collection[str] = ()) -> None:
    """Write what this sweep is into `run.json`, or check that the one there is the same.

    Settings of the sweep itself whose names are in `free` may change. Raises `DiwaError` when the folder holds
    something else, or a sweep of another configuration.
    """
    require_ours(folder.path, "sweep", folder.description.name)
    earlier = folder.config
    if earlier and not folder.is_sweep:
        raise DiwaError(f"{folder.path} holds {', '.join(earlier)}, but no sweep: choose another --out")
    if earlier:
        allowed = {"finetune.gate", *(f"sweep.{name}" for name in free)}  # the gate decides whether, not what
        require_same_settings(folder.path, earlier, config, allowed, "choose another --out", usual())
    if earlier != as_json(config):
        description = {"command": command, "versions": versions(), "machine": machine(), "config": config}
        write_json(folder.description, description)


def execute(phases: Sequence[Phase], folder: SweepFolder, what: Sweep) -> Outcome:
    """Run the phases on Ray where several are to run at a time, and in this process otherwise."""
    config = what.config
    if config.jobs > 1 or config.ray:
        if importlib.util.find_spec("ray") or config.ray:
            from diwa_cli.pipeline.ray import run_on_ray

            return run_on_ray(phases, folder, what.source, config.ray, config.jobs)
        print(f"phases run one after the other: --jobs {config.jobs} needs Ray: {how_to_install('scale')}", flush=True)
    return run_inline(phases, folder, what.source)


def failures(folder: SweepFolder, outcome: Outcome) -> str:
    """Lines about each phase that failed: its error, where to read more, how many it stopped; empty if none did."""
    lines = []
    for name, error in outcome.failed.items():
        others = sum(cause == name for cause in outcome.left_out.values())
        lines.append(f"failed: {name}: {error}" + (f" ({others} phases that need it were left out)" if others else ""))
        if folder.output(name).is_file():
            lines.append(f"  what it printed: {folder.output(name)}")
    if lines:
        lines.append("the same command tries them again")
    return "".join(line + "\n" for line in lines)


def reuse(phases: Sequence[Phase], folder: SweepFolder, sweep: Sweep) -> None:
    """Link what the sweep in `reuse` or `world_model_of` has finished, and take those phases as done. Says how many.

    So variants of the method share all that they do not vary: recordings, world model, policies, classifiers, results.
    The baseline's practice is not taken: what it must match may be another result.
    """
    named = sweep.config.reuse or sweep.config.world_model_of
    other = SweepFolder(Path(named))
    if not named or "sweep" not in other.config:  # a demo of an earlier version
        return
    same = alike(folder, other) | ({"play", "world_model"} if named == sweep.config.world_model_of else set())
    taken = []
    for phase in phases:
        mine, log = phase.job.out, folder.log(phase.name)
        theirs = other.path / mine.relative_to(folder.path)
        there = theirs.exists() and other.log(phase.name).is_done
        if there and is_alike(phase.name, same) and not (log.is_done or mine.exists() or mine.is_symlink()):
            mine.parent.mkdir(parents=True, exist_ok=True)
            mine.symlink_to(os.path.relpath(theirs, mine.parent.resolve()))
            log.take(phase.job.command(sweep.source))
            taken.append(phase.name)
    if taken:
        print(f"from {other.path}, with the same settings: {len(taken)} finished phases", flush=True)


def is_alike(phase: str, same: Collection[str]) -> bool:
    """Whether all that decides a phase's output is in the sections that are the `same`."""
    *_, owner, kind = ["", *phase.split("/")]
    of_base = kind == "evaluate" and owner.startswith("seed_")
    sections = (*_LEARNED, "final") if of_base else DEPENDS_ON.get(kind)
    return sections is not None and set(sections) <= set(same)


def alike(one: SweepFolder, other: SweepFolder) -> set[str]:
    """Sections of the configuration in which two sweeps agree, but for how many processes work on it."""
    defaults = as_json(usual())

    def sections(folder: SweepFolder) -> dict[str, Any]:
        return {name: {**merged(defaults.get(name, {}), s), "workers": 0} for name, s in folder.config.items()}

    mine, theirs = sections(one), sections(other)
    return {name for name in mine if mine[name] == theirs.get(name)} - {"sweep"}
