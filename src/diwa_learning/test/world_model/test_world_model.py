"""Sizes of the paper, and the loss against plain arithmetic."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.spec import Spec
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.networks import (
    Convolution,
    ImageDecoder,
    ImageEncoder,
    PrincipalComponents,
    TransposedConvolution,
    to_network,
    to_uint8,
)
from diwa_learning.world_model.replay import Batch


def test_the_papers_encoder_gives_1536_numbers_and_its_decoder_an_image():
    image = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    assert ImageEncoder(48, (64, 64))(to_network(image)).shape == (2, 1536)
    assert ImageDecoder(48, (64, 64))(torch.randn(2, 1536)).shape == (2, 3, 64, 64)
    torch.testing.assert_close(to_uint8(to_network(image).permute(0, 2, 3, 1)), image)


def test_pixels_are_centred_on_a_mean_image_and_scaled():
    images = torch.tensor([[[[0, 51, 255]]], [[[102, 51, 255]]]], dtype=torch.uint8)  # (2, 1, 1, 3)
    mean = torch.tensor([0.2, 0.2, 1.0]).reshape(3, 1, 1) - 0.5
    expected = torch.tensor([[-0.2, 0.0, 0.0], [0.2, 0.0, 0.0]]) / 0.5
    torch.testing.assert_close(to_network(images, mean, torch.tensor(0.5))[..., 0, 0], expected)


def test_image_statistics_are_those_of_the_frames_and_shape_what_is_decoded(tiny_config, random_frames):
    images, _, _ = random_frames(6, 1)
    images = {name: frames[:, 0] for name, frames in images.items()}
    model = WorldModel(tiny_config, Spec())
    model.set_image_statistics(images)
    pixels = to_network(images["gripper"])
    mean, std = pixels.mean(0), (pixels - pixels.mean(0)).std(correction=0)
    torch.testing.assert_close(model.gripper_std, std)
    for parameter in model.decoders["gripper"].parameters():
        torch.nn.init.zeros_(parameter)
    decoded = model.decode(torch.randn(1, model.feature_dim))["gripper"][0]
    torch.testing.assert_close(decoded, mean.permute(1, 2, 0))
    model.set_image_statistics({name: torch.full_like(frames, 7) for name, frames in images.items()})
    assert model.gripper_std == pytest.approx(0.01), "never divides by nothing"


CONVOLUTIONS = [
    (Convolution(9, 8, 4, stride=2), functional.conv2d, 6),
    (Convolution(9, 8, 4, stride=2), functional.conv2d, 5),
    (TransposedConvolution(12, 8, 5, stride=2), functional.conv_transpose2d, 5),
    (TransposedConvolution(12, 8, 5, stride=2), functional.conv_transpose2d, 1),
    (TransposedConvolution(12, 8, 6, stride=2), functional.conv_transpose2d, 13),
    (TransposedConvolution(12, 3, 4, stride=2), functional.conv_transpose2d, 7),
]


def convolved(layer, convolve, image, weights):
    """Output of a convolution, and its gradients for the image, the weight and the bias."""
    layer = layer.to(image.dtype).requires_grad_(True)
    image = image.clone().requires_grad_(True)
    output = convolve(image)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), [image, layer.weight, layer.bias])]


def error(found, truth):
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)]


@pytest.mark.parametrize(("layer", "function", "side"), CONVOLUTIONS)
def test_faster_convolutions_are_those_of_the_library(layer, function, side):
    """In float32 up to rounding; in bfloat16 as far from the exact result as the library is."""
    torch.manual_seed(0)
    image = torch.randn(4, layer.in_channels, side, side).to(memory_format=torch.channels_last)

    def library(pixels):
        return function(pixels, layer.weight, layer.bias, stride=2)

    weights = torch.randn(library(image).shape)
    assert type(library(image).grad_fn) is not type(layer(image).grad_fn), "another path was to be tried"
    truth = convolved(layer, library, image.double(), weights.double())
    assert max(error(convolved(layer, layer, image, weights), truth)) < 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (error(convolved(layer, each, image, weights), truth) for each in (layer, library))
    assert all(a < 1.3 * b for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def test_the_papers_model_has_2048_features():
    with torch.device("meta"):
        model = WorldModel(WorldModelConfig(), replace(Spec()))
    assert (model.feature_dim, model.embed_dim, model.rssm.config.recurrent) == (2048, 1546, 1024)


def test_embedding_and_decoding_keep_the_leading_axes_and_the_rows_apart(tiny_world_model, random_frames):
    images, *rest = random_frames(2, 3)
    embed = tiny_world_model.embed(images, *rest)
    frame = {name: image[1, 2][None] for name, image in images.items()}
    one = tiny_world_model.embed(frame, *(part[1, 2][None] for part in rest))
    torch.testing.assert_close(embed[1, 2][None], one)
    decoded = tiny_world_model.decode(torch.randn(2, 3, tiny_world_model.feature_dim))
    assert {name: tuple(image.shape) for name, image in decoded.items()} == {
        "static": (2, 3, 64, 64, 3),
        "gripper": (2, 3, 64, 64, 3),
    }
    assert all(image.abs().max() <= 0.5 for image in decoded.values())


def test_the_robot_state_is_normalised_with_a_floored_deviation_and_may_be_left_out(tiny_config, random_frames):
    images, state, target = random_frames(1, 1)
    model = WorldModel(replace(tiny_config, target=False), Spec())
    model.set_state_statistics(torch.full((10,), 1.0), torch.tensor([2.0] + [0.0] * 9))
    appended = model.embed(images, state, target)[0, 0, -10:]
    torch.testing.assert_close(appended, (state[0, 0] - 1) / torch.tensor([2.0] + [0.01] * 9))
    visual = WorldModel(replace(tiny_config, robot_state=False), Spec())
    torch.testing.assert_close(visual.embed(images, state, target), visual.embed(images, state + 1, target))


def test_the_hybrid_variant_appends_the_normalised_scene_state_and_changes_nothing_else(tiny_config, random_frames):
    images, state, target = random_frames(1, 1)
    spec, plain = Spec(scene_state=("drawer", "bulb")), replace(tiny_config, robot_state_weight=1.0, target=False)
    hybrid, seen = replace(plain, scene_state=True), torch.cat([state, torch.tensor([[[0.1, 1.0]]])], -1)
    model = WorldModel(hybrid, spec)
    model.set_state_statistics(torch.zeros(12), torch.tensor([1.0] * 10 + [0.05, 0.0]))
    appended = model.embed(images, seen, target)[0, 0, -12:]
    torch.testing.assert_close(appended, torch.cat([state[0, 0], torch.tensor([2.0, 100.0])]))
    assert model.decode_state(model.rssm.initial(2)).shape == (2, 12)
    alone = WorldModel(replace(hybrid, robot_state=False), spec)
    assert alone.embed_dim == model.embed_dim - 10
    torch.testing.assert_close(alone.embed(images, seen, target)[0, 0, -2:], torch.tensor([0.1, 1.0]))

    def shapes(model):
        return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}

    assert shapes(WorldModel(plain, spec)) == shapes(WorldModel(plain, Spec()))
    assert shapes(model).keys() == shapes(WorldModel(plain, spec)).keys()
    with pytest.raises(DiwaError, match="scene_state is True; it needs robot_state_weight above 0"):
        replace(hybrid, robot_state_weight=0.0)
    with pytest.raises(DiwaError, match="robot 'panda_lab' has no scene state"):
        WorldModel(hybrid, Spec(robot="panda_lab"))


def told_model(tiny_config, **settings) -> WorldModel:
    """A model with a decoder of zeros: the hand is at the target, or without one at the mean place (0.4, 0, 0.2)."""
    torch.manual_seed(0)
    model = WorldModel(replace(tiny_config, robot_state_weight=1.0, **settings), Spec())
    model.set_state_statistics(torch.tensor([0.4, 0.0, 0.2] + [0.0] * 7), torch.tensor([0.1, 0.2, 0.4] + [1.0] * 7))
    torch.nn.init.zeros_(model.state_decoder[-1].weight)
    torch.nn.init.zeros_(model.state_decoder[-1].bias)
    return model.requires_grad_(False)


def test_the_target_is_seen_in_frames_and_summed_up_in_imagination(tiny_config, random_frames):
    model = told_model(tiny_config)
    images, state, target = random_frames(1, 1)
    seen = model.embed(images, state, target)[:, 0]
    start = model.rssm.filter(model.rssm.initial(1), model.null_action[None], seen)
    place = torch.tensor([0.1, 0.2, 0.4])
    torch.testing.assert_close(start.target[:, :3] * place + torch.tensor([0.4, 0.0, 0.2]), target[:, 0, :3])
    actions = torch.zeros(1, 3, 7)
    actions[0, :, :3] = torch.tensor([[1.0, 0, 0], [0.5, -1, 0], [0, 0, 0.25]])  # of 40 mm
    moved = (model.rssm.imagine(start, actions).target[:, -1] - start.target)[:, :3] * place
    torch.testing.assert_close(moved, torch.tensor([[0.06, -0.04, 0.01]]))
    other = model.embed(images, state, target + 0.1)[:, 0]
    assert not torch.equal(model.rssm.filter(model.rssm.initial(1), model.null_action[None], other).h, start.h)


def test_a_target_leads_the_hand_by_no_more_than_the_robot_allows(tiny_config):
    model = told_model(tiny_config, max_lead=0.05)
    start = model.rssm.initial(3)
    action = torch.tensor([[1.0, 0, 0, 0.3, 0, 0, 1], [0.0, -1, 0, 0, 0, 0, -1], [0.6, 0.8, 0, 0, 0, 0, 1]])
    torch.testing.assert_close(model.executed(start, action), action)  # 40 mm at most
    model.state_decoder[-1].bias[0] = -0.8  # the hand is 40 mm behind the target, along x
    torch.testing.assert_close(model.decode_state(start)[:, :3], torch.tensor([[0.36, 0.0, 0.2]] * 3))
    again = model.executed(start, action)
    torch.testing.assert_close(again[0], torch.tensor([0.25, 0, 0, 0.3, 0, 0, 1]))  # 10 mm of 40 are left
    assert torch.equal(again[:, 3:], action[:, 3:])
    torch.testing.assert_close(model.executed(start, -action)[0], -action[0])
    untold = told_model(tiny_config, target=False)
    assert torch.equal(untold.executed(untold.rssm.initial(3), action), action)


def test_the_lead_is_that_of_the_recordings_where_they_say_it(tiny_config):
    config = replace(tiny_config, max_lead=0.03)
    assert WorldModel(config, Spec()).max_lead == 0.03
    assert WorldModel(config, Spec(limits=MotionLimits(max_lead_pos=0.02))).max_lead == 0.02


def test_a_hand_is_decoded_by_its_distance_from_the_target(tiny_config, random_frames):
    model = told_model(tiny_config, max_lead=0.05)
    images, state, _ = random_frames(1, 1)
    target = torch.cat([state[..., :3] + torch.tensor([0.01, 0.0, -0.05]), state[..., 3:9]], -1)
    relative = model.relative(state, target)
    torch.testing.assert_close(relative[..., :3], torch.tensor([[[-0.2, 0.0, 1.0]]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(relative[..., 3:], model.normalise(state)[..., 3:])
    lag = model.embed(images, state, target)[..., -12:-9]  # the target stands behind it
    torch.testing.assert_close(lag, relative[..., :3])
    untold = told_model(tiny_config, target=False)
    torch.testing.assert_close(untold.relative(state, target), untold.normalise(state))
    torch.testing.assert_close(untold.decode_state(untold.rssm.initial(1))[0, :3], torch.tensor([0.4, 0.0, 0.2]))


def test_the_loss_is_beta_kl_plus_half_the_squared_error_of_both_cameras(tiny_config, random_batch):
    config = replace(tiny_config, reset_probability=0.0, beta=0.7)
    torch.manual_seed(0)
    model = WorldModel(config, Spec())
    batch = random_batch(2, 5)
    for decoder in model.decoders.values():  # black images, whatever the latent
        torch.nn.init.zeros_(decoder.layers[-1].weight)
        torch.nn.init.constant_(decoder.layers[-1].bias, -0.5)
    loss = model.loss(batch)
    expected = sum(0.5 * (image.double() / 255).square().sum() for image in batch.images.values()) / 10
    torch.testing.assert_close(loss.image.double(), expected)
    torch.testing.assert_close(loss.total.detach(), 0.7 * loss.kl + loss.image)
    loss.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_decoder_of_the_robot_state_adds_its_weighted_error(tiny_config, random_batch):
    torch.manual_seed(0)
    model = WorldModel(replace(tiny_config, robot_state_weight=3.0), Spec())
    model.set_state_statistics(torch.full((10,), 0.5), torch.full((10,), 2.0))
    torch.nn.init.zeros_(model.state_decoder[-1].weight)  # says the mean, whatever the latent
    torch.nn.init.zeros_(model.state_decoder[-1].bias)
    batch = random_batch(2, 5)
    hand, rest = (batch.state[..., :3] - batch.target[..., :3]) / 0.05, (batch.state[..., 3:] - 0.5) / 2.0
    loss = model.loss(batch)
    torch.testing.assert_close(loss.robot_state, 0.5 * torch.cat([hand, rest], -1).square().mean())
    torch.testing.assert_close(loss.total.detach(), model.config.beta * loss.kl + loss.image + 3.0 * loss.robot_state)
    assert WorldModel(tiny_config, Spec()).state_decoder is None


def test_imagined_robot_states_count_like_the_filtered_ones(tiny_config, random_batch):
    config = replace(tiny_config, robot_state_weight=1.0, imagined_steps=2, sequence_length=6, target=False)
    model = WorldModel(config, Spec())
    torch.nn.init.zeros_(model.state_decoder[-1].weight)  # says zero, whatever the latent
    torch.nn.init.zeros_(model.state_decoder[-1].bias)
    batch = random_batch(2, 6)
    imagined = batch.state[:, 1:5]  # two steps from frame 0 and two from frame 2
    expected = 0.5 * batch.state.square().mean() + 0.5 * imagined.square().mean()
    torch.testing.assert_close(model.loss(batch).robot_state, expected)
    for settings in ({"imagined_steps": 6}, {"robot_state_weight": 0.0}):
        with pytest.raises(DiwaError, match="imagined_steps"):
            replace(config, **settings)


def test_principal_components_are_uncorrelated_projections_of_unit_variance():
    generator = torch.Generator().manual_seed(0)
    lamp, door = torch.rand(50, 1, 1, 1, generator=generator), torch.rand(50, 1, 1, 1, generator=generator)
    images = torch.zeros(50, 3, 4, 4)
    images[:, :1, :2] += 3 * lamp  # large: first component; the door moves one pixel
    images[:, 2:, 3:, 3:] += 0.2 * door
    components = PrincipalComponents(3, 48)
    components.fit(images)
    found = components(images)
    torch.testing.assert_close(found.T @ found / 50, torch.diag(torch.tensor([1.0, 1.0, 0.0])), atol=1e-4, rtol=0)
    for k, truth in enumerate((lamp, door)):
        correlation = torch.corrcoef(torch.stack([found[:, k], truth.flatten()]))[0, 1]
        assert abs(float(correlation)) > 0.95
    assert bool((found[:, 2] == 0).all()), "there is no third one"
    torch.testing.assert_close(components(images.mean(0, keepdim=True)), torch.zeros(1, 3), atol=1e-5, rtol=0)


def test_image_components_are_seen_and_decoded_filtered_and_imagined(tiny_config, random_batch):
    torch.manual_seed(0)
    settings = {"image_components": 2, "component_weight": 5.0, "robot_state_weight": 1.0, "sequence_length": 6}
    model = WorldModel(replace(tiny_config, **settings), Spec())
    batch = random_batch(2, 6)
    model.set_image_statistics({name: frames.flatten(0, 1) for name, frames in batch.images.items()})
    seen = model.embed(batch.images, batch.state, batch.target)[..., -16:-12]  # two of each camera
    torch.testing.assert_close(seen.square().mean((0, 1)), torch.ones(4), atol=1e-3, rtol=0)
    torch.nn.init.zeros_(model.component_decoder[-1].weight)  # says zero, whatever the latent
    torch.nn.init.zeros_(model.component_decoder[-1].bias)
    loss = model.loss(batch)
    torch.testing.assert_close(loss.components, 0.5 * seen.square().mean())
    total = model.config.beta * loss.kl + loss.image + loss.robot_state + 5.0 * loss.components
    torch.testing.assert_close(loss.total.detach(), total)

    model.config = replace(model.config, imagined_steps=2)
    expected = 0.5 * seen.square().mean() + 0.5 * seen[:, 1:5].square().mean()
    torch.testing.assert_close(model.loss(batch).components, expected)
    with pytest.raises(DiwaError, match="both or neither"):
        replace(tiny_config, image_components=2)


def test_slow_features_are_predicted_in_units_of_their_change(tiny_config, random_batch):
    torch.manual_seed(0)
    settings = {"slow_features": 3, "slow_weight": 5.0, "robot_state_weight": 1.0, "sequence_length": 6}
    config = replace(tiny_config, **settings, imagined_steps=2, target=True, reset_probability=0.0)
    model, batch = WorldModel(config, Spec()), random_batch(4, 6)
    frames = {name: images.flatten(0, 1) for name, images in batch.images.items()}
    model.set_image_statistics(frames)
    model.set_slow_features({n: f[:-1] for n, f in frames.items()}, {n: f[1:] for n, f in frames.items()})
    seen = model.slow(frames).unflatten(0, (4, 6))
    torch.testing.assert_close(model.rssm.seen_slow(model.embed(batch.images, batch.state, batch.target)), seen)
    torch.nn.init.zeros_(model.rssm.slow_head[-1].weight)  # nothing ever changes
    torch.nn.init.zeros_(model.rssm.slow_head[-1].bias)
    loss, before = model.loss(batch), torch.nn.functional.pad(seen[:, :-1], (0, 0, 1, 0))
    held = torch.stack([seen[:, 0], seen[:, 0], seen[:, 2], seen[:, 2]], 1)  # imagined from frames 0 and 2
    errors = ((seen - before) / model.slow.change, (seen[:, 1:5] - held) / model.slow.change)
    torch.testing.assert_close(loss.slow, 0.5 * sum(error.square().mean() for error in errors))
    total = config.beta * loss.kl + loss.image + loss.robot_state + 5.0 * loss.slow
    torch.testing.assert_close(loss.total.detach(), total)
    with pytest.raises(DiwaError, match="slow_features is 2 and slow_weight 0: both or neither"):
        replace(tiny_config, slow_features=2)


def test_padded_frames_do_not_count(tiny_config, random_batch):
    config = replace(tiny_config, reset_probability=0.0)
    model = WorldModel(config, Spec()).requires_grad_(False)
    whole = random_batch(1, 6)
    valid = torch.arange(6)[None] < 4
    padded = replace(whole, valid=valid)
    cut = Batch(
        {n: i[:, :4] for n, i in whole.images.items()},
        *(x[:, :4] for x in (whole.state, whole.target, whole.previous_actions, valid)),
    )
    for decoder in model.decoders.values():  # the same images whatever the samples
        torch.nn.init.zeros_(decoder.layers[-1].weight)
    torch.testing.assert_close(model.loss(padded).image, model.loss(cut).image)
    assert not torch.isclose(model.loss(whole).image, model.loss(cut).image)


def test_decoding_a_fraction_keeps_the_expected_loss(tiny_config, random_batch):
    torch.manual_seed(0)
    config = replace(tiny_config, decode_fraction=0.25)
    model = WorldModel(config, Spec()).requires_grad_(False)
    batch = random_batch(2, 8)
    batch.images["static"][0, 3] //= 8  # one frame unlike the others
    partial = torch.stack([model.loss(batch).image for _ in range(150)])
    whole = WorldModel(replace(config, decode_fraction=1.0), Spec())
    whole.load_state_dict(model.state_dict())
    full = torch.stack([whole.requires_grad_(False).loss(batch).image for _ in range(20)])
    assert float(partial.mean()) == pytest.approx(float(full.mean()), rel=0.01)
    assert partial.std() > full.std()


def test_bfloat16_training_stays_close_to_float32(tiny_config, random_batch):
    batch = random_batch(2, 6)
    losses = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = WorldModel(replace(tiny_config, precision=precision), Spec())
        loss = model.loss(batch)
        loss.total.backward()
        losses[precision] = loss
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert losses["bfloat16"].total.dtype == torch.float32
    assert float(losses["bfloat16"].image) == pytest.approx(float(losses["float32"].image), rel=0.01)


def test_what_cannot_work_is_refused(tiny_config):
    with pytest.raises(DiwaError, match=r"decode_fraction is 1.5; it must lie in"):
        WorldModelConfig(decode_fraction=1.5)
