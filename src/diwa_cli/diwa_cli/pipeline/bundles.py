"""Skill bundles from checkpoints and the demonstrations behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diwa_cli.doctor import versions
from diwa_cli.evaluation.evaluate import difference_summary, rate_summary
from diwa_cli.pipeline.results import JudgedRun
from diwa_cli.run_folder import BASE, FINETUNED, RunFolder, SweepFolder, read_metrics
from diwa_data.dataset.dataset import load_dataset, without_failures
from diwa_data.errors import DiwaError, unknown
from diwa_data.files import folder_size
from diwa_data.pose import Pose
from diwa_data.spec import Spec
from diwa_data.view.inspect import spec_lines
from diwa_deploy.bundle import CARD, Bundle, StartRegion, installed_skills, load_bundle, write_bundle

UNITS = "rates and their intervals: fractions; difference: percentage points; all intervals 95 %"


def start_region(demonstrations: Path, skill: str) -> StartRegion:
    """Where the demonstrations of `skill` began that did not fail. Raises `DiwaError` if a dataset has none."""
    episodes = without_failures(load_dataset(demonstrations, images=False)).episodes
    first = [e for e in episodes if e.attributes["skill"] == skill and not e.attributes["segment"]]
    if not first:
        shown = sorted({e.attributes["skill"] for e in episodes} - {""})
        raise unknown(f"skill in {demonstrations}", skill, shown)
    return StartRegion.of([Pose.from_state(episode.state[0]) for episode in first])


def require_made_for(skill: str, checkpoints: Sequence[Path]) -> None:
    """Raise `DiwaError` if one of the `checkpoints`, which are sound, is for another skill."""
    for path in checkpoints:
        if (made_for := (read_metrics(path) or {}).get("skill")) != skill:
            raise DiwaError(f"{path} is for the skill {made_for!r}, not {skill!r}: give --skill {made_for}")


def skills_table() -> str:
    """A line for each installed skill: success in the simulator before and after fine-tuning, as its card says."""
    lines = [f"{'skill':<20} {'base':>7} {'tuned':>7}  bundle"]
    for skill, path in installed_skills().items():
        base, tuned = (_success(load_bundle(path), name) for name in (BASE, FINETUNED))
        lines.append(f"{skill:<20} {base:>7} {tuned:>7}  {path}")
    return "\n".join(lines)


def bundles_in(path: Path) -> list[Bundle]:
    """The bundle in the folder `path`, or those in its folders; none if there are none."""
    folders = [path] if (path / CARD).is_file() else [file.parent for file in sorted(path.glob(f"*/{CARD}"))]
    return [load_bundle(folder) for folder in folders]


def bundle_card(bundle: Bundle) -> str:
    """The card of a bundle: success, where it may start, sizes of its parts, its contract."""
    base, tuned = (_success(bundle, name) for name in (BASE, FINETUNED))
    region = StartRegion.from_card(bundle.card, str(bundle.path / CARD))
    starts = "anywhere: the card names no region"
    if region:
        corners = (", ".join(f"{value:.2f}" for value in corner) for corner in (region.low, region.high))
        starts = "hand in the box ({}) to ({}) m".format(*corners)
    parts = {"world model": bundle.world_model, "policy": bundle.policy, "classifier": bundle.reward}
    file = bundle.world_model / "spec.json"
    return "\n".join(
        [
            f"skill bundle {bundle.path}: {bundle.skill}",
            f"success in the simulator: {base} after imitation, {tuned} after fine-tuning",
            f"starts: {starts}",
            *(f"{name}: {path}, {folder_size(path) / 1e6:.1f} MB" for name, path in parts.items()),
            *spec_lines(Spec.from_json(file.read_text(), str(file))),
        ]
    )


def _success(bundle: Bundle, policy: str) -> str:
    """The success rate that the card gives for `policy` (base or finetuned), `-` if it gives none."""
    try:
        return f"{100 * bundle.card[policy]['rate']:.0f} %" if policy in bundle.card else "-"
    except (KeyError, TypeError, ValueError) as error:
        raise DiwaError(f"{bundle.path / CARD} has no rate for {policy} ({error!r}): write the bundle again") from error


def write_sweep_bundles(folder: SweepFolder, judged: Sequence[JudgedRun], command: str) -> None:
    """A bundle for each skill of a sweep in `skills/`: of its first finished run, whichever came out best."""
    for one in {one.run.skill: one for one in reversed(judged)}.values():
        run, files = one.run, RunFolder(folder, one.run)
        parts = {
            "world_model": files.world_model,
            "policy": files.finetuned,
            "reward": files.reward,
            BASE: files.policy,
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
            "start": start_region(files.demonstrations, run.skill).to_card(),
        }
        write_bundle(folder.bundle(run.skill), parts, card)
