"""`diwa sweep`: skills x seeds x alpha_BC from nothing to one report; a demo is a sweep of one run.

Play is recorded and the world model trained once, demonstrations once for each skill; every skill and seed has its own
policy and classifier, every alpha_BC its own fine-tuning. All are judged from the same start states.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from diwa_cli.doctor import machine, versions
from diwa_cli.pipeline.bundles import write_sweep_bundles
from diwa_cli.pipeline.execute import Outcome, run_here
from diwa_cli.pipeline.jobs import claim
from diwa_cli.pipeline.plan import FREE, Stage, Sweep, SweepConfig, plan
from diwa_cli.pipeline.ray import run_on_ray
from diwa_cli.pipeline.results import UNITS, JudgedRun, judged_runs, run_row, skill_rows, table, write_rollouts
from diwa_cli.pipeline.reuse import reuse
from diwa_cli.report.sweep import write_sweep_report
from diwa_cli.run_folder import RunFolder, SweepFolder
from diwa_data.config import Source, command_line
from diwa_data.errors import DiwaError
from diwa_data.files import FolderLock, require_output, write_json
from diwa_deploy.bundle import is_plain_bundle
from diwa_learning.core.checkpoint import is_finished
from diwa_learning.core.device import compute_device


def sweep(out: Path, config: SweepConfig, source: Source) -> bool:
    """Run every phase that is not finished; leaves results, rollouts, report and skill bundles in `out`.

    Whether all phases are done. A failed one stops what depends on it alone, and is named at the end. Raises
    `DiwaError` when `out` holds something else, or a sweep of other settings; more skills, seeds and alphas may be
    added.
    """
    folder, what = SweepFolder(out), Sweep(config, source)
    if config.workers < 1:
        raise DiwaError(f"workers is {config.workers}: choose 1 or more")
    if config.world_model_of and not is_finished(RunFolder(Path(config.world_model_of)).world_model):
        raise DiwaError(
            f"{config.world_model_of} has no trained world model: give the folder of a finished demo or sweep"
        )
    if config.reuse and not RunFolder(Path(config.reuse)).is_sweep:
        raise DiwaError(f"{config.reuse} holds no sweep: --reuse takes the folder of one")
    command = command_line("sweep", source, config, "sweep", out=out)
    with FolderLock(out):
        for skill in what.skills:
            require_output(folder.shared.bundle(skill), replaces=is_plain_bundle)
        claim(folder.shared, "sweep", command, identity(what), {f"sweep.{name}" for name in FREE})
        return _sweep(folder, what, command)


def _sweep(folder: SweepFolder, what: Sweep, command: str) -> bool:
    config, runs = what.config, what.runs()
    stages = plan(folder, what)
    reuse(stages, folder, what)
    if config.ray:
        outcome = run_on_ray(stages, folder, config.ray)
    else:
        on_gpu = compute_device().type == "cuda"
        outcome = run_here(stages, folder, config.workers, on_gpu if config.stacked is None else config.stacked)
    judged = judged_runs(folder, runs, outcome.done)
    found = results(folder, judged, stages, outcome, command, what.source.preset)
    write_json(folder.shared.results, found)
    write_rollouts(folder, judged)
    write_sweep_bundles(folder, judged, command)
    write_sweep_report(folder.shared.path)
    print(f"\n{table(found['skills'])}\n\nreport: {folder.shared.report}\nresults: {folder.shared.results}")
    print(failures(folder, outcome), end="")
    return not outcome.failed


def identity(what: Sweep) -> dict[str, Any]:
    """What decides a sweep's results: its configuration, and that of the phases of its first run."""
    settings = dataclasses.asdict(what.settings(what.skills[0], what.config.seed))
    shared = {name: values for name, values in settings.items() if name not in ("demo", "curve")}
    for name, values in shared.items():
        shared[name] = {key: value for key, value in values.items() if key != "skill"}
    return {"sweep": dataclasses.asdict(what.config), **shared}


def results(
    folder: SweepFolder, judged: list[JudgedRun], stages: list[Stage], outcome: Outcome, command: str, preset: str
) -> dict[str, Any]:
    """What `results.json` holds."""
    logs = {phase.name: folder.log(phase.name) for stage in stages for phase in stage.phases}
    return {
        "command": command,
        "units": UNITS,
        "skills": skill_rows(judged, preset),
        "runs": [run_row(one) for one in judged],
        "failed": outcome.failed,
        "left_out": outcome.left_out,
        "stages": {
            stage.name: {
                "seconds": round(sum(logs[p.name].seconds.get(p.name, 0.0) for p in stage.phases), 1),
                "commands": {phase.name: phase.command for phase in stage.phases},
            }
            for stage in stages
        },
        "versions": versions(),
        "machine": machine(),
    }


def failures(folder: SweepFolder, outcome: Outcome) -> str:
    """What failed, why, where to read more, and what could not be done for it; empty if nothing failed."""
    lines = []
    for name, error in outcome.failed.items():
        others = sum(cause == name for cause in outcome.left_out.values())
        lines.append(f"failed: {name}: {error}" + (f" ({others} phases that need it were left out)" if others else ""))
        if folder.output(name).is_file():
            lines.append(f"  what it printed: {folder.output(name)}")
    if lines:
        lines.append("the same command tries them again")
    return "".join(line + "\n" for line in lines)
