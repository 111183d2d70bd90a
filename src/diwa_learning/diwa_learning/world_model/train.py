"""Phase 1: learn the world model from play and demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from diwa_data.config import Job
from diwa_data.dataset.dataset import Dataset, load_dataset, only_failures
from diwa_data.errors import DiwaError
from diwa_data.spec import under_all_limits
from diwa_learning.core.device import (
    ALONE,
    Processes,
    compiled,
    cosine,
    is_half,
    peak_memory,
    processes,
    set_learning_rate,
)
from diwa_learning.core.run import TrainingRun, require_run_folder
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.draws import Draws, draw
from diwa_learning.world_model.model import WorldModel, WorldModelLoss
from diwa_learning.world_model.open_loop import CONTEXT, HORIZON, OpenLoop, action_check, open_loop, save_filmstrip
from diwa_learning.world_model.replay import Batch, ReplayBuffer, fingerprint, split_held_out


@torch.no_grad()
def training_flops(model: WorldModel) -> float:
    """Floating point operations of an update, per frame: three times those of the loss; products alone count."""
    shape, spec, device = (1, model.config.sequence_length), model.spec, model.device
    images = {c.name: torch.zeros(*shape, *c.size, 3, dtype=torch.uint8, device=device) for c in spec.cameras}
    state, target, actions = (
        torch.zeros(*shape, size, device=device) for size in (model.state_dim, 9, spec.action_dim)
    )
    valid = torch.ones(shape, dtype=torch.bool, device=device)
    onednn, *_ = torch.backends.mkldnn.set_flags(False)  # with it, some convolutions spend more operations to be fast
    try:
        with FlopCounterMode(display=False) as counter:
            model.loss(Batch(images, state, target, actions, valid))
    finally:
        torch.backends.mkldnn.set_flags(onednn)
    return 3 * counter.get_total_flops() / shape[1]


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.bfloat16, size: int = 8192) -> float:
    """Operations per second of the best of several products of two large matrices."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timer = Timer("left @ right", globals={"left": left, "right": right}, num_threads=torch.get_num_threads())
    return 2 * size**3 / min(timer.timeit(1).mean for _ in range(5))


SHORT_CHECK, FULL_CHECK = 4, 16
"""Held-out clips of the checks during training, and of the one at its end."""
STATISTICS_FRAMES = 2000
"""Frames, evenly over all, that the mean images come from."""
SLOW_FRAMES = 4000
"""Frames, evenly over all, that are compared with the ones after them to find the slow features."""


@dataclass(frozen=True)
class WorldModelJob(Job):
    """Train a world model on datasets of play."""

    command_name: ClassVar[str] = "train-world-model"
    section: ClassVar[str] = "world_model"

    datasets: tuple[Path, ...]
    """HDF5 files of `diwa build-dataset`."""
    out: Path
    """Checkpoint folder; an interrupted training continues."""
    config: WorldModelConfig = field(default_factory=WorldModelConfig)
    """Sizes and schedule."""
    attempts: tuple[Path, ...] = ()
    """HDF5 files of demonstrations whose failed attempts are trained on too. Their successes are not: there, the hand
    is where a skill ends only when it is done, and a model that believes this dreams of success."""

    def run(self) -> None:
        """Train, or continue."""
        train_world_model(self)


def train_world_model(job: WorldModelJob) -> None:
    """Train on datasets and failed attempts; leave the checkpoint, curves and the open-loop filmstrip in `job.out`.

    An interrupted run continues; a finished one is left as it is. Raises `DiwaError` for datasets of different specs,
    damaged ones or (hybrid variant) ones without scene state, for a loss that is not a number, and for an `out` that
    holds something else.
    """
    out, config = job.out, job.config
    require_run_folder(out)
    loaded = load_datasets(job.datasets)
    loaded += [only_failures(load_dataset(path, loaded[0].spec)) for path in job.attempts]
    if config.scene_state:
        require_scene_state(loaded)
    spec = under_all_limits([dataset.spec for dataset in loaded], "the datasets")
    inputs = {"datasets": [fingerprint(dataset) for dataset in loaded]}
    with processes() as group, TrainingRun(out, "world_model", config, spec, inputs=inputs, processes=group) as run:
        if run.finished:
            return
        training, held_out = split_held_out(loaded, config.held_out, run.rng)
        replay = ReplayBuffer(training, spec, config.sequence_length, hybrid=config.scene_state)
        clips = ReplayBuffer(held_out, spec, CONTEXT + HORIZON, shortest=CONTEXT + 1, hybrid=config.scene_state)
        del loaded, training, held_out  # a GPU takes their frames
        model = WorldModel(config, spec)
        model.set_state_statistics(replay.state.mean(0), replay.state.std(0, correction=0))
        model.set_image_statistics(replay.some_images(STATISTICS_FRAMES))
        if config.slow_features:
            model.set_slow_features(*replay.some_pairs(SLOW_FRAMES))
        optimizer = adamw(model.to(group.device), config)
        replay.to(group.device)
        if group.main:
            size, data = parameters(model) / 1e6, f"{replay.frames:,} frames, {clips.frames:,} held out"
            print(f"world_model: {size:.1f} M parameters in {arithmetic(model)}, {data}")
        run.track(model=model, optimizer=optimizer)

        per_step = config.batch_size * config.sequence_length
        loss_of = compiled(model.loss, group.device) if config.graphs else model.loss
        for step in run.steps(config.updates, "frames", per_step):
            rate = cosine(step, config.updates, config.learning_rate, config.final_learning_rate)
            set_learning_rate(optimizer, rate)
            batch, draws = sample(replay, config, group, run.rng)
            loss = loss_of(batch, draws)
            loss.total.backward()
            norm = update(model, optimizer, config.gradient_clip, group)
            run.watch(loss=loss.total, gradient_norm=norm)
            if step % config.log_every == 0:
                run.log(step, curves(loss, norm, group))
            if (step + 1) % config.check_every == 0 and step + 1 < config.updates and group.main:
                means = check(model, clips.spread(SHORT_CHECK).to(group.device), run).summary()
                run.add(step, {name: value for name, value in means.items() if isinstance(value, float)})
        if group.main:
            finish(run, model, replay, clips, per_step)


def sample(
    replay: ReplayBuffer, config: WorldModelConfig, group: Processes, rng: np.random.Generator
) -> tuple[Batch, Draws]:
    """This process's rows of the next batch and of what is drawn for it: all processes draw the whole batch's."""
    first, rows = replay.draw(config.batch_size, rng), group.rows(config.batch_size)
    draws = draw(replay.valid(first), config)
    return replay.gather(first[rows]), Draws(*(drawn[rows] for drawn in vars(draws).values()))


def load_datasets(paths: Sequence[Path]) -> list[Dataset]:
    """Load datasets that must share one spec."""
    if not paths:
        raise DiwaError("no dataset given: name one or more files made by `diwa build-dataset`")
    first = load_dataset(paths[0])
    return [first, *(load_dataset(path, first.spec) for path in paths[1:])]


def require_scene_state(datasets: Sequence[Dataset]) -> None:
    """Raise `DiwaError` naming the first dataset in which an episode has no scene state."""
    for dataset in datasets:
        if not dataset.spec.scene_state or any(episode.scene_state is None for episode in dataset.episodes):
            raise DiwaError(
                f"{dataset.path} holds no scene state, which the hybrid variant needs and only the simulated robot "
                "records: set world_model.scene_state to false (--no-scene-state), or name another dataset"
            )


def adamw(model: nn.Module, config: WorldModelConfig) -> torch.optim.AdamW:
    """AdamW with the decoupled weight decay of the paper."""
    return torch.optim.AdamW(
        model.parameters(), config.learning_rate, eps=config.adam_eps, weight_decay=config.weight_decay, fused=True
    )


def update(model: nn.Module, optimizer: torch.optim.Optimizer, clip: float, group: Processes = ALONE) -> torch.Tensor:
    """One optimiser step from the gradients of all processes; returns their norm before clipping."""
    group.sum([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def curves(loss: WorldModelLoss, norm: Tensor, group: Processes) -> dict[str, Tensor]:
    """Values of the learning curves after one update, of all processes together."""
    parts = torch.stack(
        [loss.total.detach(), loss.kl, loss.image, loss.robot_state, loss.components, loss.slow, loss.posterior_entropy]
    )
    group.sum([parts])
    names = ("loss", "kl", "image_loss", "robot_state_loss", "component_loss", "slow_loss", "posterior_entropy")
    return {**dict(zip(names, parts.cpu(), strict=True)), "gradient_norm": norm}


def finish(run: TrainingRun, model: WorldModel, replay: ReplayBuffer, clips: ReplayBuffer, per_step: int) -> None:
    """Check the model at length and leave it as a checkpoint."""
    frames_per_s = run.step * per_step / max(run.seconds, 1e-9)
    final = clips.spread(FULL_CHECK).to(run.processes.device)
    result = check(model, final, run)
    metrics = {
        "parameters": parameters(model),
        "frames": replay.frames,
        "held_out_frames": clips.frames,
        "frames_per_s": round(frames_per_s, 1),
        "arithmetic": arithmetic(model),
        "peak_memory_gib": round(peak_memory(), 3),
        "action_kl": action_check(model, final),
        **result.summary(),
    }
    if run.processes.device.type == "cuda":
        needed = frames_per_s * training_flops(model) / run.processes.size
        metrics["mfu"] = round(needed / matmul_peak(run.processes.device), 4)
    run.finish(model.state_dict(), metrics)
    print(
        f"world_model: {run.out} done, {frames_per_s:,.0f} frames/s, open loop over {np.isfinite(result.psnr).sum()} "
        f"steps: PSNR {metrics['open_loop_psnr']:.1f} dB (a still picture: {metrics['open_loop_still_psnr']:.1f}), "
        f"SSIM {metrics['open_loop_ssim']:.3f}"
    )


def check(model: WorldModel, clips: Batch, run: TrainingRun) -> OpenLoop:
    """Imagine held-out clips and draw the longest as `open_loop.png`."""
    result = open_loop(model.eval(), clips)
    model.train()
    longest = int(clips.valid.sum(1).argmax())
    save_filmstrip(run.out / "open_loop.png", clips, result.imagined, longest)
    return result


def arithmetic(model: WorldModel) -> str:
    """Arithmetic of its matrix products on this machine."""
    return "bfloat16" if is_half(model.config.precision, model.device) else "float32"


def parameters(model: nn.Module) -> int:
    """Number of its trained weights."""
    return sum(parameter.numel() for parameter in model.parameters())
