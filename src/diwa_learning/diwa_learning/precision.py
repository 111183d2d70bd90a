"""Which arithmetic matrix products and convolutions are done in."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]
"""`auto` is bfloat16 where the device multiplies it, else float32, of which bfloat16 would be an emulation."""

BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Of processors that multiply bfloat16 (x86: flags, ARM: features of /proc/cpuinfo)."""

TENSOR_CORES = (8, 0)
"""Compute capability from which GPUs do (Ampere)."""


def is_half(precision: Precision, device: torch.device) -> bool:
    """Whether it means bfloat16 on this device."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= TENSOR_CORES
    return cpu_multiplies_bfloat16()


@cache
def cpu_multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether all processors of this machine do; no where the system does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = [set(line.partition(":")[2].split()) for line in lines if line.lower().startswith(("flags", "features"))]
    return bool(flags) and all(each & BFLOAT16_FLAGS for each in flags)
