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
    """One camera's frames of several episodes; each of `episodes` is (T, H, W, 3) uint8 and is not copied."""

    def __init__(self, episodes: Sequence[np.ndarray]):
        self._episodes = [torch.from_numpy(frames) for frames in episodes]
        sizes = np.array([len(frames) for frames in episodes])
        self._first = sizes.cumsum() - sizes
        self._together: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return sum(frames.nbytes for frames in self._episodes)

    def move(self, device: torch.device | str) -> None:
        """Hold all frames as one tensor on `device`, and no longer on the host."""
        rows = sum(len(frames) for frames in self._episodes)
        self._together = torch.empty(rows, *self._episodes[0].shape[1:], dtype=torch.uint8, device=device)
        for first, frames in zip(self._first, self._episodes, strict=True):
            self._together[first : first + len(frames)].copy_(frames)
        self._episodes = []

    def gather(self, episode: np.ndarray, frame: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """Frames number `frame` (B, T) of the episodes number `episode` (B,) -> (B, T, H, W, 3) on `device`."""
        if self._together is not None:
            rows = to_device(torch.from_numpy(self._first[episode][:, None] + frame), device)
            return self._together.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        on_gpu = torch.device(device).type == "cuda"
        gathered = torch.empty(*frame.shape, *self._episodes[0].shape[1:], dtype=torch.uint8, pin_memory=on_gpu)
        for row, number, chosen in zip(gathered, episode, torch.from_numpy(frame), strict=True):
            torch.index_select(self._episodes[number], 0, chosen, out=row)
        return gathered.to(device, non_blocking=True)


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
    """(B, T, 3) commanded position, metres."""
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
        self.length, self.null_action = length, torch.from_numpy(spec.action.null)
        self._sizes = np.array([len(episode) for episode in episodes])
        self._ends = self._sizes.cumsum()
        self.frames = int(self._ends[-1])
        """Frames of all episodes."""
        self.device = torch.device("cpu")
        """Of the batches."""
        self._images = {
            camera.name: Frames([episode.images[camera.name] for episode in episodes]) for camera in spec.cameras
        }
        states = [model_state(episode.state, episode.scene_state, hybrid) for episode in episodes]
        self.state = torch.from_numpy(np.concatenate(states))
        targets = [episode.target_position(spec.action) for episode in episodes]
        self.target = torch.from_numpy(np.concatenate(targets))
        self.actions = torch.from_numpy(np.concatenate([episode.action for episode in episodes]))

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
        return self.gather(*self.draw(batch, rng))

    def draw(self, batch: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Episode and start (B,) of `batch` random sequences."""
        episode = np.searchsorted(self._ends, rng.integers(self.frames, size=batch), side="right")
        return episode, (rng.random(batch) * self._starts()[episode]).astype(np.int64)

    def spread(self, count: int) -> Batch:
        """Up to `count` different sequences spread evenly over the frames of all episodes; always the same ones."""
        frame = (np.arange(count) + 0.5) * self.frames / count
        episode = np.searchsorted(self._ends, frame, side="right")
        start = np.minimum(frame.astype(np.int64) - self._first(episode), self._starts()[episode] - 1)
        distinct = np.unique(np.stack([episode, start]), axis=1)
        return self.gather(distinct[0], distinct[1])

    def gather(self, episode: np.ndarray, start: np.ndarray) -> Batch:
        """The sequences that begin at frame `start` (B,) of the episodes numbered `episode` (B,)."""
        within = np.minimum(start[:, None] + np.arange(self.length), self._sizes[episode][:, None] - 1)
        index = to_device(torch.from_numpy(self._first(episode)[:, None] + within), self.device)  # (B, T)
        images = {name: frames.gather(episode, within, self.device) for name, frames in self._images.items()}
        actions = shift_actions(self.actions[index], self.null_action)
        return Batch(images, self.state[index], self.target[index], actions, self.valid(episode, start))

    def valid(self, episode: np.ndarray, start: np.ndarray) -> Tensor:
        """(B, T) bool: which frames of these sequences lie inside their episode."""
        inside = start[:, None] + np.arange(self.length) < self._sizes[episode][:, None]
        return to_device(torch.from_numpy(inside), self.device)

    def some_images(self, count: int) -> dict[str, Tensor]:
        """Camera -> (N, H, W, 3) uint8: at most about `count` frames, evenly over all."""
        rows = np.arange(0, self.frames, max(1, self.frames // count))
        episode = np.searchsorted(self._ends, rows, side="right")
        within = (rows - self._first(episode))[:, None]
        return {name: frames.gather(episode, within, self.device)[:, 0] for name, frames in self._images.items()}

    def state_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (S,) of the states."""
        return self.state.mean(0), self.state.std(0, correction=0)

    def _first(self, episode: np.ndarray) -> np.ndarray:
        return self._ends[episode] - self._sizes[episode]

    def _starts(self) -> np.ndarray:
        """Starts per episode from which a whole sequence fits; at least one."""
        return np.maximum(self._sizes - self.length + 1, 1)


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


def _content(fingerprint: str) -> str:
    """A fingerprint without the file's name."""
    return fingerprint.rpartition(": ")[2]
