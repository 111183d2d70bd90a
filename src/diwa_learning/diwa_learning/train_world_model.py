"""Phase 1: learn the world model from play and demonstrations (METHOD section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diwa_data.dataset import Dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.spec import require_same
from diwa_learning.open_loop import CONTEXT, HORIZON, OpenLoop, action_check, open_loop, save_filmstrip
from diwa_learning.schedule import cosine, set_learning_rate
from diwa_learning.sequences import Batch, Replay, fingerprint, split_held_out
from diwa_learning.training import TrainingRun
from diwa_learning.world_model import WorldModel, WorldModelLoss
from diwa_learning.world_model_config import WorldModelConfig

SHORT_CHECK, FULL_CHECK = 4, 16
"""Held-out clips of the checks during training, and of the one at its end."""
STATISTICS_FRAMES = 2000
"""Frames, evenly over all, that the mean images come from."""


def train_world_model(datasets: Sequence[Path], out: Path, config: WorldModelConfig) -> None:
    """Train on all `datasets` and leave the checkpoint, its curves and the open-loop filmstrip in `out`.

    An interrupted run continues; a finished one is left as it is. Raises `DiwaError` for datasets of different specs,
    damaged ones or (hybrid variant) ones without scene state, for a loss that is no number, and for an `out` that
    holds something else.
    """
    loaded = load_datasets(datasets)
    if config.scene_state:
        require_scene_state(loaded)
    spec, inputs = loaded[0].spec, {"datasets": [fingerprint(dataset) for dataset in loaded]}
    with TrainingRun(out, "world_model", config, spec, inputs=inputs) as run:
        if run.finished:
            return
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        training, held_out = split_held_out(loaded, config.held_out, run.rng)
        replay = Replay(training, spec, config.sequence_length, hybrid=config.scene_state)
        clips = Replay(held_out, spec, CONTEXT + HORIZON, shortest=CONTEXT + 1, hybrid=config.scene_state)
        del loaded, training, held_out  # their frames now live in the replays
        model = WorldModel(config, spec)
        model.set_state_statistics(*replay.state_statistics())
        model.set_image_statistics(replay.some_images(STATISTICS_FRAMES))
        optimizer = adamw(model.to(device), config)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f"world_model: {parameters / 1e6:.1f} M parameters, {replay.frames:,} frames, {clips.frames:,} held out")
        run.track(model=model, optimizer=optimizer)

        per_step = config.batch_size * config.sequence_length
        for step in run.steps(config.updates, "frames", per_step):
            rate = cosine(step, config.updates, config.learning_rate, config.final_learning_rate)
            set_learning_rate(optimizer, rate)
            batch = replay.sample(config.batch_size, run.rng).to(device)
            loss = model.loss(batch)
            run.require_finite("loss", loss.total)
            norm = update(model, optimizer, loss, config.gradient_clip)
            if step % config.log_every == 0:
                run.log(step, curves(loss, norm))
            if (step + 1) % config.check_every == 0 and step + 1 < config.updates:
                run.log(step, summary_scalars(check(model, clips.spread(SHORT_CHECK).to(device), run)))

        throughput = run.step * per_step / max(run.seconds, 1e-9)
        final = clips.spread(FULL_CHECK).to(device)
        result = check(model, final, run)
        metrics = {
            "parameters": parameters,
            "frames": replay.frames,
            "held_out_frames": clips.frames,
            "frames_per_s": round(throughput, 1),
            "action_kl": action_check(model, final),
            **result.summary(),
        }
        run.finish(model.state_dict(), metrics)
        print(f"world_model: {out} done, {throughput:,.0f} frames/s, {describe(result)}")


def load_datasets(paths: Sequence[Path]) -> list[Dataset]:
    """Load datasets that must share one spec."""
    if not paths:
        raise DiwaError("no dataset given: name one or more files made by `diwa build-dataset`")
    loaded = [load_dataset(path) for path in paths]
    for dataset in loaded[1:]:
        require_same(loaded[0].spec, dataset.spec, str(dataset.path))
    return loaded


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


def update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: WorldModelLoss, clip: float) -> torch.Tensor:
    """One optimiser step; returns the gradient's norm before clipping."""
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=True)
    optimizer.step()
    return norm


def curves(loss: WorldModelLoss, norm: torch.Tensor) -> dict[str, Any]:
    """What the learning curves show of one update."""
    return {
        "loss": loss.total,
        "kl": loss.kl,
        "image_loss": loss.image,
        "robot_state_loss": loss.robot_state,
        "component_loss": loss.components,
        "posterior_entropy": loss.posterior_entropy,
        "gradient_norm": norm,
    }


def check(model: WorldModel, clips: Batch, run: TrainingRun) -> OpenLoop:
    """Imagine held-out clips and draw the longest as `open_loop.png`."""
    result = open_loop(model.eval(), clips)
    model.train()
    longest = int(clips.valid.sum(1).argmax())
    save_filmstrip(run.out / "open_loop.png", clips, result.imagined, longest)
    return result


def summary_scalars(result: OpenLoop) -> dict[str, float]:
    """The means of an open-loop check."""
    return {name: value for name, value in result.summary().items() if isinstance(value, float)}


def describe(result: OpenLoop) -> str:
    """The open-loop check in a few words."""
    means = result.summary()
    return (
        f"open loop over {len(means['open_loop_steps']['psnr'])} steps: PSNR {means['open_loop_psnr']:.1f} dB "
        f"(a still picture: {means['open_loop_still_psnr']:.1f}), SSIM {means['open_loop_ssim']:.3f}"
    )
