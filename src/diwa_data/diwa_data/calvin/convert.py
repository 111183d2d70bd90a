"""`diwa import-calvin`: CALVIN's frames as a dataset of ours, play or the demonstrations of one skill.

Rows are as in CALVIN: 30 Hz, the action of row t is the relative action stored with frame t, which leads to frame t+1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from diwa_data import __version__
from diwa_data.calvin.format import (
    Annotation,
    CalvinFrame,
    FrameRange,
    frame_path,
    pose_of,
    read_annotations,
    read_episodes,
    read_frame,
)
from diwa_data.calvin.tasks import GOALS
from diwa_data.config import Job
from diwa_data.dataset.file import CURE, EpisodeWriter, open_file, read_text
from diwa_data.dataset.parts import build_file
from diwa_data.errors import DiwaError, unknown
from diwa_data.files import json_text, parse_object, require_output
from diwa_data.images import preprocess
from diwa_data.pose import relative_action, robot_state
from diwa_data.skills import skill_name
from diwa_data.spec import CALVIN

BY_CONDITION = "condition"
"""Label `mark` of a demonstration whose scene state meets the task; otherwise its end is the mark."""
_TOLERANCE = 0.02  # of full scale: by how much an action may differ from its frame's poses


@dataclass(frozen=True)
class CalvinImportConfig:
    """`diwa import-calvin`: which part of CALVIN's data, and in what pieces."""

    skill: str = ""
    """Import demonstrations of this skill: the annotated segments of CALVIN's task of that name. Empty = all play."""
    count: int = 50
    """Number of demonstrations, chosen at random; overlapping segments only when no others are left. 0 = all."""
    seed: int = 0
    """Seed of the choice of demonstrations."""
    episode_frames: int = 1800
    """Recordings longer than this many actions are cut into pieces.
    Each piece begins with the frame that ends the one before."""
    workers: int = 2
    """Number of processes; the result does not depend on it."""


@dataclass(frozen=True)
class ImportCalvinJob(Job):
    """Import CALVIN's data as a dataset: all play of a folder, or with --skill the demonstrations of one skill."""

    command_name: ClassVar[str] = "import-calvin"
    section: ClassVar[str] = "import_calvin"
    positional: ClassVar[tuple[str, ...]] = ("folder",)
    check_out: ClassVar[Callable[[Path], None]] = staticmethod(require_output)

    folder: Path
    """Folder with episode_*.npz, such as task_D_D/training."""
    out: Path
    """HDF5 file to write; an interrupted import into it continues."""
    config: CalvinImportConfig = field(default_factory=CalvinImportConfig)
    """Skill and amounts."""

    def run(self) -> None:
        """Import, or continue."""
        import_calvin(self.folder, self.out, self.config)


def import_calvin(folder: Path, out: Path, config: CalvinImportConfig) -> None:
    """Import play or demonstrations of a `training` or `validation` folder into the dataset `out`.

    Finished pieces survive an interruption, as those of `build_dataset`. Raises `DiwaError` naming the file that is
    missing, damaged or does not mean what CALVIN's documentation says.
    """
    if config.episode_frames < 2:
        raise DiwaError(f"episode_frames is {config.episode_frames}: a piece needs 2 or more")
    pieces = demonstrations(folder, config) if config.skill else play(folder, config)
    _require_frames(folder, [piece.segment for piece in pieces])
    build_file("import-calvin", "frames", "frames", Path(out), pieces, CALVIN, config)
    if config.skill:
        print(_marks(Path(out)))


def _marks(out: Path) -> str:
    """How the success marks of the demonstrations in `out` came about."""
    with open_file(out) as file:
        labels = [read_text(group.attrs, "labels", str(out)) for group in file["episodes"].values()]
    marks = [parse_object(each, f"{out}: labels", CURE)["mark"] for each in labels]
    by_scene = marks.count(BY_CONDITION)
    return f"success marks: {by_scene} where the scene state meets the task, {len(marks) - by_scene} at a segment's end"


def play(folder: Path, config: CalvinImportConfig) -> list[CalvinPiece]:
    """All episodes of a folder, in pieces that share their border frames: every transition is in exactly one."""
    size = config.episode_frames
    return [
        CalvinPiece(folder, FrameRange(first, min(first + size, episode.last)))
        for episode in read_episodes(folder)
        for first in range(episode.first, episode.last, size)
    ]


def demonstrations(folder: Path, config: CalvinImportConfig) -> list[CalvinPiece]:
    """`config.count` annotated segments of the skill, in the order of recording."""
    skill, annotations = skill_name(config.skill), read_annotations(folder)
    mine = [annotation for annotation in annotations if annotation.task == skill]
    if not mine:
        raise unknown(f"annotated task of {folder}", skill, sorted({annotation.task for annotation in annotations}))
    if len(mine) < config.count:
        raise DiwaError(
            f"{folder} has {len(mine)} annotated segments of {skill}, not {config.count}: ask for fewer with --count"
        )
    order = np.random.default_rng(config.seed).permutation(len(mine))
    chosen = _overlapping_last([mine[i] for i in order])[: config.count or None]
    kept = sorted(chosen, key=lambda annotation: annotation.segment.first)
    return [CalvinPiece(folder, each.segment, skill, each.instruction) for each in kept]


def _overlapping_last(annotations: list[Annotation]) -> list[Annotation]:
    """In this order, but those that share a frame with one before them come behind all others."""
    apart: list[Annotation] = []
    overlapping: list[Annotation] = []
    for one in annotations:
        first, last = one.segment.first, one.segment.last
        free = all(first > other.segment.last or last < other.segment.first for other in apart)
        (apart if free else overlapping).append(one)
    return apart + overlapping


def _require_frames(folder: Path, segments: Iterable[FrameRange]) -> None:
    """Raise `DiwaError` if frames are missing, before hours are spent on the others."""
    there = {entry.name for entry in os.scandir(folder)}
    wanted = (frame_path(folder, number) for each in segments for number in range(each.first, each.last + 1))
    missing = [path for path in wanted if path.name not in there]
    if missing:
        raise DiwaError(
            f"{missing[0]} is missing, and {len(missing) - 1} other frames: copy them from CALVIN's archive again"
        )


@dataclass(frozen=True)
class CalvinPiece:
    """A segment of CALVIN's frames that becomes one episode: play, or a demonstration of `skill`."""

    path: Path
    segment: FrameRange
    skill: str = ""
    instruction: str = ""

    @property
    def key(self) -> str:
        """Changes when the segment or its first frame does."""
        path = frame_path(self.path.resolve(), self.segment.first)
        written = path.stat().st_mtime_ns if path.is_file() else 0
        return f"{path} {self.segment.last} {self.skill} {written}"

    @property
    def size(self) -> int:
        return len(self.segment)

    @property
    def name(self) -> str:
        return f"{frame_path(self.path, self.segment.first).stem} to {self.segment.last}"

    def build(self, file: h5py.File) -> float:
        """As `Recording.build`: all frames as group `0`."""
        writer, rows, computed = EpisodeWriter(file.create_group("0"), CALVIN), [], []
        for number in range(self.segment.first, self.segment.last + 1):
            frame = read_frame(frame_path(self.path, number))
            writer.add_images({camera.name: preprocess(frame.images[camera.name], camera) for camera in CALVIN.cameras})
            rows.append(_row(frame, number / CALVIN.rate))
            computed.append(_computed_action(frame))
        vectors = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        self._require_our_actions(vectors["action"].astype(float), np.stack(computed).astype(float))
        vectors["action"][-1, :6] = 0  # the last row holds
        vectors["success"], mark = self._success(vectors["scene_state"])
        labels = {"source": "demonstration", "skill": self.skill, "instruction": self.instruction, "mark": mark}
        if goal := GOALS.get(self.skill):
            labels |= goal.label(self.skill)
        attributes = {
            "bag": self.name,
            "source": "demonstration" if self.skill else "play",
            "skill": self.skill,
            "labels": json_text(labels if self.skill else {"source": "play"}),
            "recorded_by": f"CALVIN, imported by {__version__}",
            "flagged": np.zeros(0, int),
            "segment": 0,
        }
        writer.finish(vectors, np.abs(vectors["action"][:-1, :6]).max(axis=1) >= 1, attributes)
        return len(self.segment) / CALVIN.rate

    def _require_our_actions(self, action: np.ndarray, computed: np.ndarray) -> None:
        """Raise `DiwaError` if the actions (T, 7) are not the scaled differences of their frames' poses."""
        wrong = np.abs(action - computed).max(axis=1) > _TOLERANCE
        if wrong.mean() > 0.5:
            row = int(np.argmax(wrong))
            raise DiwaError(
                f"{frame_path(self.path, self.segment.first + row)}: rel_actions is {action[row].round(3).tolist()}, "
                f"but robot_obs and actions say {computed[row].round(3).tolist()}, as in {100 * wrong.mean():.0f} % of "
                f"the frames to {self.segment.last}: these data have other scales or frames than CALVIN documents"
            )

    def _success(self, scene: np.ndarray) -> tuple[np.ndarray, str]:
        """(T,) bool, true from the tick on at which the scene (T, 24) meets the task's condition against the first one.

        Where it never does, or no condition is known, CALVIN's annotation is believed: the last tick is the mark. With
        it, which of the two.
        """
        if not self.skill:
            return np.zeros(len(scene), bool), ""
        goal, done = GOALS.get(self.skill), np.zeros(len(scene), bool)
        if goal:
            done = goal.achieved(CALVIN.scene_state, scene[0], scene)
        mark = BY_CONDITION if done.any() else "segment end"
        done[-1] = True
        return np.logical_or.accumulate(done), mark


def _computed_action(frame: CalvinFrame) -> np.ndarray:
    """(7,) the relative action that its poses give."""
    return relative_action(pose_of(frame.robot), pose_of(frame.target), float(frame.target[6]), CALVIN.action)


def _row(frame: CalvinFrame, time: float) -> dict[str, Any]:
    """Everything but images of a frame at `time` seconds."""
    return {
        "state": robot_state(pose_of(frame.robot), frame.robot[6]),
        "action": CALVIN.action.executed(frame.action.astype(np.float32)),
        "stamp": time,
        "received": time,
        "scene_state": frame.scene.astype(float),
    }
