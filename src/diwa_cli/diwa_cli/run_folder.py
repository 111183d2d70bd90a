"""The folder of a run: what lies where, and how long each phase took."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_data import files as json_files
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import atomic_path, write_json
from diwa_data.manifest import CHECKPOINT_FILES, require_sealed

BASE, FINETUNED = "base", "finetuned"
"""Names of the policy before and after fine-tuning in the final evaluation."""

_CURE = "delete it and run again"
HEARTBEAT = 5.0
"""Seconds between saves of a running phase's time: what a kill can lose."""


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder; none of them need exist. Play and world model may be those of another run."""

    path: Path

    @property
    def learned(self) -> RunFolder:
        """The run whose play and world model this one uses: itself, unless its configuration names another."""
        config = self.config
        with damaged_run(self.path):
            other = (config.get("demo") or config.get("sweep") or {}).get("world_model_of", "")
            return RunFolder(Path(other)) if other else self

    @property
    def is_run(self) -> bool:
        """Whether anything in it is a run's; a skill bundle or a folder of recordings is none."""
        parts = (self.description, self.demonstrations, self.finetuned, self.curve.parent)
        return any(part.exists() for part in parts)

    @property
    def is_sweep(self) -> bool:
        """Whether it is the folder of a sweep."""
        return "sweep" in self.config

    @property
    def config(self) -> dict[str, dict[str, Any]]:
        """Sections of its configuration, none if nothing is there. Raises `DiwaError` if they are damaged."""
        if (found := read_json(self.description)) is None:
            return {}
        sections = found.get("config") if isinstance(found, dict) else None
        if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
            raise DiwaError(f"{self.description} is damaged (it holds no configuration): {_CURE}")
        return sections

    @property
    def description(self) -> Path:
        """Full configuration, versions, machine."""
        return self.path / "run.json"

    @property
    def phases(self) -> Path:
        """Seconds and command of each phase."""
        return self.path / "phases.json"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def strip(self) -> Path:
        """One pair of rollouts, before and after dreaming, as a filmstrip."""
        return self.path / "before_after.png"

    @property
    def film(self) -> Path:
        """The same pair as an animation."""
        return self.path / "before_after.gif"

    @property
    def play_bags(self) -> Path:
        return self.learned.path / "bags" / "play"

    @property
    def demonstration_bags(self) -> Path:
        return self.path / "bags" / "demonstrations"

    @property
    def play(self) -> Path:
        """Dataset of play."""
        return self.learned.path / "play.h5"

    @property
    def demonstrations(self) -> Path:
        """Dataset of demonstrations."""
        return self.path / "demonstrations.h5"

    @property
    def replay(self) -> Path:
        """Result of the open-loop replay."""
        return self.path / "replay.json"

    @property
    def guard(self) -> Path:
        """Checkpoint of the guard of its dreams; only where fine-tuning needs one."""
        return self.path / "guard"

    @property
    def world_model(self) -> Path:
        return self.learned.path / "world_model"

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def reward(self) -> Path:
        return self.path / "reward"

    @property
    def finetuned(self) -> Path:
        return self.path / "finetuned"

    @property
    def dppo(self) -> Path:
        """Checkpoint of the baseline that practised in the simulator."""
        return self.path / "dppo"

    @property
    def dppo_steps(self) -> Path:
        """How many steps the baseline took to match."""
        return self.dppo / "curve" / "dppo.json"

    @property
    def curve(self) -> Path:
        """Evaluation of the checkpoints on the way."""
        return self.path / "evaluation" / "curve"

    @property
    def final(self) -> Path:
        """Paired evaluation of the policy before and after."""
        return self.path / "evaluation" / "final"

    def bundle(self, skill: str) -> Path:
        """Skill bundle, ready for `diwa run-skill --checkpoint`."""
        return self.path / "skills" / skill


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def damaged_run(path: Path) -> AbstractContextManager[None]:
    """For code that only reads the files of a run: whatever that raises is a `DiwaError`."""
    return damage_as_error(f"{path} holds a file that is damaged or of another version", "do the run again")


def read_json(path: Path) -> Any:
    """The JSON value in `path`, None if there is no such file; `DiwaError` if it is damaged."""
    if not path.is_file():
        return None
    return json_files.read_json(path, _CURE)


def read_metrics(checkpoint: Path) -> dict[str, Any] | None:
    """`metrics.json` of a checkpoint, None if there is none; `DiwaError` if it is damaged or was changed."""
    cure = "make the checkpoint again, or copy it from elsewhere"
    path = checkpoint / "metrics.json"
    if not path.is_file():
        return None
    if (checkpoint / CHECKPOINT_FILES[0]).is_file():
        require_sealed(checkpoint, CHECKPOINT_FILES, cure)
    return json_files.read_object(path, cure)


def in_a_line(error: Exception) -> str:
    """What went wrong; the kind of error too, unless it is one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DiwaError) else f"{type(error).__name__}: {text}"


class PhaseLog:
    """Seconds, command and error of each phase, interruptions left out, kept on disk while it runs."""

    def __init__(self, path: Path):
        self._path = path
        self._phases: dict[str, dict[str, Any]] = {}
        with damage_as_error(f"{path} is damaged", _CURE):
            for name, phase in (read_json(path) or {}).items():
                self._phases[name] = {**phase, "seconds": float(phase["seconds"])}

    @property
    def seconds(self) -> dict[str, float]:
        """Phase -> seconds so far, in the order in which the phases began."""
        return {name: phase["seconds"] for name, phase in self._phases.items()}

    def is_done(self, name: str) -> bool:
        """Whether the phase has ended once."""
        return self._phases.get(name, {}).get("done", False)

    def error(self, name: str) -> str:
        """Of the phase's last attempt, in a line; empty if there was none."""
        return self._phases.get(name, {}).get("error", "")

    def take(self, name: str, command: str) -> None:
        """The phase's output is another run's: it is done, and took no time."""
        self._phases[name] = {"seconds": 0.0, "command": command, "done": True, "error": ""}
        write_json(self._path, self._phases)

    @contextmanager
    def running(self, name: str, command: str, share: float = 1.0) -> Iterator[None]:
        """Add the time spent inside to phase `name`, a `share` of it; it is done unless this raises."""
        phase = self._phases.setdefault(name, {"seconds": 0.0})
        phase |= {"command": command, "done": False, "error": ""}
        before, started, ended = phase["seconds"], time.monotonic(), threading.Event()

        def save() -> None:
            phase["seconds"] = round(before + share * (time.monotonic() - started), 2)
            write_json(self._path, self._phases)

        def beat() -> None:
            while not ended.wait(HEARTBEAT):
                with suppress(DiwaError):  # a full disk: the last save reports it
                    save()

        pulse = threading.Thread(target=beat, daemon=True)
        pulse.start()
        try:
            yield
            phase["done"] = True
        except Exception as error:
            phase["error"] = in_a_line(error)
            raise
        finally:
            ended.set()
            pulse.join()
            save()


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
