"""Checkpoints, skill bundles and the state of an unfinished training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Target
from mutations import changed_json, scramble

from diwa_data.manifest import MANIFEST
from diwa_data.spec import Spec
from diwa_deploy.bundle import CARD, StartRegion, load_bundle, pack_bundles, write_bundle
from diwa_learning.agent import load_agent
from diwa_learning.core.checkpoint import (
    CONFIG,
    METRICS,
    SPEC,
    WEIGHTS,
    load_checkpoint,
    read_header,
    save_checkpoint,
    weights_hash,
)
from diwa_learning.core.run import load_state, save_state
from diwa_learning.policy.checkpoint import PolicyNetConfig, describe, make_policy, policy_weights
from diwa_learning.policy.train import PolicyConfig
from diwa_learning.reward.classifier import RewardClassifier, RewardConfig
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import RSSMConfig

_VALID = "valid"
"""Content of targets whose files have no checksum: anything that is read must only be whole in itself."""
_START = StartRegion((0.4, -0.1, 0.2), (0.5, 0.1, 0.3), (1.0, 0.0, 0.0, 0.0), 0.2)


def bundle(folder: Path) -> Path:
    """A skill of untrained networks."""
    config = WorldModelConfig(depth=1, rssm=RSSMConfig(recurrent=12, categoricals=3, classes=4, hidden=10))
    torch.manual_seed(0)
    model = WorldModel(config, Spec())
    parts = {name: folder / name for name in ("world_model", "policy", "reward")}
    save_checkpoint(parts["world_model"], "world_model", model.state_dict(), config, Spec(), {"loss": 0.5})
    key, net = weights_hash(parts["world_model"]), PolicyNetConfig(width=8, denoising_steps=2)
    policy, about = make_policy(net, model.feature_dim, 7), describe(net, "open_drawer", trained_steps=0)
    save_checkpoint(parts["policy"], "policy", policy_weights(policy), PolicyConfig(net=net), Spec(), about, key)
    judge, settings = RewardClassifier(model.feature_dim, 8), RewardConfig(width=8)
    about = {"skill": "open_drawer", "precision": 0.9}
    save_checkpoint(parts["reward"], "reward", judge.state_dict(), settings, Spec(), about, key)
    card = {"skill": "open_drawer", "start": _START.to_card(), "finetuned": {"rate": 0.8}}
    return write_bundle(folder / "open_drawer", parts, card).path


def _file(name: str, sealed: bool = True) -> Callable[[Path], Path]:
    """Makes the bundle, without manifests unless `sealed`; damaged is its file `name`."""

    def make(folder: Path) -> Path:
        path = bundle(folder)
        for manifest in [] if sealed else path.rglob(MANIFEST):
            manifest.unlink()
        return path / name

    return make


def _packed(folder: Path) -> Path:
    pack_bundles([load_bundle(bundle(folder))], folder / "packed")
    return folder / "packed" / "open_drawer" / "policy" / WEIGHTS


def _contents(path: Path) -> Any:
    """Everything in the bundle that `path` is in."""
    folder = next(parent for parent in path.parents if parent.name == "open_drawer")
    found = load_bundle(folder)
    StartRegion.from_card(found.card, str(folder))
    parts = [
        load_checkpoint(part, read_header(part)["phase"]) for part in (found.world_model, found.policy, found.reward)
    ]
    load_agent(found.world_model, found.policy, found.reward, parts[0].spec)
    return found.card, [(p.phase, p.config, p.spec, p.metrics, p.world_model_hash, p.weights) for p in parts]


def _valid(path: Path) -> Any:
    _contents(path)
    return _VALID


def _state(folder: Path) -> Path:
    parts = {"model": {"w": torch.arange(600.0)}, "step": torch.tensor(3)}
    save_state(folder / "state.safetensors", {"parts": parts, "step": 3, "history": {"loss": [(0, 1.0), (1, 0.5)]}})
    return folder / "state.safetensors"


def _same(content: Any) -> Any:
    return content


TARGETS = [
    Target("weights", _file(f"world_model/{WEIGHTS}"), _contents),
    Target("weights_policy", _file(f"policy/{WEIGHTS}"), _contents),
    Target("weights_int8", _packed, _contents),
    Target("spec", _file(f"policy/{SPEC}"), _contents),
    Target("config", _file(f"policy/{CONFIG}"), _contents),
    Target("metrics", _file(f"policy/{METRICS}"), _contents),
    Target("card", _file(CARD), _contents),
    Target("checkpoint_manifest", _file(f"policy/{MANIFEST}"), _contents),
    Target("bundle_manifest", _file(MANIFEST), _contents),
    Target("training_state", _state, load_state),
    Target("weights_scrambled", _file(f"policy/{WEIGHTS}"), _contents, scramble),
    Target("weights_without_manifest", _file(f"policy/{WEIGHTS}", sealed=False), _valid, scramble),
    *(
        Target(f"{name.split('/')[-1].removesuffix('.json')}_values", _file(name, sealed=False), _valid, damage)
        for name in (f"world_model/{SPEC}", f"world_model/{CONFIG}", f"policy/{METRICS}", CARD)
        for damage in [changed_json(_same)]
    ),
    *(
        Target(f"{name.split('/')[-1].removesuffix('.json')}_scrambled", _file(name, sealed=False), _valid, scramble)
        for name in (f"world_model/{SPEC}", f"world_model/{CONFIG}", f"policy/{METRICS}", CARD)
    ),
]
