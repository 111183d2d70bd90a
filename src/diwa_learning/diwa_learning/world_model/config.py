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
    """Channels of the first convolution; the others are 2, 4 and 8 times as wide."""
    rssm: RSSMConfig = field(default_factory=RSSMConfig)
    """Sizes of the recurrent part."""
    robot_state: bool = True
    """The model also sees the normalised robot state; false is the paper's solely visual variant."""
    robot_state_weight: float = 0.0
    """Weight of half the mean squared error of the robot state decoded from the features; 0 is without a decoder."""
    scene_state: bool = False
    """The hybrid variant: the model also sees the normalised scene state, and decodes it with the robot state."""
    image_components: int = 0
    """Principal components of each camera's images that the model also sees and decodes; 0 = none."""
    component_weight: float = 0.0
    """Weight of half the mean squared error of those components, each of unit variance."""
    target: bool = False
    """The model also sees, and sums up in imagination, where the executed actions have put the commanded position."""
    max_lead: float = 0.05
    """Metres by which that position may lead the hand: `max_lead_pos` of the limits in force while recording."""
    imagined_steps: int = 0
    """Robot states and components are also decoded after 1 to so many imagined steps, from every so manyth frame."""
    beta: float = 0.3
    """Weight of the KL term: 0.3 in simulation, 1.0 on the real robot."""
    kl_balance: float = 0.8
    """Share of the KL gradient that trains the prior."""
    updates: int = 20_000
    """Optimiser steps."""
    batch_size: int = 50
    """Sequences per step."""
    sequence_length: int = 50
    """Frames per sequence."""
    learning_rate: float = 3e-4
    """Of AdamW, at the start."""
    final_learning_rate: float = 3e-4
    """At the end of a cosine over the updates; the paper's rate is constant."""
    adam_eps: float = 1e-5
    """Of AdamW."""
    weight_decay: float = 5e-2
    """Decoupled, of AdamW."""
    gradient_clip: float = 100.0
    """Largest norm of the gradient."""
    reset_probability: float = 0.01
    """Chance per step that h, z and the previous action are zeroed."""
    precision: Precision = "float32"
    """Arithmetic of matrix products in training; logits, KL, loss and weights are always float32. `auto`: bfloat16
    where the processor or GPU multiplies it; elsewhere it is emulated, and several times slower than float32."""
    decode_fraction: float = 1.0
    """Share of a batch's frames, drawn anew each step, that is reconstructed; the loss keeps its expectation."""
    graphs: bool = True
    """On a GPU the forward and backward pass are captured as one CUDA graph; without effect on the CPU."""
    held_out: float = 0.05
    """Share of each dataset's episodes kept for the open-loop check; at least one episode."""
    log_every: int = 50
    """Updates between entries of the learning curves."""
    check_every: int = 2000
    """Updates between short open-loop checks."""
    save_every: int = 500
    """Updates between saves of the resumable state."""
    seed: int = 0
    """Of weights, batches and samples."""

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("max_lead", self.max_lead, 1e-3, 1.0),
            ("decode_fraction", self.decode_fraction, 1e-6, 1.0),
            ("kl_balance", self.kl_balance, 0.0, 1.0),
            ("robot_state_weight", self.robot_state_weight, 0.0, 1e6),
            ("image_components", self.image_components, 0, 512),
            ("component_weight", self.component_weight, 0.0, 1e6),
            ("reset_probability", self.reset_probability, 0.0, 1.0),
            ("held_out", self.held_out, 0.0, 0.5),
            ("sequence_length", self.sequence_length, 2, 10**6),
            ("imagined_steps", self.imagined_steps, 0, self.sequence_length - 1),
            ("batch_size", self.batch_size, 1, 10**6),
            ("updates", self.updates, 1, 10**9),
            ("log_every", self.log_every, 1, 10**9),
            ("check_every", self.check_every, 1, 10**9),
            ("save_every", self.save_every, 1, 10**9),
        ):
            if not low <= value <= high:
                raise DiwaError(f"world_model.{name} is {value}; it must lie in [{low:g}, {high:g}]")
        for name, value in (("imagined_steps", self.imagined_steps), ("scene_state", self.scene_state)):
            if value and not self.robot_state_weight:
                raise DiwaError(f"world_model.{name} is {value}; it needs robot_state_weight above 0")
        if bool(self.image_components) != bool(self.component_weight):
            raise DiwaError(
                f"world_model.image_components is {self.image_components} and component_weight "
                f"{self.component_weight:g}: both or neither must be 0"
            )
