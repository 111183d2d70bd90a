"""Training at the paper's scale on one GPU: one command, one table, kept in docs/results/bench_gpu.json.

    python benchmarks/gpu.py                     # about eight minutes on an H200
    python benchmarks/gpu.py --small --out X.json    # the same path in small, also on a CPU

World-model updates against the plain float32 implementation, with the share of the measured bfloat16 peak; fine-tuning
of one run against the plain implementation; 24 stacked runs against one after the other. Figures for 5 M imagined
actions are those of some iterations times their number.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from finetuning import Ours, Parts, Plain
from reference import world_model as plain_world_model
from world_model import random_batch

from diwa_data.config import load_section
from diwa_data.spec import Spec
from diwa_learning.core.device import compiled, compute_device, peak_memory, reuse_freed_memory
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel, draw
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
    """How many times faster than the plain implementation, or than one after the other."""


def seconds(work: Callable[[], object], rounds: int, warm_up: int = 5) -> float:
    """Of one call, the mean of `rounds` after some that are not counted (kernels are chosen, graphs captured)."""
    for _ in range(warm_up):
        work()
    wait()
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    wait()
    return (time.perf_counter() - started) / rounds


def wait() -> None:
    """For the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def world_model_rows(config: WorldModelConfig, rounds: int) -> list[Row]:
    """Updates per second, ours and plain, and the share of the peak."""
    device, spec = compute_device(), Spec()
    batch = random_batch(config).to(device)
    model = WorldModel(config, spec).to(device)
    optimizer, draws = adamw(model, config), draw(batch.valid, config)
    loss_of = compiled(model.loss, device)

    def ours() -> None:
        loss_of(batch, draw(batch.valid, config)).total.backward()
        update(model, optimizer, config.gradient_clip)

    plain = plain_world_model.PlainWorldModel(config, spec).to(device)
    plain_optimizer = plain_world_model.adamw(plain, config)
    parts = (batch.images, batch.state, batch.previous_actions, draws.reset, draws.noise)

    def theirs() -> None:
        plain_world_model.update(plain, plain_optimizer, plain.loss(*parts), config.gradient_clip)

    mine, other = seconds(ours, rounds), seconds(theirs, max(rounds // 5, 1), 2)
    peak = matmul_peak(device, size=8192 if torch.cuda.is_available() else 2048)
    work = config.batch_size * config.sequence_length * training_flops(model)
    return [
        Row("bf16_matmul_peak", peak / 1e12, "TFLOP/s"),
        Row("world_model", 1 / mine, "updates/s", 30, other / mine),
        Row("world_model_share_of_peak", 100 * work / mine / peak, "%"),
    ]


def finetuning_rows(sizes: WorldModelConfig, config: FinetuneConfig, runs: int, rounds: int) -> list[Row]:
    """Seconds for all iterations of one run and of many, from some of them."""
    model = WorldModel(sizes, Spec()).eval().requires_grad_(False).to(compute_device())
    dream, ppo = config.dream, config.ppo
    parts = [Parts.make(model, ppo) for _ in range(runs)]
    one = seconds(Ours(model, parts[:1], dream, ppo).iteration, rounds)
    plain = seconds(Plain(model, parts[0], dream, ppo).iteration, max(rounds // 5, 1), 1)
    many = seconds(Ours(model, parts, dream, ppo).iteration, max(rounds // 5, 1))
    return [
        Row("one_run_5M_actions", one * config.iterations, "s", 120, plain / one),
        Row(f"{runs}_runs_5M_actions_each", many * config.iterations, "s", 600, runs * one / many),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/bench_gpu.json"))
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="toy sizes: shows that it runs, its figures mean nothing")
    arguments = parser.parse_args()
    reuse_freed_memory()
    torch.manual_seed(0)
    sizes = load_section(WorldModelConfig, "world_model", "paper")
    config = load_section(FinetuneConfig, "finetune", "paper")
    if arguments.small:
        sizes = replace(sizes, **SMALL)
        config = replace(config, dream=replace(config.dream, dreams=4, chunks=4), ppo=replace(config.ppo, epochs=1))
    rows = world_model_rows(sizes, arguments.rounds)
    rows += finetuning_rows(sizes, config, arguments.runs, arguments.rounds)
    rows.append(Row("peak_memory", peak_memory(), "GiB"))
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
