"""Skill bundles from checkpoints and the demonstrations behind them."""

from __future__ import annotations

from pathlib import Path

from diwa_cli.run_folder import BASE, FINETUNED
from diwa_data.dataset import load_dataset
from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_deploy.bundle import installed_skills, load_bundle
from diwa_deploy.start_region import StartRegion

UNITS = "rates and their intervals: fractions; difference: percentage points; all intervals 95 %"


def start_region(demonstrations: Path, skill: str) -> StartRegion:
    """Where the demonstrations of `skill` in a dataset began. Raises `DiwaError` if there are none."""
    episodes = load_dataset(demonstrations, images=False).episodes
    first = [e for e in episodes if e.attributes["skill"] == skill and not e.attributes["segment"]]
    if not first:
        raise DiwaError(f"{demonstrations} holds no demonstration of {skill}")
    return StartRegion.of([Pose.from_state(episode.state[0]) for episode in first])


def skills_table() -> str:
    """A line for each installed skill: success in the simulator before and after fine-tuning, as its card says."""
    lines = [f"{'skill':<20} {'base':>7} {'tuned':>7}  bundle"]
    for skill, path in installed_skills().items():
        card = load_bundle(path).card
        rates = [f"{100 * card[name]['rate']:.0f} %" if name in card else "-" for name in (BASE, FINETUNED)]
        lines.append(f"{skill:<20} {rates[0]:>7} {rates[1]:>7}  {path}")
    return "\n".join(lines)
