"""Picture measures by hand-computed cases, and the held-out check on a real tiny model."""

import numpy as np
import pytest
import torch

from diwa_data.spec import Spec
from diwa_learning.world_model.open_loop import CONTEXT, open_loop, psnr, save_filmstrip, ssim
from diwa_learning.world_model.replay import Batch, ReplayBuffer
from diwa_learning.world_model.rssm import shift_actions


def plain(value: int) -> torch.Tensor:
    """A picture of one grey."""
    return torch.full((1, 64, 64, 3), value, dtype=torch.uint8)


def test_psnr_of_known_errors():
    assert float(psnr(plain(100), plain(151))) == pytest.approx(20 * np.log10(255 / 51))
    assert float(psnr(plain(7), plain(7))) == pytest.approx(60.0)


def test_ssim_of_plain_greys_is_its_luminance_term():
    x, y, c1 = 100 / 255, 200 / 255, 0.01**2
    expected = (2 * x * y + c1) / (x**2 + y**2 + c1)
    assert float(ssim(plain(100), plain(200))) == pytest.approx(expected, abs=1e-4)


def test_ssim_at_one_window_position_is_wangs_formula():
    rng = np.random.default_rng(0)
    one, other = rng.integers(256, size=(2, 11, 11, 3)).astype(np.uint8)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 4.5)[..., None]
    window /= window.sum()
    x, y = one / 255.0, other / 255.0
    mx, my = (window * x).sum((0, 1)), (window * y).sum((0, 1))
    vx, vy, cov = (window * x * x).sum((0, 1)) - mx**2, (window * y * y).sum((0, 1)) - my**2, 0
    cov = (window * x * y).sum((0, 1)) - mx * my
    terms = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    got = ssim(torch.from_numpy(one)[None], torch.from_numpy(other)[None])
    assert float(got) == pytest.approx(terms.mean(), abs=1e-5)
    assert float(ssim(torch.from_numpy(one)[None], torch.from_numpy(one)[None])) == pytest.approx(1.0)


def test_the_check_imagines_from_the_context_and_ignores_what_is_padded(tiny_world_model, make_episode, tmp_path):
    clips = ReplayBuffer([make_episode(12), make_episode(5, seed=1)], Spec(), length=CONTEXT + 8).spread(4)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    result = open_loop(tiny_world_model, clips)
    assert torch.equal(torch.get_rng_state(), before)
    assert result.psnr.shape == result.ssim.shape == result.kl.shape == (8,)
    assert result.imagined["gripper"].shape == (len(clips.state), 10, 64, 64, 3)
    assert np.isfinite(result.psnr).all()
    summary = result.summary()
    assert summary["open_loop_psnr"] == pytest.approx(result.psnr.mean(), abs=1e-4)
    assert len(summary["open_loop_steps"]["ssim"]) == 8

    again = open_loop(tiny_world_model, clips)
    np.testing.assert_array_equal(result.psnr, again.psnr)
    for image in clips.images.values():  # frames after the context have no influence on what is imagined
        image[:, CONTEXT:] = 0
    blind = open_loop(tiny_world_model, clips)
    assert torch.equal(blind.imagined["static"], result.imagined["static"])

    save_filmstrip(tmp_path / "strip.png", clips, result.imagined)
    assert (tmp_path / "strip.png").stat().st_size > 1000


def test_a_still_scene_is_matched_by_its_last_encoded_frame(tiny_world_model, random_frames):
    images, state, target = random_frames(2, 1)
    images = {name: image.expand(2, 6, 64, 64, 3) for name, image in images.items()}
    actions = shift_actions(torch.zeros(2, 6, 7), tiny_world_model.null_action)
    valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    result = open_loop(tiny_world_model, Batch(images, state.expand(2, 6, 10), target.expand(2, 6, 9), actions, valid))
    np.testing.assert_allclose(result.still_psnr, 60.0, rtol=1e-6)
