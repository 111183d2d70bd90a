"""Several processes that train one model, started by torchrun: each takes some rows of every batch.

    torchrun --nproc-per-node 2 -m diwa_cli.main train-world-model ...

Every process draws the whole batch's indices and noise from the same generators and keeps its rows; losses are sums
weighted over the whole batch, so that the summed gradients are those of one process with all rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from diwa_data.errors import DiwaError


@dataclass(frozen=True)
class Processes:
    """This process among those of a training."""

    rank: int
    """Number of this one."""
    size: int
    """How many there are."""
    device: torch.device
    """Where this one computes."""

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files and prints."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This process's rows of a batch. Raises `DiwaError` when there are fewer rows than processes."""
        if batch < self.size:
            raise DiwaError(f"a batch of {batch} sequences cannot be split over {self.size} processes: start fewer")
        return slice(self.rank * batch // self.size, (self.rank + 1) * batch // self.size)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors of the same device by their sums over all processes, in one message."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view(tensor.shape))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of the processes; waits for all of them, not for their GPUs."""
        if self.size == 1:
            return flag
        flags = torch.tensor([float(flag)])
        dist.all_reduce(flags)
        return bool(flags > 0)


ALONE = Processes(0, 1, torch.device("cpu"))


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the other processes that torchrun started; alone without it. On a GPU where there is one."""
    gpu, size, local = torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", 1)), os.environ.get("LOCAL_RANK", 0)
    device = torch.device("cuda", int(local)) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if size == 1:
        yield Processes(0, 1, device)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
    try:
        yield Processes(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()
