"""The reward from decoded scene state: the hybrid world model's own decoder judges success (paper, Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diwa_data.dataset.dataset import Episode
from diwa_data.errors import DiwaError
from diwa_data.skills import goal_of
from diwa_data.spec import Spec
from diwa_learning.reward.classifier import SuccessClassifier
from diwa_learning.world_model.latents import embed_clips, filtered_states, whole
from diwa_learning.world_model.model import WorldModel, vector_decoder

LEAST_ERROR = 1e-3
"""Floor of the decoder's error: millimetres, or thousandths of a light."""


class DecodedReward(SuccessClassifier):
    """By how much the one number of the scene state that a skill changes has passed the skill's goal.

    It is the world model's decoder of that number, in its own unit, less the goal (`Goal.margin`).
    """

    error: Tensor
    """Standard deviation of the decoder's error, in the number's unit."""

    def __init__(self, feature_dim: int):
        super().__init__()
        self.decoder = vector_decoder(feature_dim, 1)
        self.register_buffer("error", torch.tensor(LEAST_ERROR))

    def take_decoder(self, model: WorldModel, skill: str) -> None:
        """Copy the decoder of a hybrid `model`, for the goal of `skill`."""
        assert model.state_decoder is not None, "a hybrid world model has one"
        goal, spec = goal_of(skill, model.spec.robot), model.spec
        row = spec.state_dim + spec.scene_state.index(goal.quantity)
        weights, mean, std = model.state_decoder.state_dict(), model.state_mean[row], model.state_std[row]
        weight, bias = weights["1.weight"][row] * std, weights["1.bias"][row] * std + mean
        direction = 1.0 if goal.change > 0 else -1.0
        margin = {"1.weight": (direction * weight)[None], "1.bias": goal.margin(bias)[None]}
        self.decoder.load_state_dict(weights | margin)

    def margin(self, features: Tensor) -> Tensor:
        """Features (..., F) -> by how much the number (...) has passed the goal."""
        return self.decoder(features)[..., 0]

    def probability(self, features: Tensor) -> Tensor:
        """Probability (...) that the true number of features (..., F) has passed the goal: errors are Gaussian."""
        return torch.special.ndtr(self.margin(features) / self.error)


def require_scene_decoder(model: WorldModel, where: Path) -> None:
    """Raise `DiwaError` naming `where` unless `model` decodes the scene state."""
    if not model.config.scene_state:
        raise DiwaError(
            f"{where} decodes no scene state, from which --kind decoder computes the reward: train a world model "
            "with --scene-state, or use --kind classifier"
        )


@torch.no_grad()
def decoded_reward(model: WorldModel, skill: str, episodes: Sequence[Episode], seed: int) -> DecodedReward:
    """The decoder of a hybrid model as a judge of `skill`, its error that on filtered recordings."""
    judge = DecodedReward(model.feature_dim).to(model.device)
    judge.take_decoder(model, skill)
    clips = embed_clips(model, [whole(episode) for episode in episodes])
    noise = model.rssm.noise(*clips.valid.shape, rng=torch.Generator().manual_seed(seed))
    decoded = judge.margin(filtered_states(model, clips, noise).features)[clips.valid]
    true = np.concatenate([recorded_margin(episode, skill, model.spec) for episode in episodes])
    error = (decoded.cpu() - torch.from_numpy(true)).square().mean().sqrt()
    judge.error.copy_(error.clamp(min=LEAST_ERROR))
    return judge


def recorded_margin(episode: Episode, skill: str, spec: Spec) -> np.ndarray:
    """By how much the scene state of each frame (T,) has passed the goal; >= 0 is done."""
    assert episode.scene_state is not None, f"episode {episode.name} has no scene state"
    goal = goal_of(skill, spec.robot)
    return goal.margin(episode.scene_state[:, spec.scene_state.index(goal.quantity)])
