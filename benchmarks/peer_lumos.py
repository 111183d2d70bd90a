"""World-model training against the public LUMOS, whose world model is DreamerV2 with two cameras like the paper's.

    python benchmarks/peer_lumos.py --peer DIR    # a clone of https://github.com/nematoli/lumos

One row in bfloat16, one in float32, each of both sides; B = 8, T = 50. Ratios above 1: ours is faster.

The same on both sides: sizes (LUMOS' own configuration files name the paper's), number of parameters to three per cent,
the pixels of both cameras, actions, resets at 1 %, AdamW, clipping of the gradient, threads, how freed memory is used.
An update is forward, loss, backward and optimiser step. LUMOS' are its own modules, its own `loss` and
its own optimiser, called in the order of its `training_step`, which itself runs only within a Lightning trainer on a
GPU; logging is left out. Its images come as float32 tensors, as its data loader makes them; ours turns bytes into
floats within the update. Its scaler of gradients, for float16 on GPUs, is off. It sees 15 numbers of the robot's state,
which is fixed in its code, ours 10.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peers import LUMOS
from torch import Tensor
from turns import Apart, Work, compare
from world_model import ROWS, Ours, floor, random_batch

from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.train import parameters

STATE = 15
"""Numbers of the robot's state that LUMOS takes."""


def lumos(folder: Path, half: bool, expected_parameters: int) -> Work:
    """Updates of LUMOS on the CPU."""
    with LUMOS.modules(folder):
        import hydra
        from lumos.world_models import dreamer_v2  # noqa: F401 # says what is missing before hydra wraps the error
    settings = {
        "+datamodule.batch_size": ROWS,
        "+datamodule.action_space": 7,
        "world_model.amp.autocast._target_": "torch.autocast",
        "+world_model.amp.autocast.device_type": "cpu",  # its type there is bfloat16
        "world_model.amp.autocast.enabled": half,
        "world_model.amp.scaler.enabled": False,
    }
    with hydra.initialize_config_dir(str(folder / "config"), version_base=None):
        config = hydra.compose("world_model/dreamer_v2", [f"{name}={value}" for name, value in settings.items()])
    model = hydra.utils.instantiate(config.world_model).train()
    difference = parameters(model) / expected_parameters - 1
    if abs(difference) > 0.03:
        raise SystemExit(f"LUMOS in {folder} has {difference:+.1%} parameters of ours: other sizes, not comparable")
    optimizer = model.configure_optimizers()["optimizer"]
    batch, state = lumos_batch(), model.rssm_core.init_state(ROWS)
    seen = batch["vis"]
    inputs = (*seen["rgb_obs"].values(), seen["robot_obs"], seen["actions"], seen["robot_obs"], seen["reset"])

    def update() -> None:
        nonlocal state
        optimizer.zero_grad()
        with model.autocast:
            found = model(*inputs, state)
            loss = model.loss(batch, found)["loss_total"]
        state = found["out_states"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), model.grad_clip)
        optimizer.step()

    return update


def lumos_batch() -> dict[str, dict]:
    """Our random batch as LUMOS' data loader gives it: time first, images as floats in [-1, 1]."""
    torch.manual_seed(0)
    batch = random_batch(WorldModelConfig(batch_size=ROWS))

    def image(name: str) -> Tensor:
        return (batch.images[name].movedim(-1, -3).transpose(0, 1) / 127.5 - 1).contiguous()

    actions = batch.previous_actions.transpose(0, 1)
    steps = actions.shape[:2]
    return {
        "vis": {
            "rgb_obs": {"rgb_static": image("static"), "rgb_gripper": image("gripper")},
            "robot_obs": torch.randn(*steps, STATE),
            "actions": actions,
            "reset": torch.rand(*steps, 1) < WorldModelConfig().reset_probability,
        }
    }


def main(rounds: int = 5) -> None:
    folder = LUMOS.folder(__doc__)
    for precision, target in (("bfloat16", 2.8), ("float32", None)):
        ours, frames = Ours("paper", batch_size=ROWS, precision=precision), ROWS * WorldModelConfig().sequence_length
        name, half = f"world_model_vs_lumos_{precision.replace('bfloat', 'bf')}", precision == "bfloat16"
        with Apart(lumos, folder, half, parameters(ours.model)) as other:
            compare(name, ours.update, other, rounds, frames, "frames/s", target, floor(ours.model))


if __name__ == "__main__":
    main()
