import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.spec import CameraSpec
from diwa_sim import render
from diwa_sim.render import Cameras, create_context
from diwa_sim.starts import GRIPPER_DOWN, HOME_POSITION, LEVER_ON, Start
from diwa_sim.table import SimConfig, SimulatedPanda


def image(robot: SimulatedPanda, **changes: object) -> np.ndarray:
    """The static camera's view (200, 200, 3) of a fixed scene with some things changed."""
    hand = Pose(HOME_POSITION, GRIPPER_DOWN)
    robot.place(replace(Start(0.0, 0.0, -LEVER_ON, False, np.array([0.35, -0.1, 0.0]), hand), **changes))
    return robot.observe().images["static"]


@pytest.mark.parametrize("change", [{"drawer": 0.16}, {"slider": 0.22}, {"lever": 0.5}, {"led": True}])
def test_the_static_camera_sees_every_piece_of_furniture_at_64_pixels(robot: SimulatedPanda, change: dict) -> None:
    before, after = image(robot), image(robot, **change)
    small = [cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA).astype(int) for picture in (before, after)]
    changed = (np.abs(small[0] - small[1]).max(-1) > 40).sum()
    assert changed >= 25, f"{change} changes {changed} of 4096 pixels"


def test_pictures_hold_what_they_should(robot: SimulatedPanda) -> None:
    robot.reset("open_drawer", 0)
    images = robot.observe().images
    assert images["static"].shape == images["gripper"].shape == (200, 200, 3)
    assert images["static"].dtype == np.uint8
    fingers = (images["gripper"][..., 1] > 90) & (images["gripper"][..., [0, 2]].max(-1) < 90)
    assert fingers[120:].sum() > 500, "the wrist camera sees the green fingertips in its lower part"
    assert images["static"][..., 0].std() > 30


def test_other_cameras_have_their_own_views_and_sizes() -> None:
    robot = SimulatedPanda(
        SimConfig(
            cameras=(
                "front:96x112:144x168",
                "top",
                "wrist",
                "side",
            )
        )
    )
    robot.reset("open_drawer", 0)
    images = robot.observe().images
    assert [camera.size for camera in robot.spec.cameras] == [(96, 112), (64, 64), (64, 64), (64, 64)]
    assert [(name, image.shape) for name, image in images.items()] == [
        ("front", (144, 168, 3)), *((name, (200, 200, 3)) for name in ("top", "wrist", "side"))
    ]  # fmt: skip
    for name, picture in images.items():
        assert picture.std() > 25, f"{name} sees the table"
    fingers = (images["wrist"][..., 1] > 90) & (images["wrist"][..., [0, 2]].max(-1) < 90)
    assert fingers[120:].sum() > 500
    robot.close()


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (("statc",), "unknown camera of the simulated scene 'statc'; choose one of .*Did you mean 'static'"),
        (("top", "top:64x64"), r"sim.cameras names 'top' twice \(top, top\)"),
        (("side:9x64",), "sim.cameras: camera 'side' has size 9x64; the world model takes"),
        (("side:64",), "sim.cameras: 'side:64' is not a camera: write a name, or one with sizes, as in side:96x128"),
        (("side:64x64:800x64",), "camera 'side': the scene is drawn at 640x640 at most, not 800x64"),
        (("",), "sim.cameras: '' is not a camera"),
        (("top", "side", "front", "wrist", "static"), "sim.cameras names 5 cameras"),
    ],
)
def test_cameras_that_cannot_be_are_one_line(cameras: tuple[str, ...], message: str) -> None:
    with pytest.raises(DiwaError, match=message):
        SimulatedPanda(SimConfig(cameras=cameras))


def test_a_checkpoint_brings_its_own_cameras() -> None:
    config = SimConfig(cameras=("top",))
    assert config.seeing(config.seen) is config
    assert SimConfig().seeing(SimulatedPanda().spec.cameras) == SimConfig(), "as written before there was a choice"
    wanted = (CameraSpec("front", record_size=(100, 120), size=(48, 64)), CameraSpec("side", crop=(0, 0, 9, 9)))
    assert config.seeing(wanted).seen == (wanted[0], CameraSpec("side"))


def test_images_are_new_arrays(robot: SimulatedPanda) -> None:
    robot.reset("open_drawer", 0)
    first = robot.observe().images["static"]
    kept = first.copy()
    robot.reset("open_drawer", 1)
    assert not np.array_equal(robot.observe().images["static"], kept)
    np.testing.assert_array_equal(first, kept)


def test_any_size_of_picture(robot: SimulatedPanda) -> None:
    for size in ((64, 64), (480, 640), (64, 64)):
        assert robot.images(("static",), size)["static"].shape == (*size, 3)


def test_two_renderers_do_not_disturb_each_other(robot: SimulatedPanda) -> None:
    robot.reset("open_drawer", 0)
    before = robot.observe().images["static"]
    other = SimulatedPanda()
    other.reset("open_drawer", 0)
    np.testing.assert_array_equal(other.observe().images["static"], before)
    other.close()
    np.testing.assert_array_equal(robot.observe().images["static"], before)
    small = Cameras(robot.model, (64, 64))
    del small
    np.testing.assert_array_equal(robot.observe().images["static"], before)


def test_no_library_names_the_apt_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(render, "_egl_devices", lambda: 0)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(DiwaError, match="apt install libegl1 libgl1-mesa-dri"):
        create_context(64, 64)


def test_a_backend_that_was_asked_for_but_fails_is_named() -> None:
    code = (
        "import os; os.environ.update(MUJOCO_GL='egl', PYOPENGL_PLATFORM='glx')\n"
        "from diwa_sim.render import create_context; from diwa_data.errors import DiwaError\n"
        "try: create_context(64, 64)\n"
        "except DiwaError as error: print(error)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "egl" in output
    assert "PYOPENGL_PLATFORM" in output
    assert "apt install" in output


def test_intrinsics_say_where_the_bulb_is_seen(robot: SimulatedPanda) -> None:
    lit, dark = (image(robot, lever=lever).astype(int) for lever in (LEVER_ON, -LEVER_ON))
    camera, data = robot.model.camera("static").id, robot._data
    bulb = data.cam_xmat[camera].reshape(3, 3).T @ (data.geom("bulb").xpos - data.cam_xpos[camera])
    # OpenGL cameras look along -z with y up, camera matrices along z with y down
    x, y, depth = robot.intrinsics("static", (200, 200)) @ [bulb[0], -bulb[1], -bulb[2]]
    rows, columns = np.nonzero(np.abs(lit - dark)[..., :2].sum(axis=2) > 250)
    assert abs(np.median(rows) - y / depth) < 4
    assert abs(np.median(columns) - x / depth) < 4


def test_a_moved_static_camera_sees_elsewhere_and_the_contract_does_not_say_so() -> None:
    usual, moved = (SimulatedPanda(SimConfig(static_moved=by)) for by in ((0.0,) * 6, (0.0, 0.05, 0.0, 0.0, 0.0, 0.1)))
    assert moved.spec == usual.spec
    seen = [robot.observe() for robot in (usual, moved)]
    assert np.array_equal(seen[0].images["gripper"], seen[1].images["gripper"])
    assert not np.array_equal(seen[0].images["static"], seen[1].images["static"])
    before, after = (robot.model.camera("static") for robot in (usual, moved))
    assert after.pos - before.pos == pytest.approx([0.0, 0.05, 0.0])
    one, other = (Rotation.from_quat(camera.quat[[1, 2, 3, 0]]) for camera in (before, after))
    assert (other * one.inv()).as_rotvec() == pytest.approx([0.0, 0.0, 0.1])
    with pytest.raises(DiwaError, match=r"sim\.static_moved"):
        SimConfig(static_moved=(0.0, 0.0, float("nan"), 0.0, 0.0, 0.0))
