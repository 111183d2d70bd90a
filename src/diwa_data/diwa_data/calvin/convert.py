"""`diwa import-calvin`: CALVIN's frames as a dataset of ours, play or the demonstrations of one skill.

Rows are as in CALVIN: 30 Hz, the action of row t is the relative action stored with frame t, which leads to frame t+1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diwa_data import __version__
from diwa_data.calvin.format import (
    Annotation,
    CalvinFrame,
    Stretch,
    frame_path,
    pose_of,
    read_annotations,
    read_episodes,
    read_frame,
)
from diwa_data.dataset.file import build_file, open_file
from diwa_data.dataset.hdf5 import create_images, write_rows
from diwa_data.errors import DiwaError
from diwa_data.files import require_space
from diwa_data.images import preprocess
from diwa_data.pose import relative_action, robot_state
from diwa_data.skills import goal_of, require_skill
from diwa_data.spec import CALVIN

BY_CONDITION = "condition"
"""Label `mark` of a demonstration whose scene state meets the task; otherwise its end is the mark."""
_BUFFER = 64  # frames held before they are written
_TOLERANCE = 0.02  # of full scale: by how much an action may differ from its frame's poses
_VECTORS = ("state", "action", "stamp", "received", "scene_state")


@dataclass(frozen=True)
class CalvinImportConfig:
    """`diwa import-calvin`: which part of CALVIN's data, and in what pieces."""

    skill: str = ""
    """Import demonstrations of this skill, the annotated segments of CALVIN's task of that name; empty: all play."""
    count: int = 50
    """Demonstrations: this many segments at random, overlapping ones only where others are used up; 0 takes all."""
    seed: int = 0
    """Of the choice of demonstrations."""
    episode_frames: int = 1800
    """Longer recordings are cut into pieces of so many actions; a piece begins with the frame that ends the last."""
    workers: int = 2
    """Processes; changes nothing in the result."""


def import_calvin(folder: Path, out: Path, config: CalvinImportConfig) -> None:
    """Import play or demonstrations of a `training` or `validation` folder into the dataset `out`.

    Finished pieces survive an interruption, as those of `build_dataset`. Raises `DiwaError` naming the file that is
    missing, damaged or does not mean what CALVIN's documentation says.
    """
    if config.episode_frames < 2:
        raise DiwaError(f"episode_frames is {config.episode_frames}: a piece needs 2 or more")
    pieces = demonstrations(folder, config) if config.skill else play(folder, config)
    _require_frames(folder, [piece.stretch for piece in pieces])
    settings = dataclasses.asdict(config)
    del settings["workers"]
    names = hashlib.sha256("".join(piece.part for piece in pieces).encode()).hexdigest()
    identity = {"spec": json.loads(CALVIN.to_json()), "config": settings, "frames": names}
    build_file("import-calvin", "frames", Path(out), pieces, identity, config.workers)
    if config.skill:
        print(_marks(Path(out)))


def _marks(out: Path) -> str:
    """How the success marks of the demonstrations in `out` came about."""
    with open_file(out) as file:
        marks = [json.loads(group.attrs["labels"])["mark"] for group in file["episodes"].values()]
    by_scene = marks.count(BY_CONDITION)
    return f"success marks: {by_scene} where the scene state meets the task, {len(marks) - by_scene} at a segment's end"


def play(folder: Path, config: CalvinImportConfig) -> list[CalvinPiece]:
    """All episodes of a folder, in pieces that share their border frames: every transition is in exactly one."""
    size = config.episode_frames
    return [
        CalvinPiece(folder, Stretch(first, min(first + size, episode.last)))
        for episode in read_episodes(folder)
        for first in range(episode.first, episode.last, size)
    ]


def demonstrations(folder: Path, config: CalvinImportConfig) -> list[CalvinPiece]:
    """`config.count` annotated segments of the skill, in the order of recording."""
    skill = require_skill(config.skill)
    mine = [annotation for annotation in read_annotations(folder) if annotation.task == skill]
    if not mine or len(mine) < config.count:
        raise DiwaError(
            f"{folder} has {len(mine)} annotated segments of {skill}, not {config.count}: ask for fewer with --count"
        )
    order = np.random.default_rng(config.seed).permutation(len(mine))
    chosen = _overlapping_last([mine[i] for i in order])[: config.count or None]
    kept = sorted(chosen, key=lambda annotation: annotation.stretch.first)
    return [CalvinPiece(folder, each.stretch, skill, each.instruction) for each in kept]


def _overlapping_last(annotations: list[Annotation]) -> list[Annotation]:
    """In this order, but those that share a frame with one before them come behind all others."""
    apart: list[Annotation] = []
    overlapping: list[Annotation] = []
    for one in annotations:
        first, last = one.stretch.first, one.stretch.last
        free = all(first > other.stretch.last or last < other.stretch.first for other in apart)
        (apart if free else overlapping).append(one)
    return apart + overlapping


def _require_frames(folder: Path, stretches: Iterable[Stretch]) -> None:
    """Raise `DiwaError` if frames are missing, before hours are spent on the others."""
    there = {entry.name for entry in os.scandir(folder)}
    wanted = (frame_path(folder, number) for each in stretches for number in range(each.first, each.last + 1))
    missing = [path for path in wanted if path.name not in there]
    if missing:
        raise DiwaError(
            f"{missing[0]} is missing, and {len(missing) - 1} other frames: copy them from CALVIN's archive again"
        )


@dataclass(frozen=True)
class CalvinPiece:
    """A stretch of CALVIN's frames that becomes one episode: play, or a demonstration of `skill`."""

    folder: Path
    stretch: Stretch
    skill: str = ""
    instruction: str = ""

    @property
    def part(self) -> str:
        """Changes when the stretch or its first frame does."""
        path = frame_path(self.folder.resolve(), self.stretch.first)
        written = path.stat().st_mtime_ns if path.is_file() else 0
        text = f"{path} {self.stretch.last} {self.skill} {written}"
        return hashlib.sha256(text.encode()).hexdigest()[:20] + ".h5"

    @property
    def size(self) -> int:
        return len(self.stretch)

    @property
    def name(self) -> str:
        return f"{frame_path(self.folder, self.stretch.first).stem} to {self.stretch.last}"

    def absolute(self) -> CalvinPiece:
        """As `Recording.absolute`."""
        return dataclasses.replace(self, folder=self.folder.resolve())

    def build(self, file: h5py.File, stopped: Callable[[], bool]) -> float:
        """As `Recording.build`: all frames as group `0`."""
        group, rows, length = file.create_group("0"), _Rows(), len(self.stretch)
        for camera in CALVIN.cameras:
            create_images(group, camera.name, length, camera.size)
        for number in range(self.stretch.first, self.stretch.last + 1):
            if stopped():
                raise KeyboardInterrupt
            rows.add(read_frame(frame_path(self.folder, number)), number / CALVIN.rate)
            if len(rows.frames) == _BUFFER or number == self.stretch.last:
                rows.write_images(group)
        self._require_our_actions(rows)
        self._finish(group, rows)
        return length / CALVIN.rate

    def _require_our_actions(self, rows: _Rows) -> None:
        """Raise `DiwaError` if the actions are not the scaled differences of their frames' poses."""
        action, computed = np.stack(rows.vectors["action"]).astype(float), np.stack(rows.computed).astype(float)
        wrong = np.abs(action - computed).max(axis=1) > _TOLERANCE
        if wrong.mean() > 0.5:
            row = int(np.argmax(wrong))
            raise DiwaError(
                f"{frame_path(self.folder, self.stretch.first + row)}: rel_actions is {action[row].round(3).tolist()}, "
                f"but robot_obs and actions say {computed[row].round(3).tolist()}, as in {100 * wrong.mean():.0f} % of "
                f"the frames to {self.stretch.last}: these data have other scales or frames than CALVIN documents"
            )

    def _finish(self, group: h5py.Group, rows: _Rows) -> None:
        """Write everything but images."""
        vectors = {key: np.stack(values) for key, values in rows.vectors.items()}
        vectors["action"][-1, :6] = 0  # the last row holds
        success, mark = self._success(vectors["scene_state"])
        for key in _VECTORS:
            write_rows(group, key, vectors[key])
        write_rows(group, "success", success)
        labels = {"source": "demonstration", "skill": self.skill, "instruction": self.instruction, "mark": mark}
        attributes: dict[str, Any] = {
            "bag": self.name,
            "source": "demonstration" if self.skill else "play",
            "skill": self.skill,
            "labels": json.dumps(labels if self.skill else {"source": "play"}, sort_keys=True),
            "recorded_by": f"CALVIN, imported by {__version__}",
            "flagged": np.zeros(0, int),
            "segment": 0,
            "success_tick": int(np.argmax(success)) if success.any() else -1,
        }
        clipped = np.abs(vectors["action"][:-1, :6]).max(axis=1) >= 1
        attributes |= {"clipped": int(clipped.sum()), "clipped_share": float(clipped.mean())}
        for name, value in attributes.items():
            group.attrs[name] = value

    def _success(self, scene: np.ndarray) -> tuple[np.ndarray, str]:
        """(T,) bool, true from the tick on at which the scene (T, 24) meets the task's condition against the first one.

        Where it never does, CALVIN's annotation is believed: the last tick is the mark. With it, which of the two.
        """
        if not self.skill:
            return np.zeros(len(scene), bool), ""
        done = goal_of(self.skill, CALVIN.robot).achieved(CALVIN.scene_state, scene[0], scene)
        mark = BY_CONDITION if done.any() else "segment end"
        done[-1] = True
        return np.logical_or.accumulate(done), mark


class _Rows:
    """Rows of one piece; images leave in batches, so that a piece of any length needs little memory."""

    def __init__(self) -> None:
        self.vectors: dict[str, list[Any]] = {key: [] for key in _VECTORS}
        self.computed: list[np.ndarray] = []
        """(7,) actions from the poses of each frame."""
        self.frames: list[dict[str, np.ndarray]] = []
        """Images not yet written, at the networks' size."""
        self._written = 0

    def add(self, frame: CalvinFrame, time: float) -> None:
        """Take in one frame; `time` in seconds."""
        pose, spec = pose_of(frame.robot), CALVIN.action
        row = (robot_state(pose, frame.robot[6]), spec.executed(frame.action.astype(np.float32)), time, time)
        for key, value in zip(_VECTORS, (*row, frame.scene.astype(float)), strict=True):
            self.vectors[key].append(value)
        self.computed.append(relative_action(pose, pose_of(frame.target), float(frame.target[6]), spec))
        self.frames.append({camera.name: preprocess(frame.images[camera.name], camera) for camera in CALVIN.cameras})

    def write_images(self, group: h5py.Group) -> None:
        """Move the images held here to the file."""
        require_space(Path(group.file.filename), sum(image.nbytes for some in self.frames for image in some.values()))
        end = self._written + len(self.frames)
        for camera in CALVIN.cameras:
            group[camera.name][self._written : end] = np.stack([some[camera.name] for some in self.frames])
        self._written = end
        self.frames.clear()
