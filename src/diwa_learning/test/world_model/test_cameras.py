"""One to four cameras of any names, each with a size of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diwa_data.errors import DiwaError
from diwa_data.spec import NETWORK_SIDES, CameraSpec, Spec
from diwa_learning.reward.classifier import ImageClassifier
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.networks import ImageDecoder, ImageEncoder
from diwa_learning.world_model.open_loop import open_loop, save_filmstrip
from diwa_learning.world_model.replay import Batch

ONE = (CameraSpec("half"),)  # also the name of a method of every PyTorch module
THREE = (CameraSpec("front"), CameraSpec("wrist", size=(48, 80)), CameraSpec("side", size=(96, 64)))


def batch_of(spec: Spec, rows: int = 2, length: int = 5) -> Batch:
    rng = torch.Generator().manual_seed(0)
    images = {
        camera.name: torch.randint(256, (rows, length, *camera.size, 3), dtype=torch.uint8, generator=rng)
        for camera in spec.cameras
    }
    state = torch.randn(rows, length, spec.state_dim, generator=rng)
    actions = torch.rand(rows, length, spec.action_dim, generator=rng) * 2 - 1
    return Batch(images, state, state[..., :9], actions, torch.ones(rows, length, dtype=torch.bool))


@pytest.mark.parametrize("sides", [*((side, 64) for side in NETWORK_SIDES), (64, 128), (112, 48)])
def test_every_size_is_seen_to_its_edges_and_decoded(sides: tuple[int, int]) -> None:
    torch.manual_seed(0)
    encoder, decoder = ImageEncoder(2, sides), ImageDecoder(2, sides)
    image = torch.rand(1, 3, *sides).contiguous(memory_format=torch.channels_last).requires_grad_()
    code = encoder(image)
    assert code.shape == (1, encoder.output_dim)
    code.square().sum().backward()
    assert image.grad is not None
    seen = image.grad.abs().sum((0, 1)) > 0
    unseen = [int(side - span) for side, span in zip(sides, (seen.any(1).sum(), seen.any(0).sum()), strict=True)]
    assert max(unseen) <= 8, "no more of the lower right edge is left out than of 64x64 images"
    assert decoder(torch.rand(3, 64)).shape == (3, 3, *sides)


@pytest.mark.parametrize("cameras", [ONE, THREE], ids=["one", "three"])
def test_a_world_model_learns_and_imagines_with_any_cameras(tiny_config, tmp_path, cameras) -> None:
    spec, config = (
        Spec(cameras=cameras),
        replace(tiny_config, image_components=3, component_weight=1.0, slow_features=2, slow_weight=1.0),
    )
    torch.manual_seed(0)
    model, batch = WorldModel(config, spec), batch_of(spec)
    frames = {name: images.flatten(0, 1) for name, images in batch.images.items()}
    model.set_image_statistics(frames)
    model.set_slow_features(frames, {name: images.flip(0) for name, images in frames.items()})
    loss = model.loss(batch).total
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    again = WorldModel(config, spec)
    again.load_state_dict(model.state_dict())
    result = open_loop(model.eval(), batch)
    for camera in cameras:
        assert result.imagined[camera.name].shape == (2, 5, *camera.size, 3)
        assert torch.equal(result.imagined[camera.name], open_loop(again.eval(), batch).imagined[camera.name])
    assert np.isfinite(result.psnr).all()
    save_filmstrip(tmp_path / "strip.png", batch, result.imagined)
    assert ImageClassifier(model, 8).probability(torch.rand(4, model.feature_dim)).shape == (4,)


def test_a_larger_image_is_no_more_important(tiny_config) -> None:
    found = []
    for size in ((64, 64), (128, 96)):
        spec = Spec(cameras=(CameraSpec("front", size=size),))
        torch.manual_seed(0)
        model, batch = WorldModel(tiny_config, spec), batch_of(spec)
        batch.images["front"].fill_(200)
        torch.nn.init.zeros_(model.decoders["front"].layers[-1].weight)
        torch.nn.init.zeros_(model.decoders["front"].layers[-1].bias)
        found.append(float(model.loss(batch).image))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_size_that_no_convolution_fits_is_refused_with_those_that_do(tiny_config) -> None:
    with pytest.raises(
        DiwaError, match="camera 'front' has size 50x64; the world model takes images of 48, 64, 80, 96, 112 or"
    ):
        WorldModel(tiny_config, Spec(cameras=(CameraSpec("front", size=(50, 64)),)))
