"""CALVIN's data on disk: frames, episodes and annotated segments of a `training` or `validation` folder.

One `episode_0000000.npz` a frame, numbered through all episodes; `ep_start_end_ids.npy` with the first and last frame
of each; `lang_annotations/auto_lang_ann.npy` with the segments whose task was recognised (docs/calvin.md).
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
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
class Stretch:
    """Frames `first` to `last` (inclusive) of a recording, all of one episode."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Annotation:
    """A stretch in which CALVIN recognised a task, and the instruction that it was given."""

    stretch: Stretch
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
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _SHAPES}
    except FileNotFoundError as error:
        raise DiwaError(f"{path} is missing: {_COPY}") from error
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        raise DiwaError(f"{path} is no frame of CALVIN or damaged ({error}): {_COPY}") from error
    for key, array in arrays.items():
        if array.shape != _SHAPES[key] or (key.startswith("rgb") and array.dtype != np.uint8):
            raise DiwaError(f"{path}: {key} is {array.dtype} {array.shape}, CALVIN's is {_SHAPES[key]}: {_COPY}")
        if not key.startswith("rgb") and not np.isfinite(array).all():
            raise DiwaError(f"{path}: {key} is not finite: {_COPY}")
    action = arrays["rel_actions"]
    if abs(action[6]) != 1 or np.abs(action[:6]).max() > 1 + 1e-6:
        raise DiwaError(f"{path}: rel_actions is {action.tolist()}, not in [-1, 1] with a gripper of 1 or -1: {_COPY}")
    images = {"static": arrays["rgb_static"], "gripper": arrays["rgb_gripper"]}
    return CalvinFrame(images, arrays["robot_obs"], arrays["scene_obs"], action, arrays["actions"])


def read_episodes(folder: Path) -> list[Stretch]:
    """The episodes of a folder. Raises `DiwaError` if it is none of CALVIN's."""
    path = folder / EPISODES
    if not path.is_file():
        inside = [name for name in ("training", "validation") if (folder / name / EPISODES).is_file()]
        hint = f"name {folder / inside[0]}" if inside else "name a folder with episode_*.npz, as task_D_D/training"
        raise DiwaError(f"{folder} has no {EPISODES}: {hint}")
    try:
        ids = np.load(path, allow_pickle=False)
        stretches = [Stretch(int(first), int(last)) for first, last in ids]
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise DiwaError(f"{path} cannot be read ({error}): {_COPY}") from error
    if not stretches or any(stretch.first < 0 or stretch.last < stretch.first for stretch in stretches):
        raise DiwaError(f"{path} lists no episodes, or one that ends before it begins: {_COPY}")
    return stretches


def read_annotations(folder: Path) -> list[Annotation]:
    """All annotated stretches, each cut to the episode that it begins in. Raises `DiwaError` if there are none.

    An annotation's frames are taken as inclusive: one more than the annotator's window, where the episode has it.
    """
    path = next((folder / name for name in ANNOTATIONS if (folder / name).is_file()), None)
    if path is None:
        raise DiwaError(f"{folder} has no language annotations ({ANNOTATIONS[0]}): {_COPY}")
    content = load_pickled_array(path)
    try:
        tasks, texts, ids = content["language"]["task"], content["language"]["ann"], content["info"]["indx"]
        rows = [(str(task), str(text), int(a), int(b)) for task, text, (a, b) in zip(tasks, texts, ids, strict=True)]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DiwaError(f"{path} does not hold annotations as CALVIN stores them ({error}): {_COPY}") from error
    episodes = read_episodes(folder)
    return [Annotation(_inside(episodes, first, last, path), task, text) for task, text, first, last in rows]


def _inside(episodes: Sequence[Stretch], first: int, last: int, path: Path) -> Stretch:
    for episode in episodes:
        if episode.first <= first < min(last, episode.last):
            return Stretch(first, min(last, episode.last))
    raise DiwaError(f"{path}: the segment {first} to {last} lies in no episode of {EPISODES}: {_COPY}")


def load_pickled_array(path: Path) -> Any:
    """The object in a `.npy` file that `numpy.save` pickled, such as a dict of lists and arrays.

    Nothing but plain values and numpy's arrays and numbers is made of it: a pickle that names anything else is refused
    with a `DiwaError`, before any of it runs.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else _header_2_0
            shape, _, dtype = read_header(file)
            if not dtype.hasobject:
                raise ValueError(f"it holds {dtype}, not a pickled object")
            array = _PlainUnpickler(file).load()
            return np.asarray(array, object).reshape(shape).item()
    except (OSError, ValueError, EOFError, TypeError, AttributeError, IndexError, pickle.UnpicklingError) as error:
        raise DiwaError(f"{path} cannot be read ({error}): {_COPY}") from error


def _header_2_0(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    return np.lib.format.read_array_header_2_0(file)


_RECONSTRUCT, _SCALAR = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
_FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]
_PLAIN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FROM_BUFFER for core in ("core", "_core")},
    **{("builtins", kind.__name__): kind for kind in (bytearray, complex, frozenset, set, slice)},
}
"""All that annotations may be made of, besides what pickle writes without a name: lists, dicts, text, numbers."""


class _PlainUnpickler(pickle.Unpickler):
    """Makes nothing but plain values and numpy's."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither plain nor numpy's")
        return _PLAIN[module, name]
