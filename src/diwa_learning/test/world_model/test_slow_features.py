"""Slow features find what seldom changes in pictures of something that always moves."""

import numpy as np
import pytest
import torch

from diwa_learning.world_model.slow_features import SlowFeatures, flatten

SIZE, FRAMES = 16, 1200


@pytest.fixture(scope="module")
def film():
    """Pictures (N, 16, 16, 3) of two cameras: a bar that moves in every frame and, small, a lamp in the first one and a
    drawer in the other, (N,) each, that change one frame in forty."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 4, (FRAMES, SIZE, SIZE, 3)) for name in ("one", "other")}
    lamp, drawer = (np.repeat(rng.integers(0, 2 + 8 * n, FRAMES // 40), 40) for n in range(2))
    for t, place in enumerate(rng.integers(0, SIZE - 4, FRAMES)):
        for frames in images.values():
            frames[t, :10, place : place + 4] += 180
    images["one"][:, 13, 3] += 60 * lamp[:, None]
    images["other"][:, 13:15, 8] += 8 * drawer[:, None, None]
    return {name: torch.from_numpy(frames.astype(np.uint8)) for name, frames in images.items()}, lamp, drawer


def fitted(images, count: int) -> SlowFeatures:
    slow = SlowFeatures(count, {name: frames[0].numel() for name, frames in images.items()})
    slow.fit({n: f[:-1] for n, f in images.items()}, {n: f[1:] for n, f in images.items()})
    return slow


def test_lamp_and_drawer_are_the_two_slowest_features_of_a_picture_that_a_bar_fills(film):
    images, lamp, drawer = film
    found = fitted(images, 2)(images).numpy()
    known = np.stack([np.ones(FRAMES), *found.T], 1)
    for truth in (lamp, drawer):
        error = truth - known @ np.linalg.lstsq(known, truth, rcond=None)[0]
        assert 1 - error.var() / truth.var() > 0.97


def test_features_have_mean_0_and_variance_1_and_are_ordered_by_how_little_they_change(film):
    images, *_ = film
    found = fitted(images, 6)(images)
    torch.testing.assert_close(found.mean(0), torch.zeros(6), atol=0.02, rtol=0)
    torch.testing.assert_close(found.var(0), torch.ones(6), atol=0.1, rtol=0)
    change = (found[1:] - found[:-1]).square().mean(0)
    assert (change.diff() > -0.01).all()


def test_few_frames_leave_the_other_features_at_zero(film):
    images = {name: frames[:5] for name, frames in film[0].items()}
    found = fitted(images, 32)(images)
    assert found.isfinite().all()
    assert (found[:, 8:] == 0).all()


def test_pictures_that_never_change_have_none():
    images = {"one": torch.full((6, 4, 4, 3), 7, dtype=torch.uint8)}
    torch.testing.assert_close(fitted(images, 2)(images), torch.zeros(6, 2), atol=1e-5, rtol=0)


def test_autocast_changes_nothing(film):
    images, *_ = film
    slow = fitted(images, 4)
    with torch.autocast("cpu", torch.bfloat16):
        half = slow(images)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, slow(images), atol=0, rtol=0)


def test_pixels_are_between_0_and_1():
    assert flatten(torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8)).tolist() == [[0.0, 1.0, pytest.approx(0.2)]]
