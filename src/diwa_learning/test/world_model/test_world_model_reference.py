"""The loss at speed is that of the plain implementation that benchmarks compare with."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diwa_data.spec import Spec
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.draws import draw
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.train import training_flops

sys.path.insert(0, str(Path(__file__).parents[4] / "benchmarks"))
from reference import world_model as reference


def test_same_loss_and_gradients_as_the_plain_model(tiny_config, random_batch):
    config = replace(tiny_config, target=False, reset_probability=0.2)
    torch.manual_seed(0)
    model, plain = WorldModel(config, Spec()), reference.PlainWorldModel(config, Spec())
    batch = random_batch(3, 7)
    model.set_state_statistics(torch.full((10,), 0.2), torch.full((10,), 1.5))
    model.set_image_statistics({name: frames.flatten(0, 1) for name, frames in batch.images.items()})
    unknown = plain.load_state_dict(model.state_dict(), strict=False)
    assert (unknown.missing_keys, unknown.unexpected_keys) == ([], ["rssm.target_step"])
    draws = draw(batch.valid, config)
    assert bool(draws.reset.any())
    ours = model.loss(batch, draws).total
    ours.backward()
    theirs = plain.loss(batch.images, batch.state, batch.previous_actions, draws.reset, draws.noise)
    theirs.backward()
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-5, atol=0)
    expected = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        difference = (parameter.grad - expected[name].grad).norm()
        assert float(difference) <= 1e-4 * float(expected[name].grad.norm()), name


def test_a_frame_of_the_papers_model_takes_as_many_operations_as_the_method_says():
    model = WorldModel(WorldModelConfig(sequence_length=2), Spec())
    assert training_flops(model) == pytest.approx(1.1e9, rel=0.03)
