"""Configuration of the world model and of its training."""

from __future__ import annotations

from dataclasses import dataclass, field

from diwa_data.errors import DiwaError
from diwa_learning.core.device import Precision
from diwa_learning.world_model.rssm import RSSMConfig


@dataclass(frozen=True)
class WorldModelConfig:
    """Training of the world model; the defaults are the paper's sizes."""

    depth: int = 48
    """Channels of the first convolution; the others have 2, 4 and 8 times as many."""
    rssm: RSSMConfig = field(default_factory=RSSMConfig)
    """Sizes of the recurrent part."""
    robot_state: bool = True
    """The model also sees the normalised robot state; without it, it is the paper's purely visual variant."""
    robot_state_weight: float = 0.0
    """Weight of half the mean squared error of the decoded robot state; 0 = it is not decoded."""
    scene_state: bool = False
    """Hybrid variant: the model also sees the normalised scene state, and decodes it with the robot state."""
    image_components: int = 0
    """Number of principal components of each camera's images that the model also sees and decodes; 0 = none."""
    component_weight: float = 0.0
    """Weight of half the mean squared error of these components, each scaled to unit variance."""
    slow_features: int = 0
    """Number of slow features: linear features of the images that change least between frames; 0 = none.
    They describe drawer and lamps; the model sees them while filtering and predicts them in imagination."""
    slow_weight: float = 0.0
    """Weight of half the mean squared error of their prediction, in units of their change between two frames."""
    target: bool = False
    """The model also gets the commanded position; in imagination it adds up the actions."""
    max_lead: float = 0.05
    """Largest lead of that position over the hand, in metres, for recordings that do not say `max_lead_pos`."""
    imagined_steps: int = 0
    """Robot states and components are also decoded after 1 to this many imagined steps, begun as many frames
    apart."""
    beta: float = 0.3
    """Weight of the KL term. The paper's 0.3 (simulation) and 1.0 (robot) are for images in [-1, 1];
    for ours in [-0.5, 0.5] the same balance is 0.075 and 0.25."""
    kl_balance: float = 0.8
    """Share of the KL gradient that trains the prior."""
    updates: int = 20_000
    """Optimiser steps."""
    batch_size: int = 50
    """Sequences in each step."""
    sequence_length: int = 50
    """Frames in each sequence."""
    learning_rate: float = 3e-4
    """Learning rate of AdamW at the start."""
    final_learning_rate: float = 3e-4
    """Learning rate at the end; it follows a cosine. The paper's is constant."""
    adam_eps: float = 1e-5
    """Epsilon of AdamW."""
    weight_decay: float = 5e-2
    """Decoupled weight decay of AdamW."""
    gradient_clip: float = 100.0
    """Largest norm of the gradient."""
    reset_probability: float = 0.01
    """Probability at each step that h, z and the previous action are zeroed."""
    precision: Precision = "float32"
    """Precision of matrix products in training; logits, KL, loss and weights are always float32.
    With `auto` it is bfloat16 where the processor or GPU supports that in hardware, and float32 elsewhere."""
    decode_fraction: float = 1.0
    """Share of a batch's frames that is reconstructed, drawn anew in each step; the loss keeps its expectation."""
    graphs: bool = True
    """Compile the loss and its gradients into CUDA graphs on a GPU; no effect on a CPU."""
    held_out: float = 0.05
    """Share of each dataset's episodes kept for the open-loop check; at least one episode."""
    log_every: int = 50
    """Updates between entries of the learning curves."""
    check_every: int = 2000
    """Updates between short open-loop checks."""
    save_every: int = 500
    """Updates between saves of the resumable state."""
    seed: int = 0
    """Seed of weights, batches and samples."""

    def __post_init__(self) -> None:
        counts = "updates", "batch_size", "log_every", "check_every", "save_every"
        ranges: dict[str, tuple[float, float]] = dict.fromkeys(counts, (1, 10**9)) | {
            "max_lead": (1e-3, 1.0),
            "decode_fraction": (1e-6, 1.0),
            "kl_balance": (0.0, 1.0),
            "robot_state_weight": (0.0, 1e6),
            "image_components": (0, 512),
            "component_weight": (0.0, 1e6),
            "slow_features": (0, 512),
            "slow_weight": (0.0, 1e6),
            "reset_probability": (0.0, 1.0),
            "held_out": (0.0, 0.5),
            "sequence_length": (2, 10**6),
            "imagined_steps": (0, self.sequence_length - 1),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                value = getattr(self, name)
                raise DiwaError(f"world_model.{name} is {value}; it must lie in [{low:g}, {high:g}]")
        for name in ("imagined_steps", "scene_state"):
            if getattr(self, name) and not self.robot_state_weight:
                raise DiwaError(f"world_model.{name} is {getattr(self, name)}; it needs robot_state_weight above 0")
        for count, weight in (("image_components", "component_weight"), ("slow_features", "slow_weight")):
            if bool(getattr(self, count)) != bool(getattr(self, weight)):
                raise DiwaError(
                    f"world_model.{count} is {getattr(self, count)} and {weight} {getattr(self, weight):g}: both or "
                    "neither must be 0"
                )
