"""Which policy there is: its configuration, and reading it back from `policy` and `finetune` checkpoints."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import Checkpoint, build, load_checkpoint, read_header
from diwa_learning.policy.base import ChainPolicy, FinetunedPolicy
from diwa_learning.policy.registry import policy_class, require_policy_name
from diwa_learning.world_model.model import LoadedWorldModel

PREFIX = "policy."


@dataclass(frozen=True)
class PolicyNetConfig:
    """Kind and sizes of a policy."""

    kind: str = "diffusion"
    """`diffusion` is DiWA's policy, `gaussian` the unimodal one of Table S.6, and MODULE:CLASS a class of your own."""
    width: int = 512
    """Units of each hidden layer."""
    denoising_steps: int = 20
    """K, the steps from noise to actions; a Gaussian policy always takes one."""
    chunk: int = 4
    """H, the actions that are predicted and executed at a time."""

    def __post_init__(self) -> None:
        require_policy_name(self.kind)
        for name, largest in (("width", 10**6), ("denoising_steps", 1000), ("chunk", 1000)):
            if not 1 <= getattr(self, name) <= largest:
                raise DiwaError(f"policy.net.{name} is {getattr(self, name)}; it must lie in [1, {largest}]")


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy in evaluation mode with what it was made for."""

    policy: ChainPolicy
    net: PolicyNetConfig
    skill: str
    checkpoint: Checkpoint


def make_policy(net: PolicyNetConfig, feature_dim: int, action_dim: int) -> ChainPolicy:
    """A policy with fresh weights. Raises `DiwaError` if its class cannot be found or made."""
    kind, sizes = policy_class(net.kind), (feature_dim, net.width, net.denoising_steps, net.chunk, action_dim)
    cure = "it is called with feature_dim, width, steps, chunk and action_dim, and reads no tensor meanwhile"
    with damage_as_error(f"policy {net.kind!r} cannot be made", cure):
        return kind(*sizes)


def describe(net: PolicyNetConfig, skill: str, trained_steps: int) -> dict[str, Any]:
    """The entries of a checkpoint's metrics about its policy; `trained_steps` is 0 before fine-tuning."""
    return {"skill": skill, "policy": dataclasses.asdict(net), "trained_steps": trained_steps}


def policy_weights(policy: nn.Module) -> dict[str, Tensor]:
    """The policy's tensors under the names they have in checkpoints."""
    return {PREFIX + name: tensor for name, tensor in policy.state_dict().items()}


def load_policy(path: Path, spec: Spec, world_model_hash: str, feature_dim: int) -> LoadedPolicy:
    """The policy of a `policy` checkpoint, or base and trained copy of a `finetune` checkpoint.

    Raises `DiwaError` when it is of another phase, spec or world model.
    """
    path = Path(path)
    finetuned = path.is_dir() and read_header(path)["phase"] == "finetune"
    checkpoint = load_checkpoint(path, "finetune" if finetuned else "policy", spec, world_model_hash)
    where = f"{path}/metrics.json"
    if "policy" not in checkpoint.metrics:
        raise DiwaError(f"{where} does not describe the policy; the checkpoint is damaged: make it again")
    net = from_mapping(PolicyNetConfig, checkpoint.metrics["policy"], where)
    steps = checkpoint.metrics.get("trained_steps", 0)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < finetuned:
        raise DiwaError(f"{where}: trained_steps is {steps!r:.100}, no number of steps; make the checkpoint again")

    weights = {n.removeprefix(PREFIX): tensor for n, tensor in checkpoint.weights.items() if n.startswith(PREFIX)}

    def make() -> ChainPolicy:
        policy = make_policy(net, feature_dim, spec.action_dim)
        return FinetunedPolicy(policy, steps) if finetuned else policy

    policy = build(make, weights, path)
    return LoadedPolicy(policy.eval().requires_grad_(False), net, checkpoint.skill, checkpoint)


def load_pretrained(path: Path, world: LoadedWorldModel) -> LoadedPolicy:
    """A `policy` checkpoint; `DiwaError` for one that is fine-tuned already, or of another spec or world model."""
    pretrained = load_policy(path, world.spec, world.hash, world.model.feature_dim)
    if isinstance(pretrained.policy, FinetunedPolicy):
        raise DiwaError(f"{path} is fine-tuned already: give a checkpoint of `diwa train-policy`")
    return pretrained
