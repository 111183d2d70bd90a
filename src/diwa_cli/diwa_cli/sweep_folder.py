"""The folder of a sweep: its runs, and what lies where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diwa_cli.run_folder import PhaseLog, RunFolder


@dataclass(frozen=True)
class Run:
    """One fine-tuning of a sweep."""

    skill: str
    seed: int
    alpha: float
    """alpha_BC."""

    @property
    def trained(self) -> str:
        """Name of what runs that differ in alpha_BC share, and its folder."""
        return f"{self.skill}/seed_{self.seed}"

    @property
    def name(self) -> str:
        """Of the run, and its folder."""
        return f"{self.trained}/alpha_{self.alpha:g}"


@dataclass(frozen=True)
class SweepFolder:
    """Paths inside a sweep's folder. Play and world model may be those of another run."""

    path: Path

    @property
    def shared(self) -> RunFolder:
        """Description, play, world model, results, report."""
        return RunFolder(self.path)

    @property
    def rollouts(self) -> Path:
        """Every rollout of every run, JSON lines."""
        return self.path / "rollouts.jsonl"

    def of(self, name: str) -> RunFolder:
        """Files of a skill (demonstrations), of a skill and seed (`Run.trained`) or of a run (`Run.name`)."""
        return RunFolder(self.path / name)

    def log(self, phase: str) -> PhaseLog:
        """Time and error of one phase, in a file of its own: phases may run anywhere, at the same time."""
        return PhaseLog(self.path / "phases" / f"{phase}.json")

    def output(self, phase: str) -> Path:
        """What a phase that ran in another process printed."""
        return self.path / "phases" / f"{phase}.txt"


@dataclass(frozen=True)
class SweptRun(RunFolder):
    """A run of a sweep by its folder, `<sweep>/<skill>/seed_<N>/alpha_<A>`, with what it shares with others."""

    @property
    def sweep(self) -> RunFolder:
        return RunFolder(self.path.resolve().parents[2])

    @property
    def learned(self) -> RunFolder:
        return self.sweep.learned

    @property
    def demonstrations(self) -> Path:
        return self.path.resolve().parents[1] / "demonstrations.h5"

    @property
    def guard(self) -> Path:
        return self.sweep.guard

    @property
    def policy(self) -> Path:
        return self.path.resolve().parent / "policy"

    @property
    def reward(self) -> Path:
        return self.path.resolve().parent / "reward"
