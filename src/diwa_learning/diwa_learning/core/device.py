"""Where and how training computes: the device, its arithmetic and memory, compiled functions, several processes.

    torchrun --nproc-per-node 2 -m diwa_cli.main train-world-model ...

starts processes that train one model: each takes some rows of every batch. Every one draws the whole batch's indices
and noise from the same generators and keeps its rows; losses are sums weighted over the whole batch, so that the summed
gradients are those of one process with all rows.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from diwa_data.errors import DiwaError

P = ParamSpec("P")
T = TypeVar("T")

Precision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 where the device multiplies it, else float32, of which bfloat16 would be an emulation."""

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors that multiply bfloat16 (x86: flags, ARM: features in /proc/cpuinfo)."""

TENSOR_CORES = (8, 0)
"""Compute capability from which GPUs multiply it (Ampere)."""


def compute_device() -> torch.device:
    """Where training computes: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compiled(function: Callable[P, T], device: torch.device) -> Callable[P, T]:
    """On a GPU, `function` with its kernels, backward pass included, in CUDA graphs: one launch for thousands of them.

    There the result is overwritten by the next call, and random numbers must be drawn outside. On the CPU it is
    `function` itself; so it is on a GPU with `TORCHDYNAMO_DISABLE=1` in the environment.
    """
    return torch.compile(function, mode="reduce-overhead", dynamic=False) if device.type == "cuda" else function


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step on a scalar loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def is_half(precision: Precision, device: torch.device) -> bool:
    """Whether this precision means bfloat16 on this device."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= TENSOR_CORES
    return cpu_multiplies_bfloat16()


@cache
def cpu_multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether all processors of this machine multiply bfloat16; false where the system does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = [set(line.partition(":")[2].split()) for line in lines if line.lower().startswith(("flags", "features"))]
    return bool(flags) and all(each & BFLOAT16_FLAGS for each in flags)


def reuse_freed_memory() -> None:
    """Let glibc keep large freed blocks for the next step instead of handing them back to the kernel.

    Without it a third of a training step on the CPU is page faults of activations. Other C libraries: no effect.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def peak_memory() -> float:
    """Most memory so far, GiB: allocated on the GPU where there is one, else resident on the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """Learning rate of `step`: half a cosine from `first` at step 0 to `last` at step `steps` - 1."""
    progress = step / max(steps - 1, 1)
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


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
