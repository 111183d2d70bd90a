"""The scene as films show it, and that policies see it as ever."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from OpenGL.GL import GL_RENDERER, GL_VERSION, glGetString

from diwa_sim.scenery import SIZE
from diwa_sim.table import SimConfig, SimulatedPanda

VIEWS = Path(__file__).parent / "views"
"""The images of a policy's cameras at a start, from before there was any scenery for films."""
DRAWN_BY = ("llvmpipe", "Mesa 22.3.6")
"""Renderer of these pictures; others draw edges otherwise."""


@pytest.fixture(scope="module")
def robot():
    robot = SimulatedPanda(SimConfig(objects=("block",)))
    yield robot
    robot.close()


def test_policies_see_what_they_always_saw_with_or_without_a_film():
    robot = SimulatedPanda()
    for filmed in (False, True):
        robot.reset("open_drawer", 5_000_000_000)
        if filmed:
            robot.film()
        seen = robot.observe().images
        drawn_by = (glGetString(GL_RENDERER) + b", " + glGetString(GL_VERSION)).decode()
        for name, image in seen.items():
            stored = cv2.cvtColor(cv2.imread(str(VIEWS / f"{name}.png")), cv2.COLOR_BGR2RGB)
            difference = np.abs(image.astype(int) - stored)
            assert image.shape == (200, 200, 3)
            assert difference.mean() < 1
            assert difference.max() == 0 or not all(part in drawn_by for part in DRAWN_BY)
    robot.close()


def test_a_film_shows_sky_floor_shadows_and_the_state_of_the_scene(robot):
    robot.reset("", 3)
    picture = robot.film()
    assert (picture.shape, picture.dtype) == ((*SIZE, 3), np.uint8)
    sky, floor = picture[4].astype(int).mean(0), picture[SIZE[0] // 4, -8:].astype(int)
    assert sky[2] > sky[0] > 120  # light blue, no void
    assert floor.min() > 80
    table = picture[SIZE[0] // 2 :, : SIZE[1] // 2].reshape(-1, 3).astype(int).sum(1)
    assert (table < 230).mean() > 0.01  # in the shadow of the arm
    assert np.array_equal(picture, robot.film())
    scene = robot.scene_state()
    scene[4:6] = 1 - scene[4:6]
    robot.show(robot.measured_pose, robot.gripper_width, scene)
    assert (np.abs(picture.astype(int) - robot.film()).sum(-1) > 60).mean() > 0.005  # the other lamps are on
