"""Recurrent state-space model with discrete latents (DreamerV2).

Step t consumes the executed action a_{t-1} that led to observation t:
    h_t = GRU(h_{t-1}, ELU(LN(W_z z_{t-1} + W_a a_{t-1})))
    prior p(z_t | h_t), posterior q(z_t | h_t, e_t); z_t is sampled, always.

A model that is told the target has, beside a_{t-1}, where that action put the commanded position: observed with every
frame, summed up from the actions in imagination. Nothing is learned about it, so it does not drift. The networks get
it by waves too (`place_code`): centimetres decide whether a hand meets a handle, and the table is a metre wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_data.limits import columns_of, matrix_of, rotated
from diwa_data.spec import ActionSpec


class LoopLinear:
    """x_t (B, I) -> codes_t + x_t W^T (B, O), for t = 0 to T - 1 in this order.

    Autograd alone would add up T products of B rows each, reading and writing all of W's gradient every time, in the
    precision of autocast; here one product over all B * T rows does it.

    Args:
        weight: (O, I) W.
        codes: (B, T, O) what is added at each step, such as projected inputs or a bias; of the type of the products.
    """

    def __init__(self, weight: Tensor, codes: Tensor):
        self._inputs: list[Tensor] = []
        if not torch.compiler.is_compiling():  # compiled, plain autograd is one graph
            codes, weight = _WeightGradient.apply(codes, weight, self._inputs), weight.detach()
        self._codes, self._weight = codes.unbind(1), weight.to(codes.dtype).t()

    def __call__(self, x: Tensor) -> Tensor:
        """The next step's result."""
        x, code = x.to(self._weight.dtype), self._codes[len(self._inputs)]
        self._inputs.append(x.detach())
        return torch.addmm(code, x, self._weight)


class _WeightGradient(torch.autograd.Function):
    """`codes` as they are; backward also forms the weight's gradient, as that of the codes is that of the products."""

    @staticmethod
    def forward(ctx: Any, codes: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs, ctx.dtype = inputs, weight.dtype
        return codes.view_as(codes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (gradient,) = gradients  # (B, T, O)
        inputs = torch.stack(ctx.inputs, 1)  # (B, T, I)
        return gradient, (gradient.flatten(0, 1).t() @ inputs.flatten(0, 1)).to(ctx.dtype), None


PLACE = slice(0, 3)
"""Where a target's place stands in it: the part that networks see."""
TARGET = 9
"""Numbers of a target: its place and its 6D rotation."""
_BEGIN = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # with the hand straight down
PLACE_WAVES = 4
"""Waves of a coordinate in `place_code`."""


@dataclass(frozen=True)
class RSSMConfig:
    """Sizes of the recurrent state-space model."""

    recurrent: int = 1024
    """Size of the recurrent state h."""
    categoricals: int = 32
    """Number of categorical variables in the stochastic latent z."""
    classes: int = 32
    """Classes of each categorical variable."""
    hidden: int = 1000
    """Width of the GRU's input, and of the hidden layers of prior and posterior."""


@dataclass(frozen=True)
class State:
    """Model state s = (h, z)."""

    h: Tensor
    """(..., D) recurrent state."""
    z: Tensor
    """(..., C*K) one-hot samples, flat."""
    target: Tensor
    """(..., P) where the commands so far have put the target, P = 9: its normalised place, which the networks see, and
    its 6D rotation. P is 0 in a model that is not told it."""
    slow: Tensor
    """(..., S) slow features of the picture: seen, or in imagination predicted; S is 0 in a model without them."""

    @property
    def features(self) -> Tensor:
        """(..., D + C*K + S): h first."""
        return torch.cat([self.h, self.z, self.slow], -1)

    def parts(self) -> tuple[Tensor, ...]:
        return self.h, self.z, self.target, self.slow

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """The same change to all parts."""
        return State(*map(change, self.parts()))

    def __getitem__(self, index) -> State:
        """Index the leading axes of all parts."""
        return self.map(lambda part: part[index])

    def where(self, keep: Tensor) -> State:
        """Zero all but the target of the states whose `keep` (...) is false."""
        keep = keep[..., None]
        return State(self.h * keep, self.z * keep, self.target, self.slow * keep)

    @staticmethod
    def stack(states: Sequence[State], dim: int) -> State:
        return State(*(torch.stack(same, dim) for same in zip(*(s.parts() for s in states), strict=True)))

    @staticmethod
    def cat(states: Sequence[State], dim: int = 0) -> State:
        return State(*(torch.cat(same, dim) for same in zip(*(s.parts() for s in states), strict=True)))


@dataclass(frozen=True)
class Observed:
    """Result of filtering a batch of sequences."""

    states: State
    """Posterior states, (B, T, ...)."""
    prior_logits: Tensor
    """(B, T, C, K) before seeing frame t."""
    posterior_logits: Tensor
    """(B, T, C, K) after seeing it."""
    slow: Tensor
    """(B, T, S) slow features that h, z and those of the frame before predict for it."""


class RSSM(nn.Module):
    """D = config.recurrent, C = config.categoricals, K = config.classes, E = embed_dim, A = action_dim, P = target_dim,
    S = slow_dim.

    An embedding ends with the S slow features of the picture and the P numbers of the target, of which all but the
    place come after the E that networks see.
    """

    target_step: Tensor
    """(3,) how far one unit of each of the first numbers of an action moves the target's normalised place."""
    slow_step: Tensor
    """(S,) how far each slow feature usually moves between two frames, its standard deviation."""

    def __init__(
        self, config: RSSMConfig, embed_dim: int, action_dim: int, told: ActionSpec | None = None, slow_dim: int = 0
    ):
        """`told`: the actions, for a model that is told the target which they move."""
        super().__init__()
        self.config, self.embed_dim, self.action_dim, self.told = config, embed_dim, action_dim, told
        self.place_dim, self.target_dim = (PLACE.stop, TARGET) if told else (0, 0)
        self.slow_dim = slow_dim
        self.latent_dim = config.categoricals * config.classes
        self.feature_dim = config.recurrent + self.latent_dim + slow_dim
        hidden = config.hidden
        self.action_in = nn.Linear(action_dim + self.place_dim * (1 + 2 * PLACE_WAVES) + slow_dim, hidden)
        self.register_buffer("target_step", torch.ones(self.place_dim))
        self.latent_in = nn.Linear(self.latent_dim, hidden, bias=False)
        self.input_norm = nn.LayerNorm(hidden)
        self.gru = nn.GRUCell(hidden, config.recurrent)
        self.prior_head = mlp(config.recurrent, hidden, self.latent_dim)
        self.embed_in = nn.Linear(embed_dim, hidden)
        self.recurrent_in = nn.Linear(config.recurrent, hidden, bias=False)
        self.posterior_head = nn.Sequential(nn.LayerNorm(hidden), nn.ELU(), nn.Linear(hidden, self.latent_dim))
        self.register_buffer("slow_step", torch.ones(slow_dim), persistent=slow_dim > 0)
        self.slow_head = mlp(self.feature_dim, hidden, slow_dim) if slow_dim else None

    def initial(self, batch: int) -> State:
        """Zero state of `batch` rows."""
        like = self.action_in.weight
        h, z, slow = (like.new_zeros(batch, n) for n in (self.config.recurrent, self.latent_dim, self.slow_dim))
        return State(h, z, like.new_tensor(_BEGIN[: self.target_dim]).repeat(batch, 1), slow)

    def recur(self, state: State, action: Tensor, target: Tensor) -> Tensor:
        """(B, ...) state, the executed action (B, A) taken in it and the target (B, P) it led to -> next h (B, D)."""
        code, cell = self.action_in(torch.cat([action, place_code(target[..., PLACE]), state.slow], -1)), self.gru
        x = F.elu(self.input_norm(self.latent_in(state.z) + code))
        gates_x, gates_h = F.linear(x, cell.weight_ih, cell.bias_ih), F.linear(state.h, cell.weight_hh, cell.bias_hh)
        return gru(gates_x, gates_h, state.h)  # the cell's own forward would return h in autocast's type on a GPU

    def move_target(self, state: State, action: Tensor) -> Tensor:
        """The target (B, P) after an executed action (B, A)."""
        if self.told is None:
            return state.target
        place = state.target[..., PLACE] + action[..., PLACE] * self.target_step
        rotation = matrix_of(torch, state.target[..., 3:])
        turned = rotated(torch, rotation, self.told.max_rot * action[..., 3:6], self.told)
        return torch.cat([place, columns_of(torch, turned)], -1)

    def seen_target(self, embeds: Tensor) -> Tensor:
        """The target (..., P) that embeddings end with."""
        return embeds[..., self.embed_dim - self.place_dim :].float()

    def inputs(self, embeds: Tensor) -> Tensor:
        """The numbers (..., E) of embeddings that the networks see."""
        return embeds[..., : self.embed_dim]

    def seen_slow(self, embeds: Tensor) -> Tensor:
        """The slow features (..., S) of the picture that embeddings (..., E) hold."""
        last = self.embed_dim - self.place_dim
        return embeds[..., last - self.slow_dim : last].float()

    def predict_slow(self, before: Tensor, h: Tensor, z: Tensor) -> Tensor:
        """Slow features (..., S) one step after those of `before` (..., S), in the state (h, z) of that step.

        They stay as they are but for what h and z say: a drawer that nobody pulls stays where it is.
        """
        if self.slow_head is None:
            return before
        return before + self.slow_step * self.slow_head(torch.cat([h, z, before], -1)).float()

    def prior(self, h: Tensor) -> Tensor:
        """(..., D) -> float32 logits (..., C, K) of z before its observation."""
        return self._logits(self.prior_head(h))

    def posterior(self, h: Tensor, embed: Tensor) -> Tensor:
        """(..., D), (..., E) -> float32 logits (..., C, K) of z given its observation."""
        return self._logits(self.posterior_head(self.recurrent_in(h) + self.embed_in(self.inputs(embed))))

    def noise(self, *leading: int, rng: torch.Generator | None = None) -> Tensor:
        """Standard Gumbel noise (*leading, C, K) for samples of z; a generator on the CPU draws the same for a GPU."""
        shape = (*leading, self.config.categoricals, self.config.classes)
        return gumbel(*shape, device=self.action_in.weight.device, rng=rng)

    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Sample z (..., C*K) by the Gumbel-max trick, gradients straight through the probabilities.

        `noise` (..., C, K) is the Gumbel noise to use; drawn here when None.
        """
        noise = self.noise(*logits.shape[:-2]) if noise is None else noise
        hard = torch.zeros_like(logits).scatter_(-1, (logits + noise).argmax(-1, keepdim=True), 1.0)
        probabilities = logits.softmax(-1)
        return (hard + (probabilities - probabilities.detach())).flatten(-2)

    def filter(self, state: State, previous_action: Tensor, embed: Tensor, noise: Tensor | None = None) -> State:
        """One posterior step: state (B, ...), executed action (B, A), embedding of the new frame (B, E)."""
        target = self.seen_target(embed)
        h = self.recur(state, previous_action, target)
        return State(h, self.sample(self.posterior(h, embed), noise), target, self.seen_slow(embed))

    def imagine_step(self, state: State, action: Tensor, noise: Tensor | None = None) -> State:
        """One prior step: the state (B, ...) that the executed action (B, A) leads to."""
        target = self.move_target(state, action)
        h = self.recur(state, action, target)
        z = self.sample(self.prior(h), noise)
        return State(h, z, target, self.predict_slow(state.slow, h, z))

    def observe(self, embeds: Tensor, previous_actions: Tensor, reset: Tensor, noise: Tensor | None = None) -> Observed:
        """Filter sequences from the zero state.

        Args:
            embeds: (B, T, E) of the frames.
            previous_actions: (B, T, A), executed; entry t led to frame t, entry 0 is the null action.
            reset: (B, T) bool; true zeroes h, z and the previous action before step t.
            noise: (B, T, C, K) Gumbel noise of the posterior samples; drawn here when None.
        """
        batch, length = reset.shape
        assert embeds.shape == (batch, length, self.embed_dim + self.target_dim - self.place_dim), embeds.shape
        assert previous_actions.shape == (batch, length, self.action_dim), previous_actions.shape
        keep = (~reset).to(previous_actions.dtype)
        targets, slow = self.seen_target(embeds), self.seen_slow(embeds)
        before = F.pad(slow[:, :-1], (0, 0, 1, 0)) * keep[..., None]  # the slow features of the frame before
        # projections of all steps at once
        previous = [previous_actions * keep[..., None], place_code(targets[..., PLACE]), before]
        action_codes = self.action_in(torch.cat(previous, -1))
        embed_codes = self.embed_in(self.inputs(embeds))
        noise = self.noise(batch, length) if noise is None else noise
        steps = _Steps(self, action_codes, embed_codes)
        state, states, posteriors = self.initial(batch), [], []
        for keep_t, noise_t, *seen in zip(*(each.unbind(1) for each in (keep, noise, targets, slow)), strict=True):
            h, flat = steps.next(state.where(keep_t))
            posteriors.append(self._logits(flat))
            state = State(h, self.sample(posteriors[-1], noise_t), *seen)
            states.append(state)
        stacked = State.stack(states, 1)
        predicted = self.predict_slow(before, stacked.h, stacked.z)
        return Observed(stacked, self.prior(stacked.h), torch.stack(posteriors, 1), predicted)

    def imagine(self, state: State, actions: Tensor, noise: Tensor | None = None) -> State:
        """States (B, T, ...) that the executed actions (B, T, A) lead to from `state` (B, ...) without observations."""
        batch, length, _ = actions.shape
        noise = self.noise(batch, length) if noise is None else noise
        states = []
        for t in range(length):
            state = self.imagine_step(state, actions[:, t], noise[:, t])
            states.append(state)
        return State.stack(states, 1)

    def _logits(self, flat: Tensor) -> Tensor:
        return flat.float().unflatten(-1, (self.config.categoricals, self.config.classes))


class _Steps:
    """`RSSM.recur` and `RSSM.posterior` from one step to the next, the gradients of their weights after the last."""

    def __init__(self, rssm: RSSM, action_codes: Tensor, embed_codes: Tensor):
        gru, leading = rssm.gru, action_codes.shape[:2]
        norm, activation, logits = rssm.posterior_head
        dtype = action_codes.dtype
        assert isinstance(logits, nn.Linear)
        self._input_norm, self._posterior = rssm.input_norm, nn.Sequential(norm, activation)
        self._latent = LoopLinear(rssm.latent_in.weight, action_codes)
        self._gates_x = LoopLinear(gru.weight_ih, gru.bias_ih.to(dtype).expand(*leading, -1))
        self._gates_h = LoopLinear(gru.weight_hh, gru.bias_hh.to(dtype).expand(*leading, -1))
        self._recurrent = LoopLinear(rssm.recurrent_in.weight, embed_codes)
        self._logits = LoopLinear(logits.weight, logits.bias.to(dtype).expand(*leading, -1))

    def next(self, state: State) -> tuple[Tensor, Tensor]:
        """State (B, ...) -> next h (B, D), logits of its posterior (B, C*K)."""
        x = F.elu(self._input_norm(self._latent(state.z)))
        h = gru(self._gates_x(x), self._gates_h(state.h), state.h)
        return h, self._logits(self._posterior(self._recurrent(h)))


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer: (..., inputs) -> (..., outputs)."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ELU(), nn.Linear(hidden, outputs))


def gru(gates_x: Tensor, gates_h: Tensor, h: Tensor) -> Tensor:
    """Next h (B, D) from what `nn.GRUCell` makes of its input and of h, (B, 3 * D) each."""
    reset_x, update_x, new_x = gates_x.chunk(3, -1)
    reset_h, update_h, new_h = gates_h.chunk(3, -1)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return new + torch.sigmoid(update_x + update_h) * (h - new)


def place_code(place: Tensor) -> Tensor:
    """A normalised place (..., P) -> (..., 9 P): itself, and sine and cosine of each number's waves.

    They are 4, 2, 1 and 0.5 standard deviations long (Tancik et al. 2020): of hand positions that spread over 10 cm, a
    centimetre turns the last one's phase by 72 degrees.
    """
    waves = place.new_tensor([2.0**wave for wave in range(PLACE_WAVES)]) * (math.pi / 2)
    phase = (place[..., None] * waves).flatten(-2)
    return torch.cat([place, phase.sin(), phase.cos()], -1)


def gumbel(*shape: int, device: torch.device | str, rng: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise, drawn where `rng` is, without it from torch's own generator of `device`."""
    uniform = torch.rand(shape, generator=rng, device=rng.device if rng else device)
    return uniform.log_().neg_().log_().neg_().to(device)  # several times as fast as from exponential samples


def shift_actions(actions: Tensor, null: Tensor) -> Tensor:
    """Actions (B, T, A) that lead away from frames -> those that led to them: null (A,) first, the last one dropped."""
    first = null.to(actions).expand(actions.shape[0], 1, -1)
    return torch.cat([first, actions[:, :-1]], 1)


def categorical_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(p || q) of (..., C, K) logits, summed over the C categoricals -> (...), nats."""
    p_log, q_log = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    return (p_log.exp() * (p_log - q_log)).sum((-2, -1))


def entropy(logits: Tensor) -> Tensor:
    """Entropy of (..., C, K) logits, summed over the C categoricals -> (...), nats."""
    log = logits.log_softmax(-1)
    return -(log.exp() * log).sum((-2, -1))


def balanced_kl(posterior_logits: Tensor, prior_logits: Tensor, balance: float) -> Tensor:
    """balance * KL(sg(q) || p) + (1 - balance) * KL(q || sg(p)) -> (...), nats; its value is KL(q || p).

    With balance 0.8 the prior learns four times as fast as the posterior is held back (DreamerV2, section 2.2;
    Eq. 11 of the paper prints the factor on the other term).
    """
    train_prior = categorical_kl(posterior_logits.detach(), prior_logits)
    return balance * train_prior + (1 - balance) * categorical_kl(posterior_logits, prior_logits.detach())
