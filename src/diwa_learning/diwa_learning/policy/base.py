"""The chain that all policies share, and all that imitation, fine-tuning and the robot need to know of a policy.

An action chunk is drawn in K Gaussian steps. `k` counts as in the paper, from K (pure noise) down to 1 (the last step);
a chain stores a^K .. a^0, so a^k stands at index K - k. A Gaussian policy is a chain of one step. Letters: B batch,
H actions of a chunk, A action dimensions, F features, W numbers in which a policy sums them up.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from diwa_data.errors import DiwaError


@dataclass(frozen=True)
class Normal:
    """Diagonal Gaussian over a chunk: `mean` (B, H, A), `std` (B, H, A) or broadcastable to it."""

    mean: Tensor
    std: Tensor

    def with_floor(self, floor: float) -> Normal:
        """The same Gaussian with a standard deviation of at least `floor`: what dreams sample and score."""
        return Normal(self.mean, self.std.clamp_min(floor))


@dataclass(frozen=True)
class Chains:
    """Sampled chunks with the steps that led to them: `chains` (B, K+1, H, A), noise first, the raw chunk last."""

    chains: Tensor

    @property
    def actions(self) -> Tensor:
        """(B, H, A) the last element of each chain; not yet clipped."""
        return self.chains[:, -1]


@dataclass(frozen=True)
class Exploration:
    """Noise of chunks in fine-tuning (docs/method.md); deployment adds none."""

    std_floor: float = 0.1
    """Smallest standard deviation of a denoising step, in sampling and in log-probabilities."""
    noise_clamp: float = 3.0
    """Standard deviations at which injected noise is clamped."""


class Trunk(nn.Module):
    """u = W_in [inputs, features]; u = u + W_2 mish(W_1 mish(u)); out = W_out u (paper, appendix S.2.2).

    The features' part of W_in is applied once by `project`, however many denoising steps follow.
    """

    def __init__(self, input_dim: int, feature_dim: int, width: int, output_dim: int):
        super().__init__()
        self.input_dim = input_dim
        self.input = nn.Linear(input_dim + feature_dim, width)
        self.hidden = nn.Linear(width, width)
        self.residual = nn.Linear(width, width)
        self.output = nn.Linear(width, output_dim)

    def project(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, W): the features' share of W_in."""
        return functional.linear(features, self.input.weight[:, self.input_dim :])

    def forward(self, projected: Tensor, inputs: Tensor) -> Tensor:
        """(B, W), (B, input_dim) -> (B, output_dim)."""
        weight = self.input.weight[:, : self.input_dim]
        return self.after(projected + functional.linear(inputs, weight, self.input.bias))

    def once(self, features: Tensor, inputs: Tensor) -> Tensor:
        """`forward` of what `project` returns, for a single step: W_in's gradient comes whole, not in two slices."""
        return self.after(self.input(torch.cat([inputs, features], -1)))

    def fold(self, codes: Tensor, free: int) -> tuple[Tensor, Tensor]:
        """Split W_in: the share (K, W) of the last inputs, `codes` (K, I - free), and the others' matrix (free, W).

        With them and `project`, W_in [inputs, features] + b is projected + codes_k + free inputs @ matrix.
        """
        weight, bias = self.input.weight, self.input.bias
        return functional.linear(codes, weight[:, free : self.input_dim], bias), weight[:, :free].t().contiguous()

    def after(self, u: Tensor) -> Tensor:
        """The layers after W_in: (B, W) -> (B, output_dim)."""
        u = u + self.residual(functional.mish(self.hidden(functional.mish(u))))
        return self.output(u)


Path = list[tuple[int, int | None]]
"""Steps of a chain: each begins at a k, and one of DDIM leads to another; None is the chain's own, to k - 1."""


class ChainPolicy(nn.Module, ABC):
    """A policy that draws a chunk (H, A) in `steps` Gaussian steps, given the model state's features.

    A subclass is called with (feature_dim, width, steps, chunk, action_dim) and gives `loss` and `denoise`; `project`
    and `denoiser` can make it faster. Sampling, log-probabilities, PPO and checkpoints follow from these. It has to
    keep four rules, for which `check.py` looks:

    - All randomness comes in as arguments, so that seeds repeat a run and the likelihood ratio before an update is 1.
    - Each row of a batch is computed from that row alone.
    - What it learns is in parameters. Buffers stay as they are made: no moving average keeps up with them.
    - Its class reads no tensor while it is made: loading makes it without memory first (torch's device `meta`).
    """

    takes_ddim = False
    """Whether steps of `denoiser` can lead to any lower k, without noise: what `ddim_steps` needs."""

    def __init__(self, steps: int, chunk: int, action_dim: int):
        super().__init__()
        self.steps, self.chunk, self.action_dim = steps, chunk, action_dim

    @abstractmethod
    def loss(self, features: Tensor, actions: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        """Scalar imitation loss of demonstrated chunks (B, H, A) in the states of features (B, F).

        Each is scored at step k (B,), 1..K, of the chain that its standard normal noise (B, H, A) makes.
        """

    @abstractmethod
    def denoise(self, projected: Tensor, chunk: Tensor, k: Tensor) -> Normal:
        """Distribution of a^{k-1} given a^k: projected (B, W), chunk a^k (B, H, A), k (B,) int64 in 1..K.

        Its mean is (B, H, A), its std (B, H, A) or (B, 1, 1). The std may be 0: fine-tuning raises it to the floor of
        `Exploration`, in sampling and in log-probabilities. Below 0.055 (a log-probability above 2) there would be no
        gradient.
        """

    def project(self, features: Tensor) -> Tensor:
        """(B, F) -> (B, W): the share of the features in `denoise`, the same for every step of a chain."""
        return features

    def denoiser(self, features: Tensor) -> Callable[[Tensor, int, int | None], Normal]:
        """`denoise` in the states of features (B, F), for chunks a^k (B, H, A) that share a step of a `Path`."""
        projected = self.project(features)

        def step(chunk: Tensor, k: int, to: int | None = None) -> Normal:
            assert to is None, "a policy that takes_ddim has a denoiser of its own"
            return self.denoise(projected, chunk, torch.full((len(chunk),), k, device=chunk.device))

        return step

    def draw_noise(self, batch: int, rng: torch.Generator | None = None) -> Tensor:
        """(B, K+1, H, A) standard normal, on the device of `rng`: the start of each chain, then one draw per step."""
        shape = (batch, self.steps + 1, self.chunk, self.action_dim)
        return torch.randn(shape, generator=rng, device=rng.device if rng else None)

    def parts(self) -> Iterator[tuple[ChainPolicy, range]]:
        """The networks that denoise, in order, each with its range of k."""
        yield self, range(self.steps, 0, -1)

    def sample(self, features: Tensor, noise: Tensor, ddim_steps: int = 0) -> Chains:
        """Chunks as deployed and evaluated: the policy's own std, no noise at the last step.

        features (B, F); noise (B, K+1, H, A) from `draw_noise`. With `ddim_steps` between 1 and K, that many
        deterministic steps of DDIM (Song et al. 2021), evenly over k, take the place of all K.
        """
        *drawn, last = noise.unbind(1)
        path = self._every_step()
        if ddim_steps and self.steps > 1:
            ks = [self.steps * n // ddim_steps for n in range(ddim_steps, -1, -1)]
            path = list(itertools.pairwise(ks))
        return self._run(features, [*drawn, torch.zeros_like(last)], path, std_floor=0.0)

    def explore(self, features: Tensor, noise: Tensor, exploration: Exploration) -> Chains:
        """Chunks as in fine-tuning: std floored and noise clamped, at every step; same shapes as `sample`."""
        first, *drawn = noise.unbind(1)
        clamp = exploration.noise_clamp
        noise_of_steps = [first, *(each.clamp(-clamp, clamp) for each in drawn)]
        return self._run(features, noise_of_steps, self._every_step(), exploration.std_floor)

    def _every_step(self) -> Path:
        return [(k, None) for k in range(self.steps, 0, -1)]

    def _run(self, features: Tensor, noise: Sequence[Tensor], path: Path, std_floor: float) -> Chains:
        """`noise` holds a^K and then the addition of each step, all (B, H, A); DDIM leaves some over."""
        assert noise[0].shape == (len(features), self.chunk, self.action_dim), noise[0].shape
        chain = [noise[0]]
        for part, own in self.parts():
            step = part.denoiser(features)
            for k, to in path:
                if k in own:
                    normal = step(chain[-1], k, to).with_floor(std_floor)
                    chain.append(torch.addcmul(normal.mean, normal.std, noise[len(chain)]))
        return Chains(torch.stack(chain, dim=1))


def require_ddim_steps(steps: int, policy: ChainPolicy) -> None:
    """Raise `DiwaError` unless `sample` takes that many steps of DDIM; a policy of one step ignores them."""
    if steps < 0 or steps > policy.steps > 1:
        raise DiwaError(f"ddim_steps is {steps}; it must lie in [0, {policy.steps}], 0 samples every step with noise")
    if steps and policy.steps > 1 and not policy.takes_ddim:
        raise DiwaError(f"ddim_steps is {steps}, but this policy can leave out none of its {policy.steps} steps: set 0")


class FinetunedPolicy(ChainPolicy):
    """The frozen pre-trained policy for the first K - K' steps of a chain, a trained copy of it for the last K'."""

    def __init__(self, base: ChainPolicy, trained_steps: int):
        super().__init__(base.steps, base.chunk, base.action_dim)
        self.trained_steps, self.takes_ddim = min(trained_steps, base.steps), base.takes_ddim
        self.base = base.requires_grad_(False)
        self.trained = copy.deepcopy(base).requires_grad_(True)

    def parts(self) -> Iterator[tuple[ChainPolicy, range]]:
        yield self.base, range(self.steps, self.trained_steps, -1)
        yield self.trained, range(self.trained_steps, 0, -1)

    def loss(self, features: Tensor, actions: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        return self.trained.loss(features, actions, k, noise)

    def project(self, features: Tensor) -> Tensor:
        return self.trained.project(features)

    def denoise(self, projected: Tensor, chunk: Tensor, k: Tensor) -> Normal:
        return self.trained.denoise(projected, chunk, k)
