"""The folder of a sweep, a demo included: what lies where, and how long each phase took.

SWEEP/run.json, play.h5, world_model/, ensemble/, results.json, report.html, skills/   shared by all runs
SWEEP/SKILL/demonstrations.h5, replay.json                                             by all runs of a skill
SWEEP/SKILL/seed_N/policy, reward, evaluation/final                                    by all values of alpha_BC
SWEEP/SKILL/seed_N/alpha_A/finetuned, evaluation/final, evaluation/curve, dream.mp4, dppo   a run's own
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_data import files as json_files
from diwa_data.config import RENAMED
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import atomic_path, write_json
from diwa_data.manifest import CHECKPOINT_FILES, require_sealed

BASE, FINETUNED = "base", "finetuned"
"""Names of the policy before and after fine-tuning in final evaluations."""

_CURE = "delete it and run again"
HEARTBEAT = 5.0
"""Seconds between saves of a running phase's time: what a kill can lose."""


class Below:
    """A path below another one of the same object, by that one's name: `Below("path", "run.json")`."""

    def __init__(self, base: str, *parts: str):
        self._base, self._parts = base, parts

    def __get__(self, owner: Any, _: type) -> Path:
        return getattr(owner, self._base).joinpath(*self._parts)


@dataclass(frozen=True)
class SweepFolder:
    """Paths of what all runs of a sweep share; none of them need exist. Play and world model may be another sweep's."""

    path: Path

    description = Below("path", "run.json")  # full configuration, versions, machine
    results = Below("path", "results.json")
    rollouts = Below("path", "rollouts.jsonl")  # every rollout of every run
    report = Below("path", "report.html")
    play_bags = Below("learned_path", "bags", "play")
    play = Below("learned_path", "play.h5")
    world_model = Below("learned_path", "world_model")

    @property
    def config(self) -> dict[str, dict[str, Any]]:
        """Sections of its configuration, none if nothing is there. Raises `DiwaError` if they are damaged."""
        if (found := read_json(self.description)) is None:
            return {}
        sections = found.get("config") if isinstance(found, dict) else None
        if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
            raise DiwaError(f"{self.description} is damaged (it holds no configuration): {_CURE}")
        return {RENAMED.get(name, name): section for name, section in dict[str, Any](sections).items()}

    @property
    def is_sweep(self) -> bool:
        """Whether it is a sweep's folder. Raises `DiwaError` for a demo of an earlier version, with other folders."""
        if "demo" in (config := self.config) and "sweep" not in config:
            raise DiwaError(
                f"{self.path} is a demo of an earlier version, with other folders: repeat it with another --out, "
                "and --world-model-of to keep its world model; its bundle in skills/ runs as before"
            )
        return "sweep" in config

    @property
    def learned_path(self) -> Path:
        """The sweep whose play and world model this one uses: itself, unless its configuration names another."""
        return Path(self.config.get("sweep", {}).get("world_model_of") or self.path)

    @property
    def ensemble(self) -> Path:
        """Checkpoint of the ensemble that says where dreams are guesses; only where fine-tuning needs one."""
        earlier = self.path / "guard"  # where sweeps of version 0.1 have it
        return earlier if earlier.exists() else self.path / "ensemble"

    def bundle(self, skill: str) -> Path:
        """Skill bundle, ready for `diwa run-skill --checkpoint`."""
        return self.path / "skills" / skill

    def log(self, phase: str) -> PhaseLog:
        """Time and error of one phase, in a file of its own: phases may run anywhere, at the same time."""
        return PhaseLog(self.path / "phases" / f"{phase}.json", phase)

    def output(self, phase: str) -> Path:
        """File with the output of a phase that ran in another process."""
        return self.path / "phases" / f"{phase}.txt"

    def runs(self) -> list[RunFolder]:
        """The runs whose folders are there."""
        names = sorted(path.relative_to(self.path).parts for path in self.path.glob("*/seed_*/alpha_*"))
        return [RunFolder(self, Run.named(*name)) for name in names]


@dataclass(frozen=True)
class Run:
    """One fine-tuning of a sweep."""

    skill: str
    seed: int
    alpha: float
    """alpha_BC."""

    @classmethod
    def named(cls, skill: str, seed: str, alpha: str) -> Run:
        """By the three parts of its name. Raises `DiwaError` if it is none."""
        with damage_as_error(f"{skill}/{seed}/{alpha} is not a run", "name a folder SKILL/seed_N/alpha_A"):
            return cls(skill, int(seed.removeprefix("seed_")), float(alpha.removeprefix("alpha_")))

    @property
    def trained(self) -> str:
        """Name of what runs that differ in alpha_BC share, and its folder."""
        return f"{self.skill}/seed_{self.seed}"

    @property
    def name(self) -> str:
        """Name of the run, and its folder."""
        return f"{self.trained}/alpha_{self.alpha:g}"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run: its own, and those that it shares with others of its sweep."""

    sweep: SweepFolder
    run: Run

    demonstration_bags = Below("of_skill", "bags", "demonstrations")
    demonstrations = Below("of_skill", "demonstrations.h5")
    replay = Below("of_skill", "replay.json")
    play_marks = Below("of_skill", "play_marks.csv")
    policy = Below("of_seed", "policy")
    reward = Below("of_seed", "reward")
    base_final = Below("of_seed", "evaluation", "final")  # the base policy's
    finetuned = Below("path", "finetuned")
    final = Below("path", "evaluation", "final")  # from the same starts
    curve = Below("path", "evaluation", "curve")
    dppo = Below("path", "dppo")  # the baseline that practised in the simulator
    dppo_steps = Below("path", "dppo", "curve", "dppo.json")
    strip = Below("path", "before_after.png")  # one pair of rollouts, before and after dreaming
    film = Below("path", "before_after.gif")
    dream = Below("path", "dream.mp4")  # a rollout above what the world model makes of its start

    @property
    def path(self) -> Path:
        return self.sweep.path / self.run.name

    @property
    def of_skill(self) -> Path:
        """Shared by all runs of its skill."""
        return self.sweep.path / self.run.skill

    @property
    def of_seed(self) -> Path:
        """Shared by the runs of its skill and seed."""
        return self.sweep.path / self.run.trained

    @property
    def play(self) -> Path:
        return self.sweep.play

    @property
    def world_model(self) -> Path:
        return self.sweep.world_model

    @property
    def ensemble(self) -> Path:
        return self.sweep.ensemble


def find_run(path: Path) -> RunFolder:
    """The run in a folder: a run of a sweep, or a sweep (a demo) of one run. Raises `DiwaError` for anything else."""
    absolute = Path(os.path.abspath(path))
    if absolute.name.startswith("alpha_") and SweepFolder(absolute.parents[2]).is_sweep:
        return RunFolder(SweepFolder(path.parent.parent.parent), Run.named(*absolute.parts[-3:]))
    if not SweepFolder(path).is_sweep:
        raise DiwaError(f"{path} is not a finished run: `diwa demo --out {path}` makes one")
    runs = SweepFolder(path).runs()
    if len(runs) != 1:
        example = runs[0].path if runs else path / "SKILL" / "seed_N" / "alpha_A"
        raise DiwaError(f"{path} is a sweep: name one of its runs, such as {example}")
    return runs[0]


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
    """The error's message in a line; its kind too, unless it is one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DiwaError) else f"{type(error).__name__}: {text}"


class PhaseLog:
    """Seconds, command and error of a phase, interruptions left out, kept on disk while it runs."""

    def __init__(self, path: Path, name: str):
        self._path, self._name = path, name
        self._phase: dict[str, Any] = {"seconds": 0.0}
        with damage_as_error(f"{path} is damaged", _CURE):
            if found := read_json(path):
                self._phase = {**found[name], "seconds": float(found[name]["seconds"])}

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._phase["seconds"]

    @property
    def is_done(self) -> bool:
        """Whether the phase has ended once."""
        return self._phase.get("done", False)

    def take(self, command: str) -> None:
        """The phase's output is another sweep's: it is done, and took no time."""
        self._phase = {"seconds": 0.0, "command": command, "done": True, "error": ""}
        self._save()

    @contextmanager
    def running(self, command: str) -> Iterator[None]:
        """Add the time spent inside to the phase; it is done unless this raises."""
        self._phase |= {"command": command, "done": False, "error": ""}
        before, started, ended = self.seconds, time.monotonic(), threading.Event()

        def save() -> None:
            self._phase["seconds"] = round(before + time.monotonic() - started, 2)
            self._save()

        def beat() -> None:
            while not ended.wait(HEARTBEAT):
                with suppress(DiwaError):  # a full disk: the last save reports it
                    save()

        pulse = threading.Thread(target=beat, daemon=True)
        pulse.start()
        try:
            yield
            self._phase["done"] = True
        except Exception as error:
            self._phase["error"] = in_a_line(error)
            raise
        finally:
            ended.set()
            pulse.join()
            save()

    def _save(self) -> None:
        write_json(self._path, {self._name: self._phase})
