"""`diwa import-lerobot`: a dataset in LeRobot's format as one of ours, by a mapping file.

An episode of LeRobot becomes an episode of ours, at the contract's rate: tick n is the last frame captured by then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from diwa_data import __version__
from diwa_data.config import Job, require_at_least
from diwa_data.dataset.file import EpisodeWriter, open_file
from diwa_data.dataset.parts import build_file
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import json_text, read_bytes, require_output
from diwa_data.images import crop_for_recording, preprocess, require_crop
from diwa_data.lerobot.folder import (
    CURE,
    Feature,
    LeRobotFolder,
    SourceEpisode,
    needed_files,
    read_lerobot,
    require_files,
)
from diwa_data.lerobot.frames import Cut, stored_frames, tick_frames, video_frames
from diwa_data.lerobot.hub import download, require_repository
from diwa_data.lerobot.mapping import OWN, LeRobotMapping, contract, load_mapping, own_mapping, shipped
from diwa_data.lerobot.poses import Reader, Rows, require_features
from diwa_data.lerobot.tables import TARGET, numbers, read_rows
from diwa_data.pose import action_sequence, robot_state
from diwa_data.recording.marks import Outcome
from diwa_data.spec import ActionSpec, CameraSpec, Spec

CLIPPED = 0.02
"""Share of clipped actions from which on larger scales are advised."""


@dataclass(frozen=True)
class LeRobotImportConfig:
    """`diwa import-lerobot`: number of episodes and processes."""

    count: int = 0
    """Number of episodes to import: the first of those whose task is wanted. 0 = all."""
    workers: int = 2
    """Number of processes; the result does not depend on it."""


@dataclass(frozen=True)
class ImportLeRobotJob(Job):
    """Import a dataset in LeRobot's format (v2.0 to v3.0), a folder or a repository of the Hugging Face Hub."""

    command_name: ClassVar[str] = "import-lerobot"
    section: ClassVar[str] = "import_lerobot"
    positional: ClassVar[tuple[str, ...]] = ("dataset",)
    check_out: ClassVar[Callable[[Path], None]] = staticmethod(require_output)

    dataset: Path
    """Folder of the dataset, or its name on the Hub, user/name."""
    out: Path
    """HDF5 file to write; an interrupted import into it continues."""
    mapping: str = ""
    """Mapping file (.yaml), or the name of a shipped one; our own exports need none."""
    config: LeRobotImportConfig = field(default_factory=LeRobotImportConfig)
    """Amounts."""

    def run(self) -> None:
        """Import, or continue."""
        import_lerobot(self.dataset, self.out, self.mapping, self.config)


@dataclass(frozen=True)
class _Settings:
    """Settings that decide about the result, kept with it."""

    mapping: LeRobotMapping
    count: int
    workers: int


def import_lerobot(dataset: Path, out: Path, mapping: str, config: LeRobotImportConfig) -> None:
    """Import a LeRobot dataset into the dataset `out`, by a mapping file or the name of a shipped mapping.

    Finished episodes survive an interruption, as those of `build_dataset`. Raises `DiwaError` naming what is missing in
    the mapping or the dataset before any frame is decoded.
    """
    require_at_least(config, 0, "count")
    require_at_least(config, 1, "workers")
    repository = "" if dataset.exists() else require_repository(str(dataset))
    folder = read_lerobot(download(repository, ["meta/*"]) if repository else dataset)
    source = choose_source(folder, mapping)
    episodes = list(_wanted(folder, source.mapping, config.count))
    files = needed_files([episode for episode, _ in episodes], [camera.feature for camera in source.mapping.cameras])
    if repository:
        download(repository, files)
    require_files(folder, files)
    pieces = [LeRobotPiece(folder.path, source, *each) for each in episodes]
    settings = _Settings(source.mapping, config.count, config.workers)
    build_file("import-lerobot", "frames", "episodes", Path(out), pieces, source.spec, settings)
    print(_summary(Path(out), source.spec.action))


@dataclass(frozen=True)
class Source:
    """A dataset without its episodes, and what becomes of it."""

    name: str
    """Where it came from, in attributes."""
    fps: float
    features: dict[str, Feature]
    mapping: LeRobotMapping
    spec: Spec
    own: bool
    """An export of ours: its images have the network's size already."""


def choose_source(folder: LeRobotFolder, name: str) -> Source:
    """The mapping of this name for a dataset, and the contract that follows.

    Raises `DiwaError` naming what the mapping asks for and the dataset has not.
    """
    own = name in ("", OWN)
    if own and not (folder.path / "spec.json").is_file():
        known = ", ".join(shipped())
        raise DiwaError(
            f"{folder.path} is not an export of ours: name a mapping with --mapping, a .yaml file or one of {known} "
            f"('diwa inspect' lists what there is to map)"
        )
    if own:
        spec = Spec.from_json(read_bytes(folder.path / "spec.json", CURE).decode(), f"{folder.path}/spec.json")
        mapping = own_mapping(spec, list(dict.fromkeys(episode.task for episode in folder.episodes)))
        require_features(mapping, folder)
    else:
        mapping = load_mapping(name).with_cameras(folder.features)
        require_features(mapping, folder)
        spec = contract(mapping, folder.robot)
        for mapped, camera in zip(mapping.cameras, spec.cameras, strict=True):
            require_crop(camera, folder.features[mapped.feature].image_size)
    if spec.rate > folder.fps * (1 + 1e-6):
        raise DiwaError(
            f"{folder.path} has {folder.fps:g} frames per second, fewer than the contract's {spec.rate:g} ticks: set "
            f"rate to {folder.fps:g} or less in the mapping"
        )
    about = f"LeRobot {folder.version} ({folder.robot or 'unknown robot'}), mapping {OWN if own else Path(name).stem}"
    return Source(about, folder.fps, folder.features, mapping, spec, own)


def _wanted(folder: LeRobotFolder, mapping: LeRobotMapping, count: int) -> Iterator[tuple[SourceEpisode, str]]:
    """Episodes whose task is wanted, at most `count` unless that is 0, with their skills; says which are left out."""
    skills = [(episode, mapping.skill_of(episode.task)) for episode in folder.episodes]
    out = Counter(episode.task for episode, skill in skills if skill is None)
    if len(out) and out.total() == len(skills):
        raise DiwaError(f"no task of {folder.path} is listed under skills; it has {some_tasks(out)}")
    if out:
        print(f"left out, their task is not listed under skills: {out.total()} episodes ({some_tasks(out)})")
    kept = [(episode, skill) for episode, skill in skills if skill is not None]
    yield from kept[: count or None]


def some_tasks(tasks: Counter[str]) -> str:
    """The most frequent of them on one line."""
    first = ", ".join(repr(task[:60]) for task, _ in tasks.most_common(5))
    return f"{first} and {len(tasks) - 5} more" if len(tasks) > 5 else first


def _summary(out: Path, action: ActionSpec) -> str:
    """How many episodes there are, how they ended, and how much of the motion did not fit into an action."""
    with open_file(out) as file:
        groups = list(file["episodes"].values())
        moves = sum(len(group["action"]) - 1 for group in groups)
        clipped = sum(int(group.attrs["clipped"]) for group in groups) / moves
        outcomes = Counter(str(group.attrs["outcome"]) for group in groups)
    ended = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
    said = f"{len(groups)} episodes ({ended}), {moves} actions, {100 * clipped:.1f} % of them clipped"
    if clipped >= CLIPPED:
        said += f": motions exceed max_pos {action.max_pos:g} m or max_rot {action.max_rot:g} rad a tick; raise them"
    return said


@dataclass(frozen=True)
class LeRobotPiece:
    """An episode of a LeRobot dataset that becomes one of ours."""

    path: Path
    source: Source
    episode: SourceEpisode
    skill: str

    @property
    def key(self) -> str:
        """Changes when one of its files does."""
        files = needed_files([self.episode], [camera.feature for camera in self.source.mapping.cameras])
        written = [(self.path / file).stat().st_mtime_ns for file in files]
        return f"{self.path.resolve()} {self.episode.number} {written}"

    @property
    def size(self) -> int:
        return self.episode.length

    @property
    def name(self) -> str:
        return f"{self.path}: episode {self.episode.number}"

    def build(self, file: h5py.File) -> float:
        """As `Recording.build`; an episode of a single tick gives none."""
        source, cameras = self.source, self.source.mapping.cameras
        reader = Reader(source.mapping, source.features)
        stored = [camera.feature for camera in cameras if source.features[camera.feature].dtype == "image"]
        with damage_as_error(f"{self.name} cannot be read", CURE):
            published = [TARGET] if source.own and TARGET in source.features else []
            read = [*reader.features, *published]
            table = read_rows(self.path / self.episode.table, self.episode, [*read, *stored])
            rows = {name: numbers(table, name) for name in read}
            reader.require_finite(rows, self.name)
            frames = tick_frames(self.episode.length, source.fps, source.spec.rate)
            vectors, clipped, outcome = self._vectors(reader, rows, frames)
        if len(frames) < 2:
            return self.episode.length / source.fps
        writer = EpisodeWriter(file.create_group("0"), source.spec)
        with ExitStack() as stack:
            images = [
                self._images(stack, mapped.feature, camera, table, frames)
                for mapped, camera in zip(cameras, source.spec.cameras, strict=True)
            ]
            for row in zip(*images, strict=True):
                names = (camera.name for camera in source.spec.cameras)
                writer.add_images(dict(zip(names, row, strict=True)))
        writer.finish(vectors, clipped, self._attributes(outcome))
        return self.episode.length / source.fps

    def _images(
        self, stack: ExitStack, feature: str, camera: CameraSpec, table: Any, frames: np.ndarray
    ) -> Iterator[np.ndarray]:
        """A camera's images at the ticks, at the network's size."""
        source, size = self.source, self.source.features[feature].image_size
        if feature in self.episode.videos:
            place = self.episode.videos[feature]
            kept = Cut(size, None, camera.size) if source.own else Cut(size, camera.crop, camera.record_size)
            video = video_frames(self.path / place.file, place.start, source.fps, source.spec.rate, len(frames), kept)
            recorded = stack.enter_context(video)
        else:
            stored = stored_frames(table.column(feature).take(frames), size, self.path, self.name)
            recorded = stored if source.own else (crop_for_recording(image, camera) for image in stored)
        return recorded if source.own else (preprocess(image, camera) for image in recorded)

    def _vectors(
        self, reader: Reader, rows: Rows, frames: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, Outcome]:
        """Everything but images at the ticks; which actions were clipped; how the episode ended."""
        action, fps = self.source.spec.action, self.source.fps
        measured, widths = reader.measured(rows), reader.widths(rows)
        poses, targets = measured.at(frames), reader.targets(rows, measured).at(frames)
        grippers = reader.grippers(rows, action.gripper_open)[frames]
        sequence = action_sequence(targets, grippers, action)
        hold = np.array([*[0.0] * 6, grippers[-1]][: action.dim], np.float32)
        done, succeeded = reader.success(rows, fps)
        success = done[frames]
        success[-1] |= done.any()
        play = not self.skill
        vectors = {
            "state": np.stack(
                [
                    robot_state(pose, None if widths is None else widths[i])
                    for pose, i in zip(poses, frames, strict=True)
                ]
            ),
            "action": np.concatenate([sequence.actions, action.executed(hold)[None]]),
            "success": success & (not play),
            "stamp": frames / fps,
            "received": frames / fps,
        }
        if self.source.own:
            vectors |= {TARGET: rows[TARGET][frames].astype(np.float32)} if TARGET in rows else {}
        elif self.source.mapping.action.kind != "measured":
            vectors[TARGET] = np.stack([robot_state(target, None) for target in targets])
        unknown = play or succeeded is None or (self.source.own and not succeeded)  # ours may be unmarked
        outcome: Outcome = "none" if unknown else "success" if succeeded else "fail"
        return vectors, sequence.clipped, outcome

    def _attributes(self, outcome: Outcome) -> dict[str, Any]:
        source = {"source": "demonstration" if self.skill else "play", "skill": self.skill}
        labels = source | {"task": self.episode.task}
        return source | {
            "derived": "target_pose" if self.source.mapping.action.kind == "measured" else "",
            "bag": self.name,
            "outcome": outcome,
            "labels": json_text(labels),
            "recorded_by": f"{self.source.name}, imported by {__version__}",
            "flagged": np.zeros(0, int),
            "segment": 0,
        }
