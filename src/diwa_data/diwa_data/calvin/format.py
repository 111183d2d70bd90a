"""CALVIN's data on disk: frames, episodes and annotated segments of a `training` or `validation` folder.

One `episode_0000000.npz` a frame, numbered through all episodes; `ep_start_end_ids.npy` with the first and last frame
of each; `lang_annotations/auto_lang_ann.npy` with the segments whose task was recognised (docs/calvin.md).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.calvin import plain_pickle
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.pose import Pose

EPISODES = "ep_start_end_ids.npy"
ANNOTATIONS = ("lang_annotations/auto_lang_ann.npy", "auto_lang_ann.npy")
"""Where the annotations lie: in CALVIN's own order of looking."""
_SHAPES = {
    "rgb_static": (200, 200, 3),
    "rgb_gripper": (84, 84, 3),
    "robot_obs": (15,),
    "scene_obs": (24,),
    "rel_actions": (7,),
    "actions": (7,),
}
_MOST = 200 * 200 * 3 * 8  # bytes of the largest array of a frame, whatever its dtype
_COPY = "copy it from CALVIN's archive again"


@dataclass(frozen=True, eq=False)
class CalvinFrame:
    """One frame of a recording at 30 Hz."""

    images: dict[str, np.ndarray]
    """static (200, 200, 3) and gripper (84, 84, 3), uint8 rgb."""
    robot: np.ndarray
    """(15,): position (m) and Euler angles (rad) of the point between the fingertips in the world, gripper width (m),
    seven joint angles (rad), last gripper command."""
    scene: np.ndarray
    """(24,) as named by the scene state of `spec.CALVIN`."""
    action: np.ndarray
    """(7,) relative action that leads to the next frame, scaled and clipped to [-1, 1]."""
    target: np.ndarray
    """(7,) the same as an absolute one: position, Euler angles, gripper."""


@dataclass(frozen=True)
class FrameRange:
    """Frames `first` to `last` (inclusive) of a recording, all of one episode."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Annotation:
    """A segment in which CALVIN recognised a task, and the instruction that it was given."""

    segment: FrameRange
    task: str
    instruction: str


def pose_of(vector: np.ndarray) -> Pose:
    """The pose in a robot observation or an absolute action: position and extrinsic XYZ Euler angles first."""
    return Pose(np.asarray(vector[:3], float), Rotation.from_euler("xyz", np.asarray(vector[3:6], float)))


def frame_path(folder: Path, number: int) -> Path:
    """File of a frame."""
    return folder / f"episode_{number:07d}.npz"


def read_frame(path: Path) -> CalvinFrame:
    """One frame. Raises `DiwaError` naming the file if it is missing, damaged or not CALVIN's."""
    if not path.is_file():
        raise DiwaError(f"{path} is missing: {_COPY}")
    with damage_as_error(f"{path} is not a frame of CALVIN or damaged", _COPY), zipfile.ZipFile(path) as archive:
        arrays = {}
        for key in _SHAPES:
            with archive.open(f"{key}.npy") as file:
                arrays[key] = read_array(file)
    for key, array in arrays.items():
        if array.shape != _SHAPES[key] or (array.dtype == np.uint8) != key.startswith("rgb"):
            raise DiwaError(f"{path}: {key} is {array.dtype} {array.shape}, CALVIN's is {_SHAPES[key]}: {_COPY}")
        if not key.startswith("rgb") and not np.isfinite(array).all():
            raise DiwaError(f"{path}: {key} is not finite: {_COPY}")
    action = arrays["rel_actions"]
    if abs(action[6]) != 1 or np.abs(action[:6]).max() > 1 + 1e-6:
        raise DiwaError(f"{path}: rel_actions is {action.tolist()}, not in [-1, 1] with a gripper of 1 or -1: {_COPY}")
    images = {"static": arrays["rgb_static"], "gripper": arrays["rgb_gripper"]}
    return CalvinFrame(images, arrays["robot_obs"], arrays["scene_obs"], action, arrays["actions"])


def read_episodes(folder: Path) -> list[FrameRange]:
    """The episodes of a folder. Raises `DiwaError` if it is none of CALVIN's."""
    path = folder / EPISODES
    if not path.is_file():
        inside = [name for name in ("training", "validation") if (folder / name / EPISODES).is_file()]
        hint = f"name {folder / inside[0]}" if inside else "name a folder with episode_*.npz, as task_D_D/training"
        raise DiwaError(f"{folder} has no {EPISODES}: {hint}")
    with damage_as_error(f"{path} cannot be read", _COPY), path.open("rb") as file:
        segments = [FrameRange(int(first), int(last)) for first, last in read_array(file, path.stat().st_size)]
    if not segments or any(segment.first < 0 or segment.last < segment.first for segment in segments):
        raise DiwaError(f"{path} lists no episodes, or one that ends before it begins: {_COPY}")
    return segments


def read_annotations(folder: Path) -> list[Annotation]:
    """All annotated segments, each cut to the episode that it begins in. Raises `DiwaError` if there are none.

    An annotation's frames are taken as inclusive: one more than the annotator's window, where the episode has it.
    """
    path = next((folder / name for name in ANNOTATIONS if (folder / name).is_file()), None)
    if path is None:
        raise DiwaError(f"{folder} has no language annotations ({ANNOTATIONS[0]}): {_COPY}")
    content = load_pickled_array(path)
    with damage_as_error(f"{path} does not hold annotations as CALVIN stores them", _COPY):
        tasks, texts, ids = content["language"]["task"], content["language"]["ann"], content["info"]["indx"]
        rows = [
            (_text(task), _text(text), int(a), int(b)) for task, text, (a, b) in zip(tasks, texts, ids, strict=True)
        ]
    episodes = read_episodes(folder)
    return [Annotation(_inside(episodes, first, last, path), task, text) for task, text, first, last in rows]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a {type(value).__name__} where a task or an instruction should be")
    return str(value)


def _inside(episodes: Sequence[FrameRange], first: int, last: int, path: Path) -> FrameRange:
    for episode in episodes:
        if episode.first <= first < min(last, episode.last):
            return FrameRange(first, min(last, episode.last))
    raise DiwaError(f"{path}: the segment {first} to {last} lies in no episode of {EPISODES}: {_COPY}")


def load_pickled_array(path: Path) -> Any:
    """The object in a `.npy` file that `numpy.save` pickled, such as a dict of lists and arrays.

    Nothing but plain values and numpy's arrays and numbers is made of it, and nothing that the pickle names is called:
    one that asks for anything else is refused with a `DiwaError`.
    """
    with damage_as_error(f"{path} cannot be read", _COPY), path.open("rb") as file:
        shape, _, dtype = read_header(file)
        if not dtype.hasobject or math.prod(shape) != 1:
            raise ValueError(f"it holds {dtype} {shape}, not one pickled object")
        array = plain_pickle.load(file.read())
        if not isinstance(array, np.ndarray) or array.size != 1:
            raise ValueError("it pickles no array of one object")
        return array.reshape(()).item()


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype of a `.npy` file, which is left at its data. Raises `ValueError`."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def read_array(file: IO[bytes], most: int = _MOST) -> np.ndarray:
    """The array of numbers in a `.npy` file. Raises `ValueError` if it is none, or more than `most` bytes."""
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "biuf" or any(size < 0 for size in shape):
        raise ValueError(f"it holds {dtype} {shape}, not plain numbers")
    size = math.prod(shape) * dtype.itemsize
    if size > most:
        raise ValueError(f"it holds {dtype} {shape}, more than {most} bytes")
    content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"it holds {dtype} {shape}, but {'more' if len(content) > size else len(content)} bytes")
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order="F" if fortran else "C")
