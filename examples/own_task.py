"""A task of your own for the simulated table: its goal, where it begins, and how the scripted operator does it.

    python examples/own_task.py runs/demo/play.h5

docs/extending.md shows how a package registers it; then `diwa demo --skill ajar_drawer` records, learns and judges it.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.dataset.dataset import load_dataset
from diwa_sim.starts import DRAWER_OPEN, StartConfig, any_start
from diwa_sim.tasks import Numbers, Task
from diwa_sim.techniques import Stroke

AJAR = (0.04, 0.08)
"""Metres by which the drawer is open when the task is done."""


def ajar(start: Numbers, now: Numbers) -> Any:
    """By how much the goal is exceeded, 0 or more is done: as near as that to the middle of the range."""
    return (AJAR[1] - AJAR[0]) / 2 - abs(now["drawer"] - sum(AJAR) / 2)


TASK = Task(
    "ajar_drawer",
    goal=ajar,
    start=lambda rng, config: any_start(rng, config, drawer=False),  # as in play, but the drawer is shut
    technique=Stroke("drawer", "drawer_handle", (0.07, 0, -0.018), (-0.1, 0, 0), (0, sum(AJAR) / 2)),
    text="open the drawer by 4 to 8 cm",
)


def main(play: Path) -> None:
    rng, settings = np.random.default_rng(0), StartConfig()
    for _ in range(3):
        start = TASK.start(rng, settings)
        print(f"a start: drawer {start.drawer:.3f} m, hand at {start.hand.position.round(2)}")

    # The goal can be asked of any recording that knows the scene: how often is it met in play?
    data, met = load_dataset(play, images=False), 0
    for episode in data.episodes:
        scenes = episode.scene_state
        if scenes is not None:
            done = np.asarray(TASK.margin(data.spec.scene_state, scenes[0], scenes)) >= 0
            met += int(np.count_nonzero(np.diff(done.astype(int), prepend=0) == 1))
    print(f"{play}: the drawer comes to be ajar {met} times in {len(data.episodes)} episodes")
    print(f"in play it may stand anywhere up to {DRAWER_OPEN} m: a task is rarely done by chance")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
