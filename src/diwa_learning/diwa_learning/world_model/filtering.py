"""One posterior step per control tick, for one robot or N: deployment, evaluation and DPPO filter by this code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diwa_learning.world_model.model import POSITION, WorldModel
from diwa_learning.world_model.rssm import State


@dataclass(frozen=True)
class Belief:
    """What the frames and actions of N robots so far amount to."""

    state: State
    """(N, ...) of the world model."""
    target: Tensor
    """(N, 3) where the executed actions have put the commanded position, metres."""

    def replaced(self, rows: Tensor, new: Belief) -> Belief:
        """With the beliefs `new` (M, ...) in `rows` (M,)."""
        pairs = zip(self.state.parts(), new.state.parts(), strict=True)
        state = State(*(old.index_copy(0, rows, part) for old, part in pairs))
        return Belief(state, self.target.index_copy(0, rows, new.target))


def unseen(model: WorldModel, model_state: Tensor) -> Belief:
    """Before the first frame, whose state is (N, S): the zero state, the target where the hand is.

    The first `follow` takes the null action.
    """
    return Belief(model.rssm.initial(len(model_state)), model_state[:, POSITION])


@torch.no_grad()
def follow(
    model: WorldModel,
    belief: Belief,
    images: Mapping[str, Tensor],
    model_state: Tensor,
    executed: Tensor,
    noise: Tensor,
) -> Belief:
    """Take in frames, camera -> (N, 64, 64, 3) and the state beside them (N, S), to which `executed` (N, A) led.

    The target is summed up as in recordings: the hand's first position and the actions since. noise (N, C, K) Gumbel.
    """
    target = belief.target + executed[:, POSITION] * model.spec.action.max_pos
    embed = model.embed(images, model_state, target)
    return Belief(model.rssm.filter(belief.state, executed, embed, noise), target)
