"""Batches for the reward classifier: items of both classes in fixed shares, and the epochs that use them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diwa_data.errors import DiwaError
from diwa_learning.capture import CapturedEach
from diwa_learning.lockstep import Member, lockstep
from diwa_learning.optimizers import step
from diwa_learning.reward import NEGATIVE, POSITIVE, RewardClassifier
from diwa_learning.reward_config import RewardConfig
from diwa_learning.reward_data import Items
from diwa_learning.streams import Streams


class ItemBank:
    """The items of one run, or of R runs one behind the other, from which batches of both classes are drawn."""

    def __init__(self, items: Sequence[Items]):
        self.features = torch.cat([each.features for each in items])
        labels, sizes = [each.labels for each in items], [len(each.labels) for each in items]
        first = np.cumsum([0, *sizes])
        of_class = {
            label: [(own == label).nonzero()[:, 0] + int(start) for own, start in zip(labels, first, strict=False)]
            for label in (POSITIVE, NEGATIVE)
        }
        for positive, negative in zip(of_class[POSITIVE], of_class[NEGATIVE], strict=True):
            if not len(positive) or not len(negative):
                raise DiwaError(
                    f"demonstrations give {len(positive)} successes and {len(negative)} failures, both are needed: "
                    "mark success at least 2 s after the start and hold still for 1 s after it"
                )
        self._rows = {label: pad_sequence(found, batch_first=True) for label, found in of_class.items()}
        self._sizes = {
            label: torch.tensor([len(each) for each in found], device=self.features.device)
            for label, found in of_class.items()
        }

    def draw(self, label: int, draws: Streams, batches: int, count: int) -> Tensor:
        """(..., batches, count) rows of `features` with this label, with replacement."""
        size = self._sizes[label].view(*draws.leading, 1)
        drawn = (draws.uniform(batches * count) * size).long().clamp_max(size - 1)
        table = self._rows[label] if draws.leading else self._rows[label][0]
        return table.gather(-1, drawn).unflatten(-1, (batches, count))


def train_epochs(
    group: Sequence[Member],
    name: str,
    net: RewardClassifier,
    adam: torch.optim.Optimizer,
    items: ItemBank,
    draws: Streams,
    batches: int,
    until: int,
) -> None:
    """Train `net` on items until the epoch `until` of the group; batches hold `positive_share` of successes."""
    config: RewardConfig = group[0].run.config
    n_positive = round(config.batch_size * config.positive_share)
    labels = torch.zeros(*draws.leading, config.batch_size, dtype=torch.int64, device=draws.device)
    labels[..., :n_positive] = POSITIVE

    def learn(features: Tensor) -> Tensor:
        loss = net.loss(features, labels, config.temperature)
        step(adam, loss)
        return loss.detach()

    captured = CapturedEach(learn)
    for epoch in lockstep(group, until, "epochs"):
        positive = items.draw(POSITIVE, draws, batches, n_positive)
        negative = items.draw(NEGATIVE, draws, batches, config.batch_size - n_positive)
        total = torch.zeros(draws.leading, device=draws.device)
        for chosen in torch.cat([positive, negative], dim=-1).unbind(-2):
            total += captured(items.features[chosen]) / batches
        for member, value in zip(group, total.reshape(-1).cpu(), strict=True):
            member.run.require_finite(name, value)
            member.run.log(epoch, {name: value})
