"""Whether a policy keeps the protocol of `ChainPolicy`: asked of the classes of others before they are trained."""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable

import torch
from torch import Tensor

from diwa_data.errors import DiwaError
from diwa_learning.policy.base import ChainPolicy, Chains, Exploration, FinetunedPolicy, Normal
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.policy.registry import OURS, policy_class

ROWS = 8
"""Random states on which a policy is tried."""


def require_protocol(net: PolicyNetConfig, feature_dim: int, action_dim: int) -> None:
    """Raise `DiwaError` unless a policy of a class that is not ours keeps the protocol; torch's generator stays."""
    if net.kind in OURS:
        return
    try:
        with torch.random.fork_rng(devices=[]):
            check_policy(lambda: make_policy(net, feature_dim, action_dim), feature_dim, net.chunk, action_dim)
    except DiwaError:
        raise
    except Exception as error:  # of the code of others, which may raise anything
        source = inspect.getfile(policy_class(net.kind))
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
        where = f"{source}:{lines[-1]}" if lines else source
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise DiwaError(f"policy {net.kind!r} fails on random numbers ({why}) at {where}") from error


def check_policy(make: Callable[[], ChainPolicy], feature_dim: int, chunk: int, action_dim: int) -> None:
    """Raise `DiwaError` naming what the policies that `make` makes do not keep of the protocol, on random numbers."""
    policy = make()
    _require(isinstance(policy, ChainPolicy), policy, "is not a ChainPolicy")
    sizes = (policy.chunk, policy.action_dim)
    _require(sizes == (chunk, action_dim), policy, f"has chunks of {sizes}, not {(chunk, action_dim)}")
    _require(policy.steps >= 1, policy, f"has {policy.steps} steps: it needs 1 or more")
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(ROWS, feature_dim, generator=rng)
    noise = policy.draw_noise(ROWS, rng)
    _require(any(True for _ in policy.parameters()), policy, "has no parameters to train")
    _check_loss(policy, features, noise)
    policy.eval()
    _check_denoise(policy, features, noise[:, 0])
    _check_chains(policy, features, noise)
    _check_copies(policy, make, features, noise)


def _check_loss(policy: ChainPolicy, features: Tensor, noise: Tensor) -> None:
    """A scalar with a gradient, which leaves buffers alone."""
    before = {name: buffer.clone() for name, buffer in policy.named_buffers()}
    loss = policy.loss(features, noise[:, -1].clamp(-1, 1), _some_steps(policy), noise[:, 0])
    _require(loss.shape == (), policy, f"has a loss of shape {tuple(loss.shape)}, not a scalar")
    _require(bool(loss.isfinite()), policy, f"has a loss of {loss.detach():g} on random chunks")
    _require_gradient(policy, loss, "its loss")
    changed = [name for name, buffer in policy.named_buffers() if not torch.equal(buffer, before[name])]
    _require(not changed, policy, f"changes its buffer {', '.join(changed)} in training (batch statistics?)")


def _check_denoise(policy: ChainPolicy, features: Tensor, chunk: Tensor) -> None:
    """Gaussians of the right shape, row by row, the same at every call."""
    k, drawn = _some_steps(policy), torch.get_rng_state()
    with torch.no_grad():
        projected = policy.project(features)
        normal, again = (policy.denoise(projected, chunk, k) for _ in range(2))
        one_by_one = zip(features.split(1), chunk.split(1), k.split(1), strict=True)
        rows = [policy.denoise(policy.project(state), before, step) for state, before, step in one_by_one]
    mean, std = normal.mean, normal.std
    _require(mean.shape == chunk.shape, policy, f"has a mean of {tuple(mean.shape)}, not {tuple(chunk.shape)}")
    shapes = (chunk.shape, (ROWS, 1, 1))
    _require(std.shape in shapes, policy, f"has a std of {tuple(std.shape)}, not {tuple(chunk.shape)} or {shapes[1]}")
    _require(bool(mean.isfinite().all() and std.isfinite().all()), policy, "has a mean or std that is not finite")
    _require(bool((std >= 0).all()), policy, f"has a std of {float(std.min()):g}, below 0")
    same = torch.equal(mean, again.mean) and torch.equal(std, again.std)
    _require(same and torch.equal(drawn, torch.get_rng_state()), policy, "draws random numbers in denoise")
    alone = Normal(torch.cat([row.mean for row in rows]), torch.cat([row.std for row in rows]))
    _require(_close(alone.mean, mean) and _close(alone.std, std), policy, "mixes the rows of a batch in denoise")


def _check_chains(policy: ChainPolicy, features: Tensor, noise: Tensor) -> None:
    """Chains whose steps are drawn from what `denoise` says, and whose log-probability has a gradient."""
    exploration = Exploration()
    with torch.no_grad():
        deployed, again = (policy.sample(features, noise) for _ in range(2))
        explored = policy.explore(features, noise, exploration)
    shape = (ROWS, policy.steps + 1, policy.chunk, policy.action_dim)
    _require(deployed.chains.shape == explored.chains.shape == shape, policy, f"has no chains of shape {shape}")
    _require(torch.equal(deployed.chains, again.chains), policy, "samples other chains from the same noise")
    clamped = noise.clamp(-exploration.noise_clamp, exploration.noise_clamp)
    surprise = torch.zeros(())
    for k in range(policy.steps, 0, -1):
        at = policy.steps - k
        normal = _step(policy, features, explored, k).with_floor(exploration.std_floor)
        drawn = normal.mean + normal.std * clamped[:, at + 1]
        after = explored.chains[:, at + 1]
        _require(_close(drawn, after), policy, f"samples step {k} from another Gaussian than denoise")
        surprise = surprise + ((after - normal.mean) / normal.std).square().mean()
    _require_gradient(policy, surprise, "the log-probability of its chains")


def _check_copies(policy: ChainPolicy, make: Callable[[], ChainPolicy], features: Tensor, noise: Tensor) -> None:
    """The trained copy of fine-tuning, and another one from a checkpoint, sample as the policy does."""
    with torch.device("meta"):
        outline = make().state_dict()
    weights = policy.state_dict()
    same = {name: t.shape for name, t in outline.items()} == {name: t.shape for name, t in weights.items()}
    _require(same, policy, "has other weights when it is made again")
    restored = make().eval()
    restored.load_state_dict(weights)
    with torch.no_grad():
        expected = policy.sample(features, noise).chains
        for other, what in ((restored, "a checkpoint of it"), (FinetunedPolicy(copy.deepcopy(policy), 1), "a copy")):
            _require(torch.equal(other.sample(features, noise).chains, expected), policy, f"samples unlike {what}")


def _some_steps(policy: ChainPolicy) -> Tensor:
    """(ROWS,) int64, from K down to 1."""
    return torch.linspace(policy.steps, 1, ROWS).round().long()


def _step(policy: ChainPolicy, features: Tensor, chains: Chains, k: int) -> Normal:
    """The distribution of a^{k-1} at the chains' a^k."""
    before = chains.chains[:, policy.steps - k]
    return policy.denoise(policy.project(features), before, torch.full((ROWS,), k))


def _require_gradient(policy: ChainPolicy, value: Tensor, what: str) -> None:
    parameters = [each for each in policy.parameters() if each.requires_grad]
    _require(value.requires_grad, policy, f"cannot be trained: {what} has no gradient")
    found = [each for each in torch.autograd.grad(value, parameters, allow_unused=True) if each is not None]
    _require(any(bool(each.any()) for each in found), policy, f"cannot be trained: the gradient of {what} is 0")
    _require(all(bool(each.isfinite().all()) for each in found), policy, f"has a gradient of {what} that is not finite")


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def _require(good: bool, policy: ChainPolicy, wrong: str) -> None:
    if not good:
        raise DiwaError(f"policy {type(policy).__name__} {wrong}: docs/extending.md has the protocol")
