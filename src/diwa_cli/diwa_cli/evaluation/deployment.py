"""Success as deployment sees it: what the classifier declares done in whole rollouts, held against the oracle.

The simulator's oracle judges; nothing here reaches training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diwa_cli.statistics import SuccessRate
from diwa_data.dataset.dataset import Episode, load_dataset
from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.reward.classifier import RewardConfig
from diwa_learning.reward.done import done_tick


@dataclass(frozen=True)
class Declared:
    """Counts over whole rollouts. A rollout is declared done at the tick at which the classifier has been sure for
    `success_ticks` ticks running; one whose oracle is true only after its limit neither succeeded nor failed."""

    rollouts: int
    right: int
    """Declared done at a tick at or after the oracle's first true one."""
    failed: int
    """Rollouts in which the oracle was never true."""
    false: int
    """Those of them that were declared done."""
    succeeded: int
    """Rollouts whose oracle was true within the limit."""
    missed: int
    """Those of them that never were."""

    @classmethod
    def of(
        cls,
        tapes: Sequence[Episode],
        probabilities: Sequence[np.ndarray | Sequence[float]],
        threshold: float,
        ticks: int,
    ) -> Declared:
        """Count taped rollouts by the classifier's probability at each of their frames, or at all but the last."""
        done = [done_tick(np.asarray(each) > threshold, ticks) for each in probabilities]
        pairs = list(zip(tapes, done, strict=True))
        failed = [tick for tape, tick in pairs if not tape.success.any()]
        succeeded = [tick for tape, tick in pairs if tape.outcome == "success"]
        return cls(
            rollouts=len(tapes),
            right=sum(tick is not None and bool(tape.success[tick]) for tape, tick in pairs),
            failed=len(failed),
            false=sum(tick is not None for tick in failed),
            succeeded=len(succeeded),
            missed=sum(tick is None for tick in succeeded),
        )

    def summary(self) -> dict[str, Any]:
        """Deployment success, false success and missed: counts, rate and Wilson's 95 % interval, as fractions."""
        return {
            "deployment_success": share(self.right, self.rollouts),
            "false_success": share(self.false, self.failed),
            "missed": share(self.missed, self.succeeded),
        }

    def text(self) -> str:
        """The same in a line."""
        return ", ".join(f"{name.replace('_', ' ')} {in_words(found)}" for name, found in self.summary().items())


def share(count: int, total: int) -> dict[str, Any]:
    """A count of a total, the rate and Wilson's 95 % interval; both None where the total is 0."""
    if not total:
        return {"count": count, "of": total, "rate": None, "interval": None}
    rate = SuccessRate(count, total)
    return {"count": count, "of": total, "rate": rate.rate, "interval": [rate.interval.low, rate.interval.high]}


def in_words(found: Mapping[str, Any]) -> str:
    """A `share` for people: `3 of 40 (8 %, 95 %: 3 to 20)`."""
    counts = f"{found['count']} of {found['of']}"
    if found["rate"] is None:
        return counts
    low, high = found["interval"]
    return f"{counts} ({100 * found['rate']:.0f} %, 95 %: {100 * low:.0f} to {100 * high:.0f})"


def declared(path: Path, reward: Path, rollouts: Iterable[tuple[str, int]]) -> dict[str, Declared]:
    """Policy -> counts of its taped `rollouts` (policy, seed) in the file `path`, as its robot judged them.

    Raises `DiwaError` if one of them is not there.
    """
    checkpoint = load_checkpoint(reward, "reward")
    threshold, ticks = float(checkpoint.weights["threshold"]), checkpoint.config_as(RewardConfig).success_ticks
    kept = {
        (tape.attributes.get("policy"), tape.attributes.get("seed")): tape
        for tape in load_dataset(path, images=False).episodes
    }
    found: dict[str, list[Episode]] = {}
    for key in rollouts:
        if key not in kept:
            raise DiwaError(f"{path} has no rollout of {key[0]} from seed {key[1]}: delete it and evaluate again")
        found.setdefault(key[0], []).append(kept[key])
    return {
        policy: Declared.of(tapes, [tape.attributes["probabilities"] for tape in tapes], threshold, ticks)
        for policy, tapes in found.items()
    }
