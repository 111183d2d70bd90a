"""Checkpoints for deployment: rounded a little, filtering as before, useless for dreaming."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import (
    SCALE,
    SMALL,
    compact,
    load_checkpoint,
    save_checkpoint,
    weights_hash,
    write_compact,
)
from diwa_learning.world_model.model import load_world_model


@given(st.integers(0, 10_000), st.floats(-20, 20))
def test_a_number_is_off_by_half_a_step_of_its_row_at_most(seed, magnitude):
    rows = torch.randn(8, SMALL // 8, generator=torch.Generator().manual_seed(seed)) * 10.0**magnitude
    rows[3] = 0.0
    found = compact({"w": rows})
    assert found["w"].dtype == torch.int8
    restored = found["w"].float() * found["w" + SCALE][:, None]
    steps = rows.abs().amax(1, keepdim=True) / 127
    assert ((restored - rows).abs() <= 0.5001 * steps).all()


def test_vectors_and_small_matrices_stay_as_they_are():
    weights = {"bias": torch.randn(2 * SMALL), "small": torch.randn(2, SMALL // 2 - 1)}
    assert compact(weights) == weights


@pytest.fixture
def written(tmp_path, tiny_world_model):
    """A world model, whole, and made compact beside it."""
    weights, config = tiny_world_model.state_dict(), tiny_world_model.config
    save_checkpoint(tmp_path / "whole", "world_model", weights, config, Spec(), {"psnr": 20.0, "history": {}})
    write_compact(load_checkpoint(tmp_path / "whole", "world_model"), tmp_path / "compact")
    return tmp_path


def test_a_compact_world_model_is_small_and_filters_as_before(written, tiny_world_model, random_frames):
    small = load_world_model(written / "compact", decodes=False)
    sizes = [(written / name / "weights.safetensors").stat().st_size for name in ("whole", "compact")]
    assert sizes[1] < sizes[0] / 3
    frames = random_frames(4, 2)
    expected = tiny_world_model.embed(*frames)
    torch.testing.assert_close(small.model.embed(*frames), expected, atol=0.02 * float(expected.std()), rtol=0)
    assert small.hash == weights_hash(written / "compact") != weights_hash(written / "whole")
    assert load_checkpoint(written / "compact", "world_model").metrics == {"psnr": 20.0}


def test_a_compact_world_model_is_refused_where_dreams_are_needed(written):
    with pytest.raises(DiwaError, match="compact was packed for deployment and cannot dream: give the world model"):
        load_world_model(written / "compact")


def test_a_compact_policy_is_bound_to_the_compact_world_model(written, toy_policy_path):
    write_compact(load_checkpoint(toy_policy_path, "policy"), written / "policy", "feed")
    assert load_checkpoint(written / "policy", "policy", world_model_hash="feed").world_model_hash == "feed"
    with pytest.raises(DiwaError, match="was trained on world model feed, but this one is"):
        load_checkpoint(written / "policy", "policy", world_model_hash=weights_hash(written / "whole"))
