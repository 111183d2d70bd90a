"""Checkpoint folders: what is written comes back, what does not fit is refused by name."""

import json
import os
from dataclasses import dataclass, replace

import pytest
import torch

from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import build, load_checkpoint, save_checkpoint, weights_hash
from diwa_learning.core.run import save_state
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import load_world_model


@dataclass(frozen=True)
class SomeConfig:
    """Any phase's configuration."""

    width: int = 3
    sizes: tuple[int, ...] = (4, 5)


@pytest.fixture
def saved(tmp_path):
    """A policy checkpoint."""
    path = tmp_path / "policy"
    save_checkpoint(path, "policy", {"w": torch.arange(6.0)}, SomeConfig(7), Spec(), {"loss": 0.5}, "feed")
    return path


def test_a_checkpoint_comes_back(saved):
    checkpoint = load_checkpoint(saved, "policy", Spec(), "feed")
    assert checkpoint.weights["w"].tolist() == [0, 1, 2, 3, 4, 5]
    assert checkpoint.config_as(SomeConfig) == SomeConfig(7)
    assert (checkpoint.metrics, checkpoint.world_model_hash) == ({"loss": 0.5}, "feed")
    assert checkpoint.hash == weights_hash(saved)
    assert sorted(p.name for p in saved.iterdir()) == [
        "config.json",
        "manifest.json",
        "metrics.json",
        "spec.json",
        "weights.safetensors",
    ]


def test_a_world_model_comes_back_with_its_hash(tmp_path, tiny_world_model, random_frames):
    tiny_world_model.set_state_statistics(torch.arange(10.0), torch.ones(10))
    save_checkpoint(tmp_path, "world_model", tiny_world_model.state_dict(), tiny_world_model.config, Spec(), {})
    loaded = load_world_model(tmp_path)
    frames = random_frames(1, 2)
    torch.testing.assert_close(loaded.model.embed(*frames), tiny_world_model.embed(*frames))
    assert loaded.model.config == tiny_world_model.config
    assert loaded.spec == Spec()
    assert loaded.hash == weights_hash(tmp_path)
    assert len(loaded.hash) == 16
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_another_phase_is_refused(saved):
    with pytest.raises(DiwaError, match="is a policy checkpoint, but a world_model checkpoint is needed"):
        load_world_model(saved)


def test_another_spec_is_refused_with_both_values(saved):
    with pytest.raises(DiwaError, match=r"spec\.rate is 7\.5, expected 15\.0"):
        load_checkpoint(saved, "policy", replace(Spec(), rate=15.0))


def test_another_world_model_is_refused_with_both_hashes(saved):
    with pytest.raises(DiwaError, match="trained on world model feed, but this one is f00d"):
        load_checkpoint(saved, "policy", Spec(), "f00d")


def test_a_missing_or_unfinished_checkpoint_says_how_to_make_it(saved, tmp_path):
    with pytest.raises(DiwaError, match=r"no checkpoint folder .*nowhere; make one with `diwa train-reward"):
        load_checkpoint(tmp_path / "nowhere", "reward")
    with pytest.raises(DiwaError, match=r"config\.json is missing"):
        load_checkpoint(tmp_path, "policy")
    (saved / "weights.safetensors").unlink()
    with pytest.raises(DiwaError, match="unfinished; run `diwa train-policy` again"):
        load_checkpoint(saved, "policy")


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_truncated_weights_are_refused(saved, keep):
    weights = saved / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(DiwaError, match=r"weights\.safetensors is truncated or damaged"):
        load_checkpoint(saved, "policy")


def test_damaged_or_foreign_headers_are_refused(saved):
    (saved / "config.json").write_text("{")
    with pytest.raises(DiwaError, match="damaged"):
        load_checkpoint(saved, "policy")
    (saved / "config.json").write_text(json.dumps({"phase": "cooking"}))
    with pytest.raises(DiwaError, match="is this the right folder"):
        load_checkpoint(saved, "policy")


def test_weights_of_other_sizes_are_refused(tiny_world_model, tmp_path):
    save_checkpoint(tmp_path, "world_model", tiny_world_model.state_dict(), WorldModelConfig(), Spec(), {})
    with pytest.raises(DiwaError, match=r"do not fit its config\.json"):
        load_world_model(tmp_path)
    with pytest.raises(DiwaError, match="do not fit"):
        build(lambda: torch.nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}, tmp_path)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    (tmp_path / f".w.safetensors.{os.getpid()}.part").symlink_to("/dev/full")  # where the file is written first
    with pytest.raises(DiwaError, match="no space left to write"):
        save_state(tmp_path / "w.safetensors", {"w": torch.zeros(3)})
    assert list(tmp_path.iterdir()) == []
