"""alpha_BC, the weight of KL(pi_pre || pi_theta): fixed, or set by the divergence that is wanted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FASTEST = 1.5
"""Factor by which the weight changes in an iteration at the most."""
RANGE = (1e-3, 10.0)
"""What it stays within while it is being set."""


class BCWeight(nn.Module):
    """The weight of one run, or of R stacked ones, (R,).

    Args:
        alpha: what it is, or begins with.
        target_kl: divergence that it is set for, mean of the entries' KL as `kl_divergence` gives it; None = fixed.
    """

    alpha: Tensor

    def __init__(self, alpha: float, target_kl: float | None = None):
        super().__init__()
        self.target_kl = target_kl
        self.register_buffer("alpha", torch.tensor(float(alpha)))

    def adapt(self, kl: Tensor) -> None:
        """Raise it where an iteration's mean KL was above the target, lower it where it was below.

        By the square root of their ratio: as the KL of a step of gradient ascent falls with the square of the weight.
        """
        if self.target_kl is not None:
            factor = (kl / self.target_kl).sqrt().clamp(1 / FASTEST, FASTEST)
            self.alpha.mul_(factor).clamp_(*RANGE)
