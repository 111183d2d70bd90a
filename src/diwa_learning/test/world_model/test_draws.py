"""Random draws of a training step: weights, and the frames to decode."""

from dataclasses import replace

import pytest
import torch

from diwa_data.spec import Spec
from diwa_learning.world_model.draws import Draws, draw
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.replay import Batch

VALID = torch.tensor([[True] * 8, [True] * 3 + [False] * 5])


def test_weights_are_shares_of_the_valid_frames(tiny_config):
    draws = draw(VALID, replace(tiny_config, robot_state_weight=1.0, imagined_steps=3, sequence_length=8))
    torch.testing.assert_close(draws.weight, VALID / 11)
    seen = VALID[:, 1:7]  # three steps from frame 0 and three from frame 3
    torch.testing.assert_close(draws.imagined_weight, seen / 8)
    assert draws.imagined_noise.shape == (2, 2, 3, 3, 4)
    assert draw(VALID, tiny_config).imagined_noise.numel() == 0


def test_decoded_frames_are_drawn_evenly_and_padded_ones_last(tiny_config):
    config = replace(tiny_config, decode_fraction=0.5)
    torch.manual_seed(0)
    frames = torch.stack([draw(VALID, config).frames for _ in range(500)])  # (500, 2, 4)
    counts = frames[:, 0].flatten().bincount(minlength=8)
    assert counts.sum() == 2000
    assert all(int(count) == pytest.approx(250, rel=0.2) for count in counts)
    assert bool((frames[:, 1].sort(-1).values[:, :3] == torch.arange(3)).all()), "all three valid ones, always"


def test_a_padded_sequence_stands_for_its_valid_frames_however_few_are_decoded(tiny_config, random_batch):
    config = replace(tiny_config, decode_fraction=0.25)
    torch.manual_seed(0)
    model = WorldModel(config, Spec()).requires_grad_(False)
    for decoder in model.decoders.values():  # black images, whatever the latent
        torch.nn.init.zeros_(decoder.layers[-1].weight)
        torch.nn.init.constant_(decoder.layers[-1].bias, -0.5)
    batch = replace(random_batch(2, 8), valid=VALID)
    parts = torch.stack([model.loss(batch).image for _ in range(300)])
    pixels = torch.stack([(image.double() / 255).square().sum((2, 3, 4)) for image in batch.images.values()])
    assert float(parts.mean()) == pytest.approx(0.5 * float(pixels.sum(0)[VALID].mean()), rel=0.005)


def test_losses_and_gradients_of_some_rows_add_up_to_the_batchs(tiny_config, random_batch):
    config = replace(tiny_config, robot_state_weight=1.0, imagined_steps=2, decode_fraction=0.5, sequence_length=8)
    torch.manual_seed(0)
    model = WorldModel(config, Spec())
    batch = replace(random_batch(3, 8), valid=torch.cat([VALID, VALID[:1]]))
    draws = draw(batch.valid, config)
    whole = model.loss(batch, draws)
    whole.total.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    losses, sums = [], dict.fromkeys(expected, 0)
    for rows in (slice(0, 2), slice(2, 3)):
        model.zero_grad(set_to_none=True)
        images, *others = vars(batch).values()
        some = Batch({name: image[rows] for name, image in images.items()}, *(part[rows] for part in others))
        losses.append(model.loss(some, Draws(*(part[rows] for part in vars(draws).values()))))
        losses[-1].total.backward()
        sums = {name: sums[name] + parameter.grad for name, parameter in model.named_parameters()}
    for name in ("total", "kl", "image", "robot_state", "posterior_entropy"):
        torch.testing.assert_close(sum(getattr(loss, name) for loss in losses), getattr(whole, name))
    for name, gradient in expected.items():
        torch.testing.assert_close(sums[name], gradient, rtol=1e-4, atol=1e-4)
