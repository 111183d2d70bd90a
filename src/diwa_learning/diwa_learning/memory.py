"""Memory of a training: what it took at most, and what it need not ask the system for again."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress

import torch


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
