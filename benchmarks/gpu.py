"""Training at the paper's scale on one GPU: one command, one table, kept in docs/results/bench_gpu.json.

    python benchmarks/gpu.py                     # about eight minutes on an H200
    python benchmarks/gpu.py --small --out X.json    # the same path in small, also on a CPU

World-model updates, with the share of the measured bfloat16 peak, and fine-tuning, both compiled
(`diwa_learning.core.device.compiled`) and eager; then several fine-tunings at a time on the device, each a process.
Figures for 5 M imagined actions are those of some iterations times their number.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from finetuning import Ours, Parts
from world_model import random_batch

from diwa_data.config import load_section
from diwa_data.spec import Spec
from diwa_learning.core.device import compiled, compute_device, peak_memory, reuse_freed_memory
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.draws import draw
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_learning.world_model.train import adamw, matmul_peak, training_flops, update

SMALL = {
    "depth": 4,
    "rssm": RSSMConfig(recurrent=32, categoricals=4, classes=4, hidden=32),
    "batch_size": 4,
    "sequence_length": 8,
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    value: float
    unit: str
    target: float | None = None
    ratio: float | None = None
    """How many times faster than eager, or than as many runs one after the other."""


@dataclass(frozen=True)
class Sizes:
    """Sizes that are measured."""

    world_model: WorldModelConfig
    finetune: FinetuneConfig
    rounds: int
    """Timed calls after a warm-up, in which kernels are chosen and functions compiled."""

    @staticmethod
    def of(small: bool, rounds: int) -> Sizes:
        world_model = load_section(WorldModelConfig, "world_model", "paper")
        finetune = load_section(FinetuneConfig, "finetune", "paper")
        if small:
            world_model = replace(world_model, **SMALL)
            dream, ppo = replace(finetune.dream, dreams=4, chunks=4), replace(finetune.ppo, epochs=1)
            finetune = replace(finetune, dream=dream, ppo=ppo)
        return Sizes(world_model, finetune, rounds)


def wait() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def world_model_update(sizes: Sizes) -> Callable[[], object]:
    """An update of the world model."""
    config, device = sizes.world_model, compute_device()
    batch, model = random_batch(config).to(device), WorldModel(config, Spec()).to(device)
    optimizer, loss = adamw(model, config), compiled(model.loss, device)

    def work() -> None:
        loss(batch, draw(batch.valid, config)).total.backward()
        update(model, optimizer, config.gradient_clip)

    return work


def finetuning_iteration(sizes: Sizes) -> Callable[[], object]:
    """An iteration of dreams and updates."""
    model = WorldModel(sizes.world_model, Spec()).eval().requires_grad_(False).to(compute_device())
    return Ours(model, Parts.make(model), sizes.finetune.dream, sizes.finetune.ppo).iteration


_barrier: Any = None


def prepare_process(barrier: Any, eager: bool) -> None:
    """Set up a worker process."""
    global _barrier
    _barrier = barrier
    os.environ["TORCHDYNAMO_DISABLE"] = "1" if eager else "0"
    reuse_freed_memory()
    torch.manual_seed(0)


def measure_here(make: Callable[[Sizes], Callable[[], object]], sizes: Sizes) -> tuple[float, float]:
    """Seconds of one call, begun when all processes are warm, and this process's peak memory in GiB."""
    work = make(sizes)
    for _ in range(3):
        work()
    wait()
    _barrier.wait()
    started = time.perf_counter()
    for _ in range(sizes.rounds):
        work()
    wait()
    return (time.perf_counter() - started) / sizes.rounds, peak_memory()


def measure(
    make: Callable[[Sizes], Callable[[], object]], sizes: Sizes, at_a_time: int = 1, eager: bool = False
) -> tuple[float, float]:
    """Seconds of one call in each of so many processes (the slowest), and their peak memory together in GiB."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        at_a_time, context, initializer=prepare_process, initargs=(context.Barrier(at_a_time), eager)
    ) as pool:
        running = [pool.submit(measure_here, make, sizes) for _ in range(at_a_time)]
        seconds, memory = zip(*(each.result() for each in running), strict=True)
    return max(seconds), sum(memory)


def world_model_rows(sizes: Sizes, small: bool) -> list[Row]:
    """Updates per second, and the share of the peak."""
    eager, _ = measure(world_model_update, sizes, eager=True)
    seconds, memory = measure(world_model_update, sizes)
    config, device = sizes.world_model, compute_device()
    peak = matmul_peak(device, size=256 if small else 8192)
    work = config.batch_size * config.sequence_length * training_flops(WorldModel(config, Spec()).to(device))
    return [
        Row("bf16_matmul_peak", peak / 1e12, "TFLOP/s"),
        Row("world_model_eager", 1 / eager, "updates/s"),
        Row("world_model", 1 / seconds, "updates/s", 30, eager / seconds),
        Row("world_model_share_of_peak", 100 * work / seconds / peak, "%"),
        Row("world_model_memory", memory, "GiB"),
    ]


def finetuning_rows(sizes: Sizes, counts: list[int]) -> list[Row]:
    """Seconds for all iterations of one run, and of several at a time."""
    iterations = sizes.finetune.iterations
    eager, _ = measure(finetuning_iteration, sizes, eager=True)
    alone, memory = measure(finetuning_iteration, sizes)
    rows = [
        Row("one_run_5M_actions_eager", eager * iterations, "s"),
        Row("one_run_5M_actions", alone * iterations, "s", 120, eager / alone),
        Row("one_run_memory", memory, "GiB"),
    ]
    for count in counts:
        seconds, memory = measure(finetuning_iteration, sizes, count)
        ratio = count * alone / seconds
        rows.append(Row(f"{count}_at_a_time_5M_actions_each", seconds * iterations, "s", ratio=ratio))
        rows.append(Row(f"{count}_at_a_time_memory", memory, "GiB"))
    return rows


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/bench_gpu.json"))
    parser.add_argument("--at-a-time", type=int, nargs="*", default=[4, 8], help="fine-tunings, beside one alone")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="toy sizes: shows that it runs, its figures mean nothing")
    arguments = parser.parse_args(argv)
    sizes = Sizes.of(arguments.small, arguments.rounds)
    rows = world_model_rows(sizes, arguments.small) + finetuning_rows(sizes, arguments.at_a_time)
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    for row in rows:
        target = f"target {row.target:g}" if row.target else ""
        ratio = f"{row.ratio:.2f} x" if row.ratio else ""
        print(f"{row.name:32} {row.value:>12,.4g} {row.unit:12} {target:12} {ratio}", flush=True)
    about = {"machine": machine, "torch": torch.__version__, "small": arguments.small}
    found = about | {"rows": [asdict(row) for row in rows]}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
