"""The images of recorded episodes in memory, once: on the host as they were loaded, or all together on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


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
