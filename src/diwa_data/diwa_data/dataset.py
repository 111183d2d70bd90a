"""Datasets at the control rate: built from bags into one HDF5 file, and loaded from it.

Layout: attributes `spec`, `config`, `version`; `episodes/000000/{static, gripper, state, action, success, stamp,
received[, scene_state]}`, with attributes for skill, source, labels, flagged ticks, clipping and success mark.
Action row t leads from frame t to frame t+1; the last row holds (no motion) and is no training target.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diwa_data.align import DatasetConfig, align_bag
from diwa_data.bag_writer import tell_unfinished
from diwa_data.bags import find_bags
from diwa_data.checksums import warn_unsealed
from diwa_data.dataset_file import build_file, open_file
from diwa_data.errors import DiwaError
from diwa_data.parts import BuildParts, build_parts
from diwa_data.sidecar import SIDECAR, Sidecar
from diwa_data.spec import ActionSpec, Spec, require_same

__all__ = ["Dataset", "DatasetConfig", "Episode", "build_dataset", "load_dataset"]


@dataclass(frozen=True, eq=False)
class Episode:
    """T ticks of one uninterrupted recording."""

    name: str
    """Number in the dataset, six digits."""
    images: dict[str, np.ndarray]
    """Camera name -> (T, 64, 64, 3) uint8 rgb; empty if loaded without images."""
    state: np.ndarray
    """(T, 10) float32: position, 6D rotation, gripper width; metres."""
    action: np.ndarray
    """(T, 7) float32, executed actions; row t leads to frame t+1, the last row holds."""
    success: np.ndarray
    """(T,) bool: at or after the operator's success mark."""
    stamp: np.ndarray
    """(T,) float64: capture time of the static frame, seconds."""
    received: np.ndarray
    """(T,) float64: when that frame arrived, seconds."""
    scene_state: np.ndarray | None
    """(T, N) float64, simulated robot only."""
    attributes: dict[str, Any]
    """skill, source, labels (dict), bag, flagged (tick indices), clipped, clipped_share, success_tick (-1: none)."""

    def __len__(self) -> int:
        return len(self.state)

    def target_position(self, spec: ActionSpec) -> np.ndarray:
        """(T, 3) float32: where the commands had put the target by each frame, metres.

        The hand's first position and the actions since: clipping delays motion and loses none. A robot that runs a
        skill sums its own actions in the same way.
        """
        steps = self.action[:-1, :3] * np.float32(spec.max_pos)
        return self.state[0, :3] + np.concatenate([np.zeros((1, 3), np.float32), np.cumsum(steps, 0)])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Episodes recorded under one spec."""

    path: Path
    spec: Spec
    episodes: list[Episode]


def build_dataset(bags: Sequence[Path], out: Path, config: DatasetConfig, build: BuildParts = build_parts) -> None:
    """Build the dataset `out` from bags, or folders of bags, of one spec.

    Finished episodes survive an interruption in `.<out>.parts` and are taken up by the next run; another config or
    spec is refused. A dataset that is complete already is left as it is, unless the bags or config differ: an error.
    `build` does the work on each bag, by default in processes of this machine.
    """
    paths = find_bags(bags)
    for folder in map(Path, bags):
        if left := tell_unfinished(folder):
            print(left)
    spec = _common_spec(paths)
    recordings = [BagRecording(path, config) for path in paths]
    identity = _identity(recordings, spec, config)
    skipped = build_file("build-dataset", "episodes", Path(out), recordings, identity, config.workers, build)
    if skipped:
        print(f"left out, no two good ticks in a row: {', '.join(skipped)}")


@dataclass(frozen=True)
class BagRecording:
    """A bag that becomes one episode, or several where it has gaps."""

    path: Path
    config: DatasetConfig

    @property
    def part(self) -> str:
        """Changes when the bag is recorded or annotated anew."""
        files = [self.path / "metadata.yaml", self.path / SIDECAR]
        written = [file.stat().st_mtime_ns if file.is_file() else 0 for file in files]
        return hashlib.sha256(f"{self.path.resolve()} {written}".encode()).hexdigest()[:20] + ".h5"

    @property
    def size(self) -> int:
        return 1

    @property
    def name(self) -> str:
        return str(self.path)

    def absolute(self) -> BagRecording:
        """As `Recording.absolute`."""
        return BagRecording(self.path.resolve(), self.config)

    def build(self, file: h5py.File, stopped: Callable[[], bool]) -> float:
        """As `Recording.build`."""
        return align_bag(self.path, file, self.config, stopped).seconds


def load_dataset(path: Path, spec: Spec | None = None, images: bool = True) -> Dataset:
    """The whole dataset in memory. Raises `DiwaError` if it is damaged, holds a NaN or was made for another `spec`."""
    with open_file(Path(path)) as file:
        stored = Spec.from_json(file.attrs["spec"], f"{path}: spec")
        if spec is not None:
            require_same(spec, stored, str(path))
        episodes = [_load_episode(group, stored, f"{path}: episode {name}", images) for name, group in _groups(file)]
    return Dataset(Path(path), stored, episodes)


@contextmanager
def open_episode(path: Path, name: str) -> Iterator[Dataset]:
    """One episode, its images still in the file, read as they are indexed. Raises as `load_dataset` does."""
    with open_file(Path(path)) as file:
        groups = dict(_groups(file))
        if name not in groups:
            raise DiwaError(f"{path} has no episode {name!r}: it has {min(groups)} to {max(groups)}")
        spec = Spec.from_json(file.attrs["spec"], f"{path}: spec")
        episode = _load_episode(groups[name], spec, f"{path}: episode {name}", images=False)
        images = {camera.name: groups[name][camera.name] for camera in spec.cameras}
        yield Dataset(Path(path), spec, [dataclasses.replace(episode, images=images)])


def _groups(file: h5py.File) -> list[tuple[str, h5py.Group]]:
    return sorted(file["episodes"].items())


def _load_episode(group: h5py.Group, spec: Spec, where: str, images: bool) -> Episode:
    cameras = {camera.name: group[camera.name] for camera in spec.cameras}
    vectors = {key: group[key][:] for key in ("state", "action", "success", "stamp", "received")}
    scene = group["scene_state"][:] if "scene_state" in group else None
    length = len(vectors["state"])
    wanted: dict[str, tuple[int, ...]] = {"state": (length, spec.state_dim), "action": (length, spec.action_dim)}
    wanted |= {camera.name: (length, *camera.size, 3) for camera in spec.cameras}
    wanted |= {} if scene is None else {"scene_state": (length, len(spec.scene_state))}
    for key, shape in wanted.items():
        if group[key].shape != shape:
            raise DiwaError(f"{where}: {key} has shape {group[key].shape}, its spec says {shape}: build it again")
    for key, values in (vectors | ({} if scene is None else {"scene_state": scene})).items():
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise DiwaError(
                f"{where}: {key} is not finite at tick {row}: find the bag with 'diwa inspect', build again"
            )
    attributes = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in group.attrs.items()}
    attributes["labels"] = json.loads(attributes["labels"])
    return Episode(
        name=group.name.split("/")[-1],
        images={name: stored[:] for name, stored in cameras.items()} if images else {},
        scene_state=scene,
        attributes=attributes,
        **vectors,
    )


def _common_spec(paths: list[Path]) -> Spec:
    """The spec all bags share; raises naming the first that differs from the first bag's."""
    sidecars = [Sidecar.read(path) for path in paths]
    for path, sidecar in zip(paths, sidecars, strict=True):
        require_same(sidecars[0].spec, sidecar.spec, str(path))
    unsealed = [path for path, sidecar in zip(paths, sidecars, strict=True) if sidecar.files is None]
    if unsealed:
        warn_unsealed(f"{len(unsealed)} of {len(paths)} episodes ({unsealed[0]}, ...) are")
    return sidecars[0].spec


def _identity(recordings: list[BagRecording], spec: Spec, config: DatasetConfig) -> dict[str, Any]:
    """What decides the result; the number of workers does not."""
    settings = dataclasses.asdict(config)
    del settings["workers"]
    bags = hashlib.sha256("".join(each.part for each in recordings).encode()).hexdigest()  # attributes are small
    return {"spec": json.loads(spec.to_json()), "config": settings, "bags": bags}
