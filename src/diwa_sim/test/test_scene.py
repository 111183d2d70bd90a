"""The table with objects that tasks bring."""

import dataclasses
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_data.spec import require_same
from diwa_sim.operator.operator import SceneMirror
from diwa_sim.scene import SCENE_STATE, SceneObject, load_model, objects_named
from diwa_sim.starts import StartConfig
from diwa_sim.table import SimConfig, SimulatedPanda
from diwa_sim.tasks import BLOCK, TASKS, sample_start

FREE = '<mujoco><worldbody><body name="it" pos="0.3 0 0.02"><freejoint/><geom size="0.02"/></body></worldbody></mujoco>'


@pytest.fixture(scope="module")
def furnished() -> Iterator[SimulatedPanda]:
    robot = SimulatedPanda(SimConfig(objects=("block",)))
    yield robot
    robot.close()


def test_an_objects_pose_comes_behind_the_scene_state(furnished: SimulatedPanda) -> None:
    names = ("block_x", "block_y", "block_z", "block_qx", "block_qy", "block_qz", "block_qw")
    assert furnished.spec.scene_state == (*SCENE_STATE, *names)
    assert objects_named(furnished.spec.scene_state) == ("block",)
    furnished.reset("stack_cubes", 3)
    state, block = furnished.scene_state(), furnished.body("block")
    np.testing.assert_allclose(state[13:], [*block.position, *block.quaternion], atol=1e-12)
    np.testing.assert_allclose(state[6:9], furnished.body("cube").position, atol=1e-12)
    assert block.position[2] == pytest.approx(0.02)
    assert len(furnished.observe().scene_state) == 20


def test_objects_rest_and_are_seen(furnished: SimulatedPanda, robot: SimulatedPanda) -> None:
    for seed in range(3):
        furnished.reset("", seed)
        before, image = furnished.scene_state()[13:], furnished.observe().images["static"].astype(int)
        for _ in range(30):
            furnished.advance(furnished.target_pose, 1.0)
        np.testing.assert_allclose(furnished.scene_state()[13:], before, atol=1e-3)
        blue = (image[..., 2] > 120) & (image[..., 0] < 80) & (image[..., 1] < 110)
        robot.reset("", seed)
        without = robot.observe().images["static"].astype(int)
        assert (blue & (np.abs(image - without).max(-1) > 40)).sum() > 40


def test_objects_lie_apart_from_each_other_and_move_nothing_else(furnished: SimulatedPanda) -> None:
    alone = [sample_start("lift_cube", seed, StartConfig()) for seed in range(20)]
    both = [sample_start("lift_cube", seed, StartConfig(), ("block",)) for seed in range(20)]
    for one, other in zip(alone, both, strict=True):
        np.testing.assert_array_equal(one.cube, other.cube)
        np.testing.assert_array_equal(one.hand.position, other.hand.position)
        assert np.hypot(*(other.objects["block"] - other.cube)[:2]) >= 0.1
    assert np.ptp([start.objects["block"][:2] for start in both], axis=0).min() > 0.05


def test_the_mirror_shows_the_objects_too(furnished: SimulatedPanda) -> None:
    furnished.reset("", 0)
    mirror = SceneMirror(furnished.scene_state(), furnished.target_pose, furnished.spec.scene_state)
    for seed in range(3):
        furnished.reset("", seed)
        mirror.update(furnished.scene_state(), furnished.target_pose)
        for name in ("cube", "block"):
            np.testing.assert_allclose(mirror.body(name).position, furnished.body(name).position, atol=1e-9)
            np.testing.assert_allclose(mirror.body(name).quaternion, furnished.body(name).quaternion, atol=1e-9)


def test_a_scene_without_objects_is_the_one_that_has_always_been(robot: SimulatedPanda) -> None:
    assert robot.spec.scene_state == SCENE_STATE
    assert (robot.model.nq, robot.model.ngeom) == (load_model().nq, load_model([BLOCK]).ngeom - 1)


def test_a_task_whose_object_is_missing_names_the_setting(robot: SimulatedPanda) -> None:
    said = "'stack_cubes' needs the object 'block', which this scene lacks: set sim.objects .--sim.objects block, "
    with pytest.raises(DiwaError, match=said):
        robot.reset("stack_cubes", 0)
    with pytest.raises(DiwaError, match=said):
        gymnasium.make("diwa_sim:diwa/Table-v0", skill="stack_cubes")


def test_scenes_that_differ_in_objects_are_told_apart(furnished: SimulatedPanda, robot: SimulatedPanda) -> None:
    with pytest.raises(DiwaError, match=r"spec\.scene_state is .*sim\.objects names the objects"):
        require_same(furnished.spec, robot.spec, "the dataset")


@pytest.mark.parametrize(
    ("objects", "said"),
    [(("cup",), "unknown object of the scene 'cup'; choose one of block"), (("block", "block"), "names one twice")],
)
def test_objects_that_no_task_brings_are_refused(objects: tuple[str, ...], said: str) -> None:
    with pytest.raises(DiwaError, match=said):
        SimulatedPanda(SimConfig(objects=objects))


@pytest.mark.parametrize(
    ("mjcf", "said"),
    [
        ("<mujoco", "'it' is not a model that MuJoCo compiles"),
        (FREE.replace("<freejoint/>", ""), "is not one body with a name and a freejoint"),
        (FREE.replace('name="it"', ""), "is not one body with a name"),
        (FREE.replace("</worldbody>", '<body name="more"/></worldbody>'), "is not one body with a name"),
        (FREE.replace("<geom", '<geom type="mesh" mesh="mug"'), "'it' is not a model that MuJoCo compiles"),
    ],
)
def test_an_object_that_is_no_free_body_is_told(mjcf: str, said: str) -> None:
    with pytest.raises(DiwaError, match=said) as error:
        load_model([SceneObject("it", mjcf)])
    assert "\n" not in str(error.value)


def test_an_object_may_have_joints_points_and_files_of_its_own() -> None:
    cube = "v 0 0 0\nv 0.02 0 0\nv 0 0.02 0\nv 0 0 0.02\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"
    mjcf = """<mujoco><asset><mesh name="wedge" file="wedge.obj"/></asset><worldbody><body name="pot" pos="0.3 0 0.05">
      <freejoint/><geom type="mesh" mesh="wedge"/><site name="rim" pos="0 0 0.05"/>
      <body name="lid"><joint type="hinge"/><geom size="0.01"/></body></body></worldbody></mujoco>"""
    pot = SceneObject("pot", mjcf, {"wedge.obj": cube.encode()})
    model = load_model([pot, dataclasses.replace(BLOCK)])
    assert model.site("pot/rim").id >= 0
    with pytest.raises(DiwaError, match=r"brings wedge\.obj, which the scene has already"):
        load_model([pot, SceneObject("pan", mjcf, pot.assets)])


def test_a_point_or_body_that_the_scene_lacks_is_told(furnished: SimulatedPanda) -> None:
    with pytest.raises(DiwaError, match=r"the scene has no point 'block/top': .*drawer_handle"):
        furnished.site("block/top")
    with pytest.raises(DiwaError, match="unknown object of the scene 'blok'; choose one of cube, block"):
        furnished.body("blok")


def test_every_task_says_what_it_is() -> None:
    assert all(task.text and len(task.text) < 80 for task in TASKS.values())
