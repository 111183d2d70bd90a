"""The trials of a blind comparison, with an operator who resets the scene and judges."""

from __future__ import annotations

from typing import Any, Protocol

from diwa_data.errors import DiwaError
from diwa_deploy.trials import Comparison, Trial


class Client(Protocol):
    """What lets go of the arm, holds it, and runs a skill on it."""

    def let_go(self) -> None: ...
    def activate(self) -> None: ...
    def execute(self, skill: str, seed: int) -> Any: ...


def run_trials(client: Client, comparison: Comparison, skill: str) -> None:
    """Until all are done or the operator ends it. Which policy runs is never said."""
    while comparison.left:
        client.let_go()
        if ask(f"{comparison.left} to go. Reset the scene and the arm, then Enter (q ends): ") == "q":
            return
        client.activate()
        result = client.execute(f"{skill}/{comparison.next}", seed=len(comparison.trials))
        answer = ask(f"stopped: {result.reason}. Did it succeed? (y, n; anything else does it again): ")
        if answer in ("y", "n"):
            trial = Trial(comparison.next, answer == "y", result.success, result.reason, result.steps)
            comparison.add(trial)


def ask(question: str) -> str:
    """What the operator types, in lower case. Raises `DiwaError` where there is no terminal."""
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            terminal.write(question.encode())
            return terminal.readline().decode(errors="ignore").strip().lower()
    except OSError as error:
        raise DiwaError("a comparison needs a terminal to ask in: start it in one") from error
