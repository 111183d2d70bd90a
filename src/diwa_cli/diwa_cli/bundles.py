"""Skill bundles from checkpoints and the demonstrations behind them."""

from __future__ import annotations

from pathlib import Path

from diwa_data.dataset import load_dataset
from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_deploy.start_region import StartRegion


def start_region(demonstrations: Path, skill: str) -> StartRegion:
    """Where the demonstrations of `skill` in a dataset began. Raises `DiwaError` if there are none."""
    episodes = load_dataset(demonstrations, images=False).episodes
    first = [e for e in episodes if e.attributes["skill"] == skill and not e.attributes["segment"]]
    if not first:
        raise DiwaError(f"{demonstrations} holds no demonstration of {skill}")
    return StartRegion.of([Pose.from_state(episode.state[0]) for episode in first])
