"""Configuration of the reward classifier and of its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RewardConfig:
    """Training of the reward classifier; the defaults are the paper's (Table S.4)."""

    kind: Literal["classifier", "images", "decoder"] = "classifier"
    """`images`: a classifier of the images that the world model decodes, for comparison. `decoder`: success by the
    scene state that a hybrid world model decodes; nothing is trained, only measured."""
    width: int = 512
    """Units of each layer."""
    epochs: int = 100
    """Passes over all items; with play, as many before for the classifier that screens it."""
    batch_size: int = 32
    """Items per optimiser step."""
    learning_rate: float = 1e-6
    """Of Adam."""
    margin: float = 1.0
    """Seconds: frames of a demonstration are failures until so long before its success mark, then unused up to it."""
    temperature: float = 0.5
    """Of NT-Xent."""
    positive_share: float = 0.5
    """Share of each batch drawn from success items, which are rare."""
    latent_samples: int = 2
    """Draws of the noise of each demonstration's latents."""
    imagined_every: int = 8
    """Frames between the first frames of a demonstration's imagined stretches; the first starts at frame 0."""
    context: int = 1
    """Frames of a stretch that are filtered before imagination begins: as before a dream (`starts.context`)."""
    horizon: int = 72
    """Most actions imagined in a stretch: as long as a dream."""
    play_segments: int = 300
    """Random stretches of `horizon` actions of play that give negatives."""
    play_negative_below: float = 0.1
    """Play frames are negatives where a classifier trained on demonstrations alone scores below this."""
    held_out: float = 0.2
    """Share of demonstrations and of play stretches kept for threshold and report; at least one demonstration."""
    precision: float = 0.95
    """The threshold has the best recall at this precision on held-out imagined latents."""
    lowest_threshold: float = 0.5
    """But it is no lower: a dream that goes on until something passes finds what few recorded frames show."""
    save_every: int = 10
    """Epochs between saves of the resumable state."""
    seed: int = 0
    """Of weights, latents and batches."""
