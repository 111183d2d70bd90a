"""The skills of a sweep, as bundles that can be run."""

from __future__ import annotations

from collections.abc import Sequence

from diwa_cli.bundles import UNITS, start_region
from diwa_cli.evaluate import difference_summary, rate_summary
from diwa_cli.run_folder import BASE, FINETUNED
from diwa_cli.sweep_folder import SweepFolder
from diwa_cli.sweep_results import JudgedRun
from diwa_cli.versions import versions
from diwa_deploy.bundle import write_bundle


def write_sweep_bundles(folder: SweepFolder, judged: Sequence[JudgedRun], command: str) -> None:
    """A bundle for each skill of a sweep in `skills/`: of its first finished run, whichever came out best."""
    for one in {one.run.skill: one for one in reversed(judged)}.values():
        run, trained = one.run, folder.of(one.run.trained)
        parts = {
            "world_model": folder.shared.world_model,
            "policy": folder.of(run.name).finetuned,
            "reward": trained.reward,
            BASE: trained.policy,
        }
        card = {
            "skill": run.skill,
            "seed": run.seed,
            "alpha_bc": run.alpha,
            **{name: rate_summary(one.rollouts.rate(name)) for name in (BASE, FINETUNED)},
            "difference": difference_summary(one.rollouts, BASE, FINETUNED),
            "units": UNITS,
            "command": command,
            "versions": versions(),
            "start": start_region(folder.of(run.skill).demonstrations, run.skill).to_card(),
        }
        write_bundle(folder.shared.bundle(run.skill), parts, card)
