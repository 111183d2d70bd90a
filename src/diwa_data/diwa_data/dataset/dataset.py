"""Datasets at the control rate: built from bags into one HDF5 file, and loaded from it.

Layout: attributes `spec`, `config`, `version`; `episodes/000000/{static, gripper, state, action, success, stamp,
received[, scene_state, target]}`, with attributes for skill, source, labels, flagged ticks, clipping and success mark.
Action row t leads from frame t to frame t+1; the last row holds (no motion) and is not a training target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from diwa_data import __version__
from diwa_data.config import Job
from diwa_data.dataset.align import DatasetConfig, align
from diwa_data.dataset.file import (
    CURE,
    FORMAT,
    EpisodeWriter,
    member,
    new_file,
    open_file,
    read_attributes,
    read_spec,
    require_room,
    require_rows,
    require_values,
    write_checksum,
    write_digest,
)
from diwa_data.dataset.parts import BuildParts, build_file, build_parts
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import atomic_path, json_text, require_output
from diwa_data.foreign.bag import ForeignBag
from diwa_data.foreign.mapping import BagMapping, load_mapping, plain
from diwa_data.limits import columns_of, matrix_of, rotated
from diwa_data.manifest import warn_unsealed
from diwa_data.recording.bag_reader import METADATA, Bag, find_bags
from diwa_data.recording.bag_writer import tell_unfinished
from diwa_data.recording.marks import Outcome, marks_path
from diwa_data.recording.sidecar import SIDECAR, Sidecar
from diwa_data.spec import ActionSpec, Spec, require_same, under_all_limits

_VECTORS = {"state": np.float32, "action": np.float32, "success": np.bool_, "stamp": np.float64, "received": np.float64}
_OPTIONAL = {"scene_state": np.float64, "target": np.float32}


@dataclass(frozen=True, eq=False)
class Episode:
    """T ticks of one uninterrupted recording."""

    name: str
    """Number in the dataset, six digits."""
    images: dict[str, np.ndarray]
    """Camera name -> (T, H, W, 3) uint8 rgb; empty if loaded without images."""
    state: np.ndarray
    """(T, 10) float32: position, 6D rotation, gripper width; metres. (T, 9) without a gripper."""
    action: np.ndarray
    """(T, A) float32 in [-1, 1], executed actions; row t leads to frame t+1, the last row holds."""
    success: np.ndarray
    """(T,) bool: at or after the operator's success mark."""
    stamp: np.ndarray
    """(T,) float64: capture time of the first camera's frame, seconds."""
    received: np.ndarray
    """(T,) float64: when that frame arrived, seconds."""
    scene_state: np.ndarray | None
    """(T, N) float64, simulated robot only."""
    attributes: dict[str, Any]
    """skill, source, outcome, labels (dict), bag, flagged (tick indices), clipped, clipped_share, success_tick and
    withdrawn_tick (of a success that was taken back); -1: none."""
    target: np.ndarray | None = None
    """(T, 9) float32: the pose published last by each frame, position in metres and 6D rotation; None where it was not
    recorded, as in older files."""

    def __len__(self) -> int:
        return len(self.state)

    @property
    def outcome(self) -> Outcome:
        """The operator's word on the attempt that it was cut from."""
        return self.attributes.get("outcome", "success" if self.success.any() else "none")

    def targets(self, spec: ActionSpec) -> np.ndarray:
        """(T, 9) float32: where the commands had put the target by each frame, position in metres and 6D rotation.

        Where that was not recorded: the hand's first pose and the actions since.
        """
        if self.target is not None:
            return self.target
        steps = self.action[:-1, :3] * np.float32(spec.max_pos)
        position = self.state[0, :3] + np.concatenate([np.zeros((1, 3), np.float32), np.cumsum(steps, 0)])
        rotations = [matrix_of(np, self.state[0, 3:9])]
        for angles in self.action[:-1, 3:6] * spec.max_rot:
            rotations.append(rotated(np, rotations[-1], angles, spec))
        return np.concatenate([position, columns_of(np, np.stack(rotations))], 1, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Episodes recorded under one spec."""

    path: Path
    spec: Spec
    episodes: list[Episode]


@dataclass(frozen=True)
class BuildDatasetJob(Job):
    """Build a dataset at the control rate from bags."""

    command_name: ClassVar[str] = "build-dataset"
    section: ClassVar[str] = "dataset"
    positional: ClassVar[tuple[str, ...]] = ("bags",)
    check_out: ClassVar[Callable[[Path], None]] = staticmethod(require_output)

    bags: tuple[Path, ...]
    """Bags, or folders of bags."""
    out: Path
    """HDF5 file to write; an interrupted build continues."""
    config: DatasetConfig = field(default_factory=DatasetConfig)
    """How bags are aligned."""
    mapping: Path | None = None
    """YAML file that maps the topics of another lab's bags to ours (draft: `diwa inspect BAG --suggest-mapping`)."""

    def run(self) -> None:
        """Build, or continue."""
        build_dataset(self.bags, self.out, self.config, mapping=self.mapping)


def build_dataset(
    bags: Sequence[Path],
    out: Path,
    config: DatasetConfig,
    build: BuildParts = build_parts,
    mapping: Path | None = None,
) -> None:
    """Build the dataset `out` from bags, or folders of bags, of one spec, or from those of others by a `mapping` file.

    Finished episodes survive an interruption in `.<out>.parts` and are taken up by the next run; another config, spec
    or mapping is refused. A dataset that is complete already is left as it is, unless the bags or config differ: an
    error. `build` does the work on each bag, by default in processes of this machine.
    """
    mapped = None if mapping is None else load_mapping(mapping)
    paths = find_bags(bags)
    for folder in map(Path, bags):
        if left := tell_unfinished(folder):
            print(left)
    if mapped is None:
        recordings, spec = [BagRecording(path, config) for path in paths], _common_spec(paths)
        build_file("build-dataset", "episodes", "bags", Path(out), recordings, spec, config, build)
        return
    for path in paths:
        ForeignBag(path, mapped).close()  # what is missing in the last one is told before the first is built
    build_file(
        title="build-dataset",
        unit="bags",
        source="bags",
        out=Path(out),
        recordings=[ForeignRecording(path, config, mapped) for path in paths],
        spec=mapped.spec,
        config=config,
        build=build,
        more={"mapping": plain(mapped)},
    )


@dataclass(frozen=True)
class BagRecording:
    """A bag that becomes one episode, or several where it has gaps."""

    path: Path
    config: DatasetConfig

    @property
    def key(self) -> str:
        """Changes when the bag is recorded or annotated again."""
        files = [self.path / "metadata.yaml", self.path / SIDECAR]
        written = [file.stat().st_mtime_ns if file.is_file() else 0 for file in files]
        return f"{self.path.resolve()} {written}"

    @property
    def size(self) -> int:
        return 1

    @property
    def name(self) -> str:
        return str(self.path)

    def build(self, file: h5py.File) -> float:
        """As `Recording.build`."""
        with Bag(self.path) as bag:
            return align(bag, file, self.config)


@dataclass(frozen=True)
class ForeignRecording(BagRecording):
    """A bag of others that becomes one episode, or several where it is cut or has gaps."""

    mapping: BagMapping

    @property
    def key(self) -> str:
        """Changes when the bag is recorded or annotated again."""
        files = [self.path / METADATA, marks_path(self.path)]
        return f"{self.path.resolve()} {[file.stat().st_mtime_ns if file.is_file() else 0 for file in files]}"

    def build(self, file: h5py.File) -> float:
        """As `Recording.build`."""
        with ForeignBag(self.path, self.mapping, self.config.max_age) as bag:
            return align(bag, file, self.config)


def load_dataset(path: Path, spec: Spec | None = None, images: bool = True) -> Dataset:
    """The whole dataset in memory. Raises `DiwaError` if it was made for another `spec`, and as `open_file` does."""
    path = Path(path)
    with open_file(path) as file, damage_as_error(f"{path} cannot be read as a dataset", CURE):
        stored = read_spec(file, path)
        if spec is not None:
            require_same(spec, stored, str(path))
        return Dataset(path, stored, list(_episodes(file, path, stored, images)))


def _episodes(file: h5py.File, path: Path, spec: Spec, images: bool) -> Iterator[Episode]:
    """All episodes, in order; the layout of all is checked before the first is read."""
    groups = _groups(file, path)
    arrays = {name: _arrays(group, spec, _where(path, name)) for name, group in groups.items()}
    require_room(path, list(arrays.values()))
    for name, group in groups.items():
        yield _load_episode(group, arrays[name], spec, _where(path, name), images)


@contextmanager
def open_episode(path: Path, name: str) -> Iterator[Dataset]:
    """One episode, its images still in the file, read as they are indexed. Raises as `load_dataset` does."""
    path = Path(path)
    with open_file(path) as file:
        with damage_as_error(f"{path} cannot be read as a dataset", CURE):
            groups = _groups(file, path)
            if name not in groups:
                raise DiwaError(f"{path} has no episode {name!r}: it has {min(groups)} to {max(groups)}")
            spec = read_spec(file, path)
            arrays = _arrays(groups[name], spec, _where(path, name))
            episode = _load_episode(groups[name], arrays, spec, _where(path, name), images=False)
            images = {camera.name: arrays[camera.name] for camera in spec.cameras}
        yield Dataset(path, spec, [dataclasses.replace(episode, images=images)])


def _where(path: Path, name: str) -> str:
    return f"{path}: episode {name}"


def _groups(file: h5py.File, path: Path) -> dict[str, h5py.Group]:
    """All episodes, in order. Raises `DiwaError` if there are none."""
    episodes = member(file, "episodes", h5py.Group, str(path))
    groups = {name: member(episodes, name, h5py.Group, str(path)) for name in sorted(episodes)}
    if not groups:
        raise DiwaError(f"{path} holds no episode: {CURE}")
    return groups


def _arrays(group: h5py.Group, spec: Spec, where: str) -> dict[str, h5py.Dataset]:
    """Everything that an episode holds by tick, unread, of the kind and shape that its spec says."""
    optional = [name for name in _OPTIONAL if name in group]
    names = [*_VECTORS, *optional, *(camera.name for camera in spec.cameras)]
    arrays = {name: member(group, name, h5py.Dataset, where) for name in names}
    length = len(arrays["action"]) if arrays["action"].shape else 0
    if length < 2:
        raise DiwaError(f"{where} has {length} ticks, an episode has 2 or more: {CURE}")
    widths = {"state": (spec.state_dim,), "action": (spec.action_dim,), "target": (9,)}
    widths |= {"scene_state": (len(spec.scene_state),)}
    for name in (*_VECTORS, *optional):
        kind = "b" if name == "success" else "f"
        require_rows(arrays[name], kind, (length, *widths.get(name, ())), f"{where}: {name}")
    for camera in spec.cameras:
        require_rows(arrays[camera.name], "u", (length, *camera.size, 3), f"{where}: {camera.name}")
    return arrays


def _load_episode(group: h5py.Group, arrays: dict[str, h5py.Dataset], spec: Spec, where: str, images: bool) -> Episode:
    cameras = [camera.name for camera in spec.cameras]
    rows = {name: stored[:] for name, stored in arrays.items() if name not in cameras}
    vectors = {name: values.astype((_VECTORS | _OPTIONAL)[name], copy=False) for name, values in rows.items()}
    require_values(vectors, where)
    attributes = read_attributes(group, len(vectors["action"]), where)
    attributes["outcome"] = attributes["outcome"] or ("success" if vectors["success"].any() else "none")
    return Episode(
        name=group.name.split("/")[-1],
        images={name: arrays[name][:] for name in cameras} if images else {},
        attributes=attributes,
        **{"scene_state": None} | vectors,
    )


def save_dataset(path: Path, spec: Spec, episodes: Sequence[Episode]) -> None:
    """Write episodes, images included, as `load_dataset` reads them; the file appears whole or not at all."""
    with atomic_path(path) as temporary:
        with new_file(temporary) as file:
            file.attrs.update({"format": FORMAT, "spec": spec.to_json(), "version": __version__})
            for number, episode in enumerate(episodes):
                _write_episode(file.create_group(f"episodes/{number:06d}"), episode, spec)
        write_digest(temporary)


def _write_episode(group: h5py.Group, episode: Episode, spec: Spec) -> None:
    writer = EpisodeWriter(group, spec)
    for row in range(len(episode)):
        writer.add_images({name: images[row] for name, images in episode.images.items()})
    rows = {name: getattr(episode, name) for name in (*_VECTORS, *_OPTIONAL)}
    attributes = episode.attributes | {"labels": json_text(episode.attributes.get("labels", {}))}
    clipped = np.arange(len(episode) - 1) < attributes.get("clipped", 0)  # how many were is all that is kept of it
    writer.finish({name: values for name, values in rows.items() if values is not None}, clipped, attributes)


def _common_spec(paths: list[Path]) -> Spec:
    """The spec all bags share, with the widest of their limits; raises naming the first that differs otherwise."""
    sidecars = [Sidecar.read(path) for path in paths]
    for path, sidecar in zip(paths, sidecars, strict=True):
        require_same(sidecars[0].spec, sidecar.spec, str(path))
    unsealed = [path for path, sidecar in zip(paths, sidecars, strict=True) if sidecar.files is None]
    if unsealed:
        warn_unsealed(f"{len(unsealed)} of {len(paths)} episodes ({unsealed[0]}, ...) are")
    _tell_slow(sidecars)
    return under_all_limits([sidecar.spec for sidecar in sidecars], "the bags")


def _tell_slow(sidecars: Sequence[Sidecar]) -> None:
    """Say which cameras were slower than the contract in how many bags."""
    slow = [sidecar.slow_cameras for sidecar in sidecars]
    for topic in sorted({topic for each in slow for topic in each}):
        rates = [each[topic] for each in slow if topic in each]
        found = f"{topic} came at {min(rates):.1f} to {max(rates):.1f} Hz in {len(rates)} of {len(sidecars)} bags"
        wanted = f"the contract's {sidecars[0].spec.record_rate:g}"
        print(f"{found}, not at {wanted}: its frames are old or missing")


def require_one_skill(episodes: Sequence[Episode], where: object) -> str:
    """The skill that all demonstrations share; an error that lists them when there are several or none."""
    skills = sorted({str(episode.attributes.get("skill", "")) for episode in episodes})
    if len(skills) != 1 or not skills[0]:
        found = ", ".join(skills) if any(skills) else "none"
        raise DiwaError(
            f"{where} must hold demonstrations of one skill, found: {found}. Build one dataset for each skill"
        )
    return skills[0]


def without_failures(demonstrations: Dataset) -> Dataset:
    """The demonstrations that may be imitated: all that are not marked failed. Raises `DiwaError` if none is left.

    Those without a mark stay: marks came late, and recordings of others have none.
    """
    kept = [episode for episode in demonstrations.episodes if episode.outcome != "fail"]
    if not kept:
        raise DiwaError(
            f"{demonstrations.path}: all {len(demonstrations.episodes)} demonstrations are marked failed, so there is "
            "none to imitate: record some that succeed, or correct the marks with 'diwa annotate' and build it again"
        )
    return dataclasses.replace(demonstrations, episodes=kept)


def only_failures(demonstrations: Dataset) -> Dataset:
    """The attempts that are marked failed. Raises `DiwaError` if none is."""
    kept = [episode for episode in demonstrations.episodes if episode.outcome == "fail"]
    if not kept:
        raise DiwaError(
            f"{demonstrations.path}: none of its {len(demonstrations.episodes)} attempts is marked failed: fail at the "
            "skill on purpose and press fail, mark failed attempts with 'diwa annotate', or name another dataset"
        )
    return dataclasses.replace(demonstrations, episodes=kept)


def seal_dataset(path: Path) -> None:
    """Write a new checksum for a dataset. Raises `DiwaError` if it holds what `load_dataset` refuses."""
    with open_file(path, changed_by_hand=True) as file, damage_as_error(f"{path} cannot be read as a dataset", CURE):
        for _ in _episodes(file, path, read_spec(file, path), images=True):
            pass
    write_checksum(path)
