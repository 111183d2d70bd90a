"""Dreams and PPO written plainly from the paper (S.2.2 to S.2.4) and docs/method.md: what ours is measured against.

Every denoising step concatenates chunk, time and features into one layer; every entry of a minibatch brings its own
features and scores the frozen policy anew; lists are stacked at the end; float32, plain Adam. One run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diwa_learning.policy.diffusion import cosine_betas, sinusoid

CHUNK, ACTION, SURE = 4, 7, 3


class PlainPolicy(nn.Module):
    """eps_theta([a^k, time, features]); loads the weights of a `DiffusionPolicy`."""

    def __init__(self, feature_dim: int, width: int, steps: int):
        super().__init__()
        self.steps = steps
        self.time = nn.Sequential(nn.Linear(16, 32), nn.Mish(), nn.Linear(32, 16))
        self.trunk = nn.ModuleDict(
            {
                "input": nn.Linear(CHUNK * ACTION + 16 + feature_dim, width),
                "hidden": nn.Linear(width, width),
                "residual": nn.Linear(width, width),
                "output": nn.Linear(width, CHUNK * ACTION),
            }
        )
        beta = torch.tensor(cosine_betas(steps))
        tables = {"positions": sinusoid(steps), "beta": beta, "alpha_bar": torch.cumprod(1 - beta, 0)}
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def denoise(self, features: Tensor, chunk: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, 4, 7) and std (B, 1, 1) of a^{k-1}."""
        inputs = torch.cat([chunk.flatten(1), self.time(self.positions[k - 1]), features], 1)
        u = self.trunk["input"](inputs)
        u = u + self.trunk["residual"](F.mish(self.trunk["hidden"](F.mish(u))))
        eps = self.trunk["output"](u).view(-1, CHUNK, ACTION)
        beta, ab = self.beta[k - 1], self.alpha_bar[k - 1]
        before = torch.where(k > 1, self.alpha_bar[(k - 2).clamp_min(0)], 1.0)
        beta, ab, before = (x[:, None, None] for x in (beta, ab, before))
        x0 = ((chunk - (1 - ab).sqrt() * eps) / ab.sqrt()).clamp(-1, 1)
        mean = before.sqrt() * beta / (1 - ab) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - ab) * chunk
        return mean, (beta * (1 - before) / (1 - ab)).sqrt()


class PlainPrior(nn.Module):
    """h' = GRU(ELU(LN(W_z z + W_a a)), h), z' from the prior head; loads the weights of an `RSSM` without target."""

    def __init__(self, recurrent: int, categoricals: int, classes: int, hidden: int):
        super().__init__()
        self.shape = (categoricals, classes)
        latent = categoricals * classes
        self.action_in, self.latent_in = nn.Linear(ACTION, hidden), nn.Linear(latent, hidden, bias=False)
        self.input_norm, self.gru = nn.LayerNorm(hidden), nn.GRUCell(hidden, recurrent)
        self.prior_head = nn.Sequential(
            nn.Linear(recurrent, hidden), nn.LayerNorm(hidden), nn.ELU(), nn.Linear(hidden, latent)
        )

    def forward(self, h: Tensor, z: Tensor, action: Tensor, gumbel: Tensor) -> tuple[Tensor, Tensor]:
        h = self.gru(F.elu(self.input_norm(self.latent_in(z) + self.action_in(action))), h)
        logits = self.prior_head(h).view(-1, *self.shape)
        return h, F.one_hot((logits + gumbel).argmax(-1), self.shape[1]).float().flatten(1)


@dataclass
class PlainRollout:
    """Lists over chunks, stacked to (N, T, ...)."""

    features: Tensor
    next_features: Tensor
    chains: Tensor
    reward: Tensor
    terminated: Tensor
    done: Tensor


@torch.no_grad()
def rollout(
    prior: PlainPrior,
    classifier: nn.Module,
    base: PlainPolicy,
    trained: PlainPolicy,
    starts: tuple[Tensor, Tensor],
    rng: torch.Generator,
    dreams: int,
    chunks: int,
    horizon: int,
    trained_steps: int,
) -> PlainRollout:
    """One iteration of dreams, binary reward for being sure 3 states running, std floor 0.1, noise clamped at 3."""
    drawn = {"generator": rng, "device": rng.device}
    bank_h, bank_z = starts
    kept: dict[str, list[Tensor]] = {name: [] for name in PlainRollout.__dataclass_fields__}
    first = (torch.rand(dreams, **drawn) * len(bank_h)).long()
    h, z, age = bank_h[first], bank_z[first], torch.zeros(dreams, device=bank_h.device)
    sure_for = torch.zeros_like(age)
    for t in range(chunks):
        features = torch.cat([h, z], 1)
        noise = torch.randn(dreams, base.steps + 1, CHUNK, ACTION, **drawn)
        chain = [noise[:, 0]]
        for k in range(base.steps, 0, -1):
            part, ks = trained if k <= trained_steps else base, torch.full((dreams,), k, device=h.device)
            mean, std = part.denoise(features, chain[-1], ks)
            chain.append(mean + std.clamp_min(0.1) * noise[:, base.steps - k + 1].clamp(-3, 3))
        success = torch.zeros(dreams, dtype=torch.bool, device=h.device)
        for step in range(CHUNK):
            action = chain[-1][:, step].clamp(-1, 1)
            action = torch.cat([action[:, :6], torch.where(action[:, 6:] >= 0, 1.0, -1.0)], 1)
            h, z = prior(h, z, action, -torch.log(-torch.log(torch.rand(dreams, *prior.shape, **drawn))))
            after = torch.cat([h, z], 1)
            sure = classifier.probability(after) > classifier.threshold
            sure_for = torch.where(sure, sure_for + 1, torch.zeros_like(sure_for))
            success |= sure_for >= SURE
        age = age + 1
        done = success | (age >= horizon) | (t == chunks - 1)
        rows = (features, after, torch.stack(chain, 1), success.float(), success, done)
        for name, value in zip(kept, rows, strict=True):
            kept[name].append(value)
        fresh = (torch.rand(dreams, **drawn) * len(bank_h)).long()
        h, z = torch.where(done[:, None], bank_h[fresh], h), torch.where(done[:, None], bank_z[fresh], z)
        age, sure_for = age * ~done, sure_for * ~done
    return PlainRollout(**{name: torch.stack(values, 1) for name, values in kept.items()})


def log_prob(mean: Tensor, std: Tensor, value: Tensor) -> Tensor:
    """Per element in [-5, 2], mean over the 28: (M,)."""
    each = -0.5 * ((value - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
    return each.clamp(-5, 2).mean((1, 2))


def update(
    done: PlainRollout,
    base: PlainPolicy,
    trained: PlainPolicy,
    critic: nn.Module,
    adams: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    rng: torch.Generator,
    trained_steps: int,
    epochs: int,
    minibatch: int,
    alpha_bc: float,
) -> None:
    """The PPO epochs of one iteration with the paper's settings (docs/method.md)."""
    gamma, lam = 0.999, 0.95
    with torch.no_grad():
        value, following = critic(done.features), critic(done.next_features)
        delta = done.reward + gamma * following * (~done.terminated) - value
        advantage, running = torch.zeros_like(delta), torch.zeros_like(delta[:, 0])
        for t in reversed(range(delta.shape[1])):
            running = delta[:, t] + gamma * lam * (~done.done[:, t]) * running
            advantage[:, t] = running
        returns = (advantage + value).flatten()
        advantage = ((advantage - advantage.mean()) / (advantage.std() + 1e-8)).flatten()
        features, chains = done.features.flatten(0, 1), done.chains.flatten(0, 1)[:, -trained_steps - 1 :]
        device = features.device
        chunk = torch.arange(len(features), device=device).repeat_interleave(trained_steps)
        k = torch.arange(trained_steps, 0, -1, device=device).repeat(len(features))
        before, after = chains[:, :-1].flatten(0, 1), chains[:, 1:].flatten(0, 1)
        old = torch.cat(
            [
                log_prob(mean, std.clamp_min(0.1), after[rows])
                for rows in torch.arange(len(k), device=device).split(minibatch)
                for mean, std in [trained.denoise(features[chunk[rows]], before[rows], k[rows])]
            ]
        )
    clip = 0.001 + 0.009 * (torch.exp(3 * (trained_steps - k) / (trained_steps - 1)) - 1) / (math.exp(3) - 1)
    for _ in range(epochs):
        entries = torch.randperm(len(k), generator=rng, device=device).split(minibatch)
        chunks = torch.randperm(len(features), generator=rng, device=device).tensor_split(len(entries))
        for some, some_chunks in zip(entries, chunks, strict=True):
            seen = features[chunk[some]]
            mean, std = trained.denoise(seen, before[some], k[some])
            with torch.no_grad():
                base_mean, _ = base.denoise(seen, before[some], k[some])
            std = std.clamp_min(0.1)
            ratio = (log_prob(mean, std, after[some]) - old[some]).exp()
            gain = advantage[chunk[some]] * 0.99 ** (k[some] - 1)
            clipped = torch.maximum(torch.minimum(ratio, 1 + clip[some]), 1 - clip[some])
            bc = ((base_mean - mean) ** 2 / (2 * std**2)).mean()
            loss = -torch.minimum(ratio * gain, clipped * gain).mean() + alpha_bc * bc
            value_loss = 0.5 * F.mse_loss(critic(features[some_chunks]), returns[some_chunks])
            for adam, objective in zip(adams, (loss, value_loss), strict=True):
                adam.zero_grad()
                objective.backward()
                adam.step()
