"""Films read again: the pair of rollouts that goes into a README."""

import numpy as np
import pytest
from PIL import Image

from diwa_cli.video import COLUMNS, HOLD, PAUSE, compose, draw_pair, read_video, write_video


def test_strip_and_film_show_both_to_the_end_of_the_longer(tmp_path):
    lengths = {"red": 8, "blue": 20}
    for (name, length), color in zip(lengths.items(), ((200, 30, 30), (30, 30, 200)), strict=True):
        frames = np.broadcast_to(np.array(color, np.uint8), (length, 208, 400, 3))
        write_video(tmp_path / f"{name}.mp4", list(frames), 7.5)
    frames, rate = read_video(tmp_path / "blue.mp4")
    assert (frames.shape, rate) == ((20 + round(HOLD * 7.5), 208, 400, 3), 7.5)
    assert np.abs(frames[-1, 100, 100].astype(int) - [30, 30, 200]).max() < 12

    strip, film = tmp_path / "strip.png", tmp_path / "film.gif"
    draw_pair({name: tmp_path / f"{name}.mp4" for name in lengths}, strip, film, 200)
    image = np.asarray(Image.open(strip).convert("RGB")).astype(int)
    height, width = image.shape[:2]
    assert width > COLUMNS * 50
    upper, lower = image[height // 4, width * 3 // 4], image[height * 3 // 4, width * 3 // 4]
    assert upper[0] > 150 > 80 > upper[2]
    assert lower[2] > 150 > 80 > lower[0]
    with Image.open(film) as gif:
        assert gif.size == (400, 416)
        shown = sum(duration(gif, frame) for frame in range(gif.n_frames))  # equal frames in a row become one
    assert abs(shown - (len(frames) + PAUSE) / 7.5) < 0.3


def test_with_a_picture_of_the_scene_the_strip_shows_that_and_the_animation_is_smaller(tmp_path):
    scenery, images = np.full((480, 640, 3), 90, np.uint8), [np.full((200, 200, 3), 200, np.uint8)] * 2
    for name in ("one", "other"):
        write_video(tmp_path / f"{name}.mp4", [compose(images, scenery, 0.5, False)] * 3, 7.5)
    frames, _ = read_video(tmp_path / "one.mp4")
    assert frames.shape[1:] == (488, 640 + 240, 3)
    strip, film = tmp_path / "strip.png", tmp_path / "film.gif"
    draw_pair({name: tmp_path / f"{name}.mp4" for name in ("one", "other")}, strip, film, 200)
    image = np.asarray(Image.open(strip).convert("RGB")).astype(int)
    assert np.abs(image[image.shape[0] // 4, -image.shape[1] // 3 :] - 90).max(-1).mean() < 12
    with Image.open(film) as gif:
        assert gif.size == (480, 2 * 266)


@pytest.mark.parametrize("sizes", [((200, 200), (96, 128)), ((64, 64),), ((48, 64), (64, 64), (60, 81), (64, 64))])
def test_cameras_of_any_shape_stand_beside_the_scene(sizes):
    images = [np.full((*size, 3), 200, np.uint8) for size in sizes]
    frame = compose(images, np.zeros((480, 640, 3), np.uint8), 1.0, True)
    assert frame.shape[0] == 488
    assert frame.shape[1] % 2 == 0
    assert frame.shape[1] > 640


def duration(gif, frame):
    gif.seek(frame)
    return gif.info["duration"] / 1000
