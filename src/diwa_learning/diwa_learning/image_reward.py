"""The reward from images: the classifier on what the world model decodes, to be held against the one on latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diwa_data.errors import DiwaError
from diwa_learning.networks import ImageEncoder
from diwa_learning.reward import RewardClassifier
from diwa_learning.world_model import WorldModel

FRAMES = 256
"""Model states whose images are in memory at a time."""


class ImageClassifier(RewardClassifier):
    """`RewardClassifier` behind convolutions over the images that a world model decodes from features.

    So it sees of a dream what a classifier of camera frames would see of it, and learns from the same items, labels and
    loss. It judges dreams: a world model that was packed for a robot does not decode.
    """

    stackable = False

    def __init__(self, model: WorldModel, width: int):
        depth, cameras = model.config.depth, list(model.encoders)
        super().__init__(len(cameras) * 32 * depth, width)
        self.encoders = nn.ModuleDict({name: ImageEncoder(depth) for name in cameras})
        self._model = (model,)  # in a tuple it is no part of this module: neither trained nor saved again
        if not model.decodes:
            raise DiwaError(
                "this world model was packed for deployment and decodes no images, which the classifier judges: give "
                "the one that it is made of"
            )

    def embed(self, features: Tensor) -> Tensor:
        """(..., F) -> (..., W)."""
        some = features.flatten(end_dim=-2).split(FRAMES)
        return torch.cat([self.embedding(self._encode(each)) for each in some]).unflatten(0, features.shape[:-1])

    def _encode(self, features: Tensor) -> Tensor:
        """Features (B, F) -> codes (B, C) of their images."""
        with torch.no_grad():
            images = self._model[0].decode(features)
        return torch.cat([encoder(images[name].movedim(-1, -3)) for name, encoder in self.encoders.items()], -1)
