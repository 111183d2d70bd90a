"""Replay of recorded episodes: uint8 frames in memory, and batches of sequences cut from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diwa_data.dataset.dataset import Dataset, Episode
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.world_model.rssm import shift_actions


class Frames:
    """One camera's frames of several episodes; each of `episodes` is (T, H, W, 3) uint8 and is not copied.

    A row is the number of a frame, counted through all episodes.
    """

    def __init__(self, episodes: Sequence[np.ndarray]):
        self._episodes = [torch.from_numpy(frames) for frames in episodes]
        self._ends = np.cumsum([len(frames) for frames in episodes])
        self._together: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return sum(frames.nbytes for frames in self._episodes)

    def move(self, device: torch.device | str) -> None:
        """Hold all frames as one tensor on `device`, and no longer on the host."""
        self._together = torch.empty(self._ends[-1], *self._episodes[0].shape[1:], dtype=torch.uint8, device=device)
        for end, frames in zip(self._ends, self._episodes, strict=True):
            self._together[end - len(frames) : end].copy_(frames)
        self._episodes = []

    def gather(self, rows: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """Frames of `rows` (B, T) -> (B, T, H, W, 3) on `device`; those of a line are of one episode."""
        if self._together is not None:
            index = to_device(torch.from_numpy(rows), device)
            return self._together.index_select(0, index.flatten()).unflatten(0, index.shape)
        on_gpu = torch.device(device).type == "cuda"
        gathered = torch.empty(*rows.shape, *self._episodes[0].shape[1:], dtype=torch.uint8, pin_memory=on_gpu)
        for line, number, chosen in zip(gathered, find_episodes(self._ends, rows[:, 0]), rows, strict=True):
            frames = self._episodes[number]
            torch.index_select(frames, 0, torch.from_numpy(chosen - self._ends[number] + len(frames)), out=line)
        return gathered.to(device, non_blocking=True)


def find_episodes(ends: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Numbers (...) of the episodes in which `rows` (...) lie; they end before the rows `ends`."""
    return np.searchsorted(ends, rows, side="right")


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A host tensor on `device`; a copy to a GPU does not wait for it."""
    on_gpu = torch.device(device).type == "cuda"
    return tensor.pin_memory().to(device, non_blocking=True) if on_gpu else tensor.to(device)


def model_state(robot: np.ndarray, scene: np.ndarray | None, hybrid: bool) -> np.ndarray:
    """The state (..., S) float32 that a world model sees: the robot's, in the hybrid one the scene state behind it.

    The same for recordings and for a robot that acts. Raises `DiwaError` if a hybrid model is given no scene state.
    """
    if not hybrid:
        return robot.astype(np.float32, copy=False)
    if scene is None:
        raise DiwaError(
            "this world model sees the scene state, which is not known here: only the simulated robot within "
            "`diwa` knows it. Use a world model trained with scene_state: false"
        )
    return np.concatenate([robot, scene], -1).astype(np.float32)


@dataclass(frozen=True)
class Batch:
    """B sequences of T frames, each from inside one episode."""

    images: dict[str, Tensor]
    """Camera -> (B, T, H, W, 3) uint8."""
    state: Tensor
    """(B, T, S) robot state, in the hybrid variant the scene state behind it."""
    target: Tensor
    """(B, T, 9) commanded pose: position in metres and 6D rotation."""
    previous_actions: Tensor
    """(B, T, A) executed actions that led to each frame; the null action before the first one of the sequence."""
    valid: Tensor
    """(B, T) bool: false where a sequence outlasts its episode and repeats the last frame."""

    def to(self, device: torch.device | str) -> Batch:
        """This batch on `device`."""
        images, *others = vars(self).values()
        moved = {name: image.to(device, non_blocking=True) for name, image in images.items()}
        return Batch(moved, *(part.to(device, non_blocking=True) for part in others))


class ReplayBuffer:
    """Sequences of `length` frames from `episodes`, whose images stay where they lie in memory.

    An episode is drawn in proportion to its frames, a start uniformly among those that fit: short demonstrations
    weigh as much per frame as hours of play. An episode shorter than `length` gives one start, padded; one with
    fewer than `shortest` frames is left out. `hybrid` adds the scene state.
    """

    def __init__(self, episodes: Sequence[Episode], spec: Spec, length: int, shortest: int = 2, hybrid: bool = False):
        longest = max((len(episode) for episode in episodes), default=0)
        if longest < shortest:
            raise DiwaError(f"no episode has {shortest} frames, the longest has {longest}: record longer ones")
        episodes = [episode for episode in episodes if len(episode) >= shortest]
        self.length, self.device, self.null_action = length, torch.device("cpu"), torch.from_numpy(spec.action.null)
        self._sizes = np.array([len(episode) for episode in episodes])
        self._ends = self._sizes.cumsum()
        self.frames = int(self._ends[-1])
        """Number of frames in all episodes."""
        names = [camera.name for camera in spec.cameras]
        self._images = {name: Frames([episode.images[name] for episode in episodes]) for name in names}
        states = [model_state(episode.state, episode.scene_state, hybrid) for episode in episodes]
        targets = [episode.targets(spec.action) for episode in episodes]
        columns = (states, targets, [episode.action for episode in episodes])
        self.state, self.target, self.actions = (torch.from_numpy(np.concatenate(column)) for column in columns)

    def to(self, device: torch.device) -> ReplayBuffer:
        """Give batches on `device` from now on. A GPU takes all frames if they fill no more than half its free memory;
        else each batch is copied to it."""
        self.device = device
        self.state, self.target, self.actions, self.null_action = (
            part.to(device) for part in (self.state, self.target, self.actions, self.null_action)
        )
        size = sum(frames.nbytes for frames in self._images.values())
        if device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] / 2:
            for frames in self._images.values():
                frames.move(device)
        return self

    def sample(self, batch: int, rng: np.random.Generator) -> Batch:
        """`batch` random sequences."""
        return self.gather(self.draw(batch, rng))

    def draw(self, batch: int, rng: np.random.Generator) -> np.ndarray:
        """First rows (B,) of `batch` random sequences."""
        episode = find_episodes(self._ends, rng.integers(self.frames, size=batch))
        return self._first(episode) + (rng.random(batch) * self._starts(episode)).astype(np.int64)

    def spread(self, count: int) -> Batch:
        """Up to `count` different sequences spread evenly over the frames of all episodes; always the same ones."""
        row = ((np.arange(count) + 0.5) * self.frames / count).astype(np.int64)
        episode = find_episodes(self._ends, row)
        return self.gather(np.unique(np.minimum(row, self._first(episode) + self._starts(episode) - 1)))

    def gather(self, first: np.ndarray) -> Batch:
        """The sequences that begin at the rows `first` (B,)."""
        last = self._ends[find_episodes(self._ends, first)][:, None] - 1
        rows = np.minimum(first[:, None] + np.arange(self.length), last)  # (B, T)
        index = to_device(torch.from_numpy(rows), self.device)
        images = {name: frames.gather(rows, self.device) for name, frames in self._images.items()}
        actions = shift_actions(self.actions[index], self.null_action)
        return Batch(images, self.state[index], self.target[index], actions, self.valid(first))

    def valid(self, first: np.ndarray) -> Tensor:
        """(B, T) bool: which frames of the sequences that begin at the rows `first` (B,) lie inside their episode."""
        end = self._ends[find_episodes(self._ends, first)][:, None]
        return to_device(torch.from_numpy(first[:, None] + np.arange(self.length) < end), self.device)

    def images(self, rows: np.ndarray) -> dict[str, Tensor]:
        """Camera -> (N, H, W, 3) uint8: the frames of `rows` (N,)."""
        return {name: frames.gather(rows[:, None], self.device)[:, 0] for name, frames in self._images.items()}

    def some_images(self, count: int) -> dict[str, Tensor]:
        """Camera -> (N, H, W, 3) uint8: at most about `count` frames, evenly over all."""
        return self.images(np.arange(0, self.frames, max(1, self.frames // count)))

    def some_pairs(self, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """At most about `count` frames, evenly over all, and the frame after each: camera -> (N, H, W, 3) uint8."""
        rows = np.arange(0, self.frames - 1, max(1, self.frames // count))
        rows = rows[~np.isin(rows + 1, self._ends)]  # an episode's last frame has none after it
        return self.images(rows), self.images(rows + 1)

    def _first(self, episode: np.ndarray) -> np.ndarray:
        return self._ends[episode] - self._sizes[episode]

    def _starts(self, episode: np.ndarray) -> np.ndarray:
        """Starts in these episodes from which a whole sequence fits; at least one."""
        return np.maximum(self._sizes[episode] - self.length + 1, 1)


def split_held_out(
    datasets: Sequence[Dataset], share: float, rng: np.random.Generator
) -> tuple[list[Episode], list[Episode]]:
    """(training, held-out) episodes: `share` of each dataset's episodes at random, at least one where it has two."""
    training: list[Episode] = []
    held_out: list[Episode] = []
    for dataset in datasets:
        chosen = _draw_held_out(len(dataset.episodes), share, rng)
        for number, episode in enumerate(dataset.episodes):
            (held_out if number in chosen else training).append(episode)
    if not held_out:
        names = ", ".join(str(dataset.path) for dataset in datasets)
        raise DiwaError(f"{names}: one episode is kept for the open-loop check, so a dataset needs at least two")
    return training, held_out


def held_out_of(dataset: Dataset, trained_on: Sequence[str], share: float, rng: np.random.Generator) -> list[Episode]:
    """The episodes of `dataset` that no training saw, given the fingerprints of what was trained on.

    Those that `split_held_out` kept if it was one of these, all otherwise. Raises `DiwaError` if there are none.
    """
    mine = _content(fingerprint(dataset))
    for other in trained_on:
        chosen = _draw_held_out(int(_content(other).split()[0]), share, rng)
        if _content(other) == mine:
            episodes = [episode for number, episode in enumerate(dataset.episodes) if number in chosen]
            if not episodes:
                raise DiwaError(f"{dataset.path}: the world model was trained on all of it; name another dataset")
            return episodes
    return dataset.episodes


def _draw_held_out(count: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Numbers of the episodes to hold out of `count`."""
    return rng.permutation(count)[: max(round(share * count), 1) if count > 1 else 0]


def fingerprint(dataset: Dataset) -> str:
    """A line that identifies the content of a dataset, wherever its file lies."""
    digest = hashlib.sha256()
    for episode in dataset.episodes:
        digest.update(episode.state.tobytes())
        digest.update(episode.action.tobytes())
    frames = sum(len(episode) for episode in dataset.episodes)
    return f"{dataset.path.name}: {len(dataset.episodes)} episodes, {frames} frames, {digest.hexdigest()[:12]}"


def learned_from(dataset: Dataset, trained_on: Sequence[str]) -> bool:
    """Whether a dataset of this content is among the fingerprints of what was trained on."""
    return _content(fingerprint(dataset)) in map(_content, trained_on)


def _content(fingerprint: str) -> str:
    """A fingerprint without the file's name."""
    return fingerprint.rpartition(": ")[2]
