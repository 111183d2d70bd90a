"""Policies against each other on a real robot, blind: who is next is shuffled, and told to nobody.

An operator resets the scene and judges each trial.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.files import read_object, require_output, require_same_settings, write_json


@dataclass(frozen=True)
class Trial:
    """One run of one policy."""

    policy: str
    success: bool
    """The operator saw it succeed."""
    believed: bool
    """The classifier ended it."""
    reason: str
    """Why it ended."""
    steps: int
    """Control ticks."""


class Comparison:
    """`rollouts` trials of each policy, in blocks that hold each once, in random order; a file that continues."""

    def __init__(self, path: Path, skill: str, policies: Sequence[str], rollouts: int, seed: int):
        """Raises `DiwaError` if `path` holds another comparison, or is damaged."""
        self._path = Path(path)
        require_output(self._path)
        self._about = {"skill": skill, "policies": list(policies), "rollouts": rollouts, "seed": seed}
        self.trials: list[Trial] = []
        if self._path.exists():
            found = read_comparison(self._path)
            self.trials = [Trial(**trial) for trial in found.pop("trials")]
            require_same_settings(self._path, found, self._about, otherwise="name another file")
        blocks = [np.random.default_rng((seed, block)).permutation(len(policies)) for block in range(rollouts)]
        self._order = [policies[index] for block in blocks for index in block]

    @property
    def left(self) -> int:
        """Trials to go."""
        return len(self._order) - len(self.trials)

    @property
    def next(self) -> str:
        """The policy of the next trial."""
        return self._order[len(self.trials)]

    def add(self, trial: Trial) -> None:
        """Keep a trial of `next`."""
        assert trial.policy == self.next
        self.trials.append(trial)
        write_json(self._path, {**self._about, "trials": [asdict(trial) for trial in self.trials]})


def read_comparison(path: Path) -> dict[str, Any]:
    """The contents of a comparison's file. Raises `DiwaError` if it is missing or damaged."""
    found = read_object(Path(path), "name the file of a comparison")
    try:
        [Trial(**trial) for trial in found["trials"]]
        return {name: found[name] for name in ("skill", "policies", "rollouts", "seed", "trials")}
    except (KeyError, TypeError) as error:
        raise DiwaError(f"{path} is not a comparison, or damaged ({error}): name another file") from error


class Client(Protocol):
    """Lets go of the arm, holds it, runs a skill on it, and is told by the operator how that went."""

    @property
    def interrupted(self) -> bool: ...

    def let_go(self) -> None: ...
    def activate(self) -> None: ...
    def execute(self, skill: str, seed: int) -> Any: ...
    def judge(self, success: bool) -> None: ...


def run_trials(client: Client, comparison: Comparison, skill: str) -> None:
    """Until all are done or the operator ends it. Which policy runs is never said."""
    while comparison.left:
        client.let_go()
        if ask(client, f"{comparison.left} to go. Reset the scene and the arm, then Enter (q ends): ") == "q":
            return
        client.activate()
        result = client.execute(f"{skill}/{comparison.next}", seed=len(comparison.trials))
        answer = ask(client, f"stopped: {result.reason}. Did it succeed? (y, n; anything else does it again): ")
        if answer in ("y", "n"):
            trial = Trial(comparison.next, answer == "y", result.success, result.reason, result.steps)
            comparison.add(trial)
            client.judge(trial.success)


def ask(client: Client, question: str) -> str:
    """The operator's answer, in lower case. Raises `DiwaError` where there is no terminal, and when interrupted."""
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            terminal.write(question.encode())
            while not select.select([terminal], [], [], 0.2)[0]:
                if client.interrupted:
                    raise DiwaError("interrupted: what was judged is kept")
            return terminal.readline().decode(errors="ignore").strip().lower()
    except OSError as error:
        raise DiwaError("a comparison needs a terminal to ask in: start it in one") from error
