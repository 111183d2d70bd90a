"""CALVIN's environment: what is pure always, the rest where `calvin_env` is installed."""

import importlib.util
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from diwa_data.calvin.convert import CalvinImportConfig, import_calvin
from diwa_data.calvin.format import EPISODES, frame_path, pose_of
from diwa_data.calvin.tasks import GOALS
from diwa_data.dataset.dataset import load_dataset
from diwa_data.errors import DiwaError
from diwa_data.images import preprocess
from diwa_data.pose import Pose, integrate, robot_state
from diwa_data.spec import CALVIN
from diwa_data.testing.synthetic import robot_observation, write_calvin
from diwa_sim.calvin.config import CalvinConfig
from diwa_sim.calvin.environment import CalvinEnvironment, rendered
from diwa_sim.calvin.loading import RENDERED, make_calvin
from diwa_sim.calvin.starts import annotated_starts, drawn_start


def scene_of(vector: np.ndarray) -> dict[str, float]:
    return dict(zip(CALVIN.scene_state, vector, strict=True))


class Camera:
    """A camera as `calvin_env` has it: its image, then its depth."""

    def __init__(self, name: str, side: int):
        self.name, self._image = name, np.full((side, side, 3), side, np.uint8)

    def render(self):
        return self._image, np.zeros(self._image.shape[:2], np.float32)


def test_images_are_those_of_the_contracts_cameras() -> None:
    cameras = [Camera("tactile", 120), Camera("gripper", 84), Camera("static", 200)]
    images = rendered(cameras)
    assert {name: (image.shape, int(image[0, 0, 0])) for name, image in images.items()} == {
        "static": ((200, 200, 3), 200),
        "gripper": ((84, 84, 3), 84),
    }
    with pytest.raises(DiwaError, match="no camera gripper, only tactile, static"):
        rendered([cameras[0], cameras[2]])


@pytest.mark.parametrize("skill", GOALS)
def test_drawn_starts_are_in_the_skills_pre_state(skill: str) -> None:
    scenes = [scene_of(drawn_start(skill, seed, 0.1).scene) for seed in range(40)]
    goal = GOALS[skill]
    assert {scene[goal.quantity] for scene in scenes} == {goal.before}
    for other in {goal.quantity for goal in GOALS.values()} - {goal.quantity}:
        assert len({scene[other] for scene in scenes}) == 2
    assert all((scene["switch"] > 0.044) == bool(scene["bulb"]) for scene in scenes)
    places = {
        tuple(scene[f"{colour}_{axis}"] for axis in "xyz") for colour in ("red", "blue", "pink") for scene in scenes
    }
    assert len(places) == 4


def test_the_seed_alone_draws_the_start() -> None:
    one, same, other = (drawn_start("open_drawer", seed, 0.1) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.robot, same.robot)
    np.testing.assert_array_equal(one.scene, same.scene)
    assert np.abs(one.robot - other.robot)[7:14].min() > 0
    with pytest.raises(DiwaError, match="-1 must not be negative"):
        drawn_start("open_drawer", -1, 0.1)


def test_starts_of_annotated_segments(tmp_path: Path) -> None:
    segments = [("turn_on_led", 3, 25), ("open_drawer", 5, 20), ("turn_on_led", 8, 30)]
    folder = write_calvin(tmp_path / "validation", [40], segments)
    starts = annotated_starts(folder, "turn_on_led")
    assert [start.scene[1] for start in starts] == [0.03, 0.08]
    np.testing.assert_array_equal(starts[1].robot, robot_observation(8))
    with pytest.raises(DiwaError, match=r"no annotated segment of close_drawer: .*leave calvin.data out"):
        annotated_starts(folder, "close_drawer")
    with pytest.raises(DiwaError, match=r"no language annotations .*leave calvin.data out: starts are drawn by seed"):
        annotated_starts(write_calvin(tmp_path / "bare", [9]), "open_drawer")


def test_without_calvin_one_error_says_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "calvin_env", None)  # as if it were not there
    with pytest.raises(DiwaError, match=r"git clone https://github\.com/mees/calvin_env"):
        CalvinEnvironment()


@pytest.fixture(scope="module")
def environment():
    made = CalvinEnvironment(CalvinConfig(egl=False))
    yield made
    made.close()


def hold(environment: CalvinEnvironment, ticks: int, step=(0, 0, 0, 0, 0, 0), gripper: float = 1.0) -> list[Pose]:
    """Command `ticks` steps of a relative action; the targets."""
    targets = [environment.observe().pose]
    for _ in range(ticks):
        targets.append(integrate(targets[-1], np.array([*step, gripper]), CALVIN.action))
        environment.command(targets[-1], gripper)
    return targets


@pytest.mark.calvin
@pytest.mark.parametrize("skill", GOALS)
def test_a_reset_puts_the_scene_as_drawn(environment, skill) -> None:
    environment.reset(skill, 11)
    start, observation = drawn_start(skill, 11, 0.1), environment.observe()
    np.testing.assert_allclose(observation.scene_state[:6], start.scene[:6], atol=1e-3)
    assert not environment.succeeded()
    hold(environment, 2)
    assert not environment.succeeded()
    assert observation.images["static"].std() > 10


@pytest.mark.calvin
def test_commands_move_the_hand_by_calvins_scales(environment) -> None:
    environment.reset("open_drawer", 2)
    start = environment.observe()
    targets = hold(environment, 8, (0.5, 0, 1, 0, 0, -0.5), gripper=-1.0)
    hold_still = environment.observe()
    for _ in range(30):
        environment.command(targets[-1], -1.0)
    end = environment.observe()
    np.testing.assert_allclose(targets[-1].position - start.pose.position, [0.08, 0, 0.16], atol=1e-6)
    np.testing.assert_allclose(end.pose.position, targets[-1].position, atol=0.01)
    turned = end.pose.rotation.as_euler("xyz") - start.pose.rotation.as_euler("xyz")
    np.testing.assert_allclose(turned, [0, 0, -0.2], atol=0.03)
    assert start.gripper_width > 0.07 > 0.01 > end.gripper_width
    assert hold_still.stamp == pytest.approx(8 / 30)


@pytest.mark.calvin
def test_same_seed_and_commands_give_the_same_rollout(environment) -> None:
    seen = []
    for _ in range(2):
        environment.reset("turn_on_led", 5)
        hold(environment, 6, (0.3, 0.2, -0.5, 0, 0, 0.1))
        seen.append(environment.observe())
    np.testing.assert_allclose(seen[0].pose.position, seen[1].pose.position, atol=1e-4)
    np.testing.assert_allclose(seen[0].scene_state, seen[1].scene_state, atol=1e-3)


@pytest.mark.calvin
def test_success_is_the_change_since_the_reset(environment) -> None:
    environment.reset("open_drawer", 1)
    drawer = next(door for door in environment._environment.scene.doors if door.name == "base__drawer")
    drawer.reset(0.11)
    hold(environment, 1)
    assert not environment.succeeded()
    drawer.reset(0.13)
    hold(environment, 1)
    drawer.reset(0.0)
    hold(environment, 1)
    assert environment.succeeded()  # once is enough
    environment.reset("open_drawer", 1)
    assert not environment.succeeded()


@pytest.mark.calvin
def test_what_calvin_records_means_the_same_to_us(environment, tmp_path: Path) -> None:
    """Frames of the environment, with actions computed by CALVIN's own function, pass the import's check."""
    from calvin_env.utils.utils import to_relative_action

    environment.reset("open_drawer", 7)
    inner, rng = environment._environment, np.random.default_rng(0)
    inner.cameras = environment._cameras  # as CALVIN records: every step renders
    taken = [inner.step(np.append(rng.uniform(-1, 1, 6), -1.0))[0] for _ in range(13)]
    inner.cameras = []
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / EPISODES, np.array([[0, 11]]))
    for number, (now, then) in enumerate(pairwise(taken)):
        absolute = np.append(then["robot_obs"][:6], -1.0)
        vectors = {key: now[key] for key in ("robot_obs", "scene_obs")}
        relative = to_relative_action(absolute, now["robot_obs"])
        np.savez_compressed(
            frame_path(folder, number), actions=absolute, rel_actions=relative, **vectors, **now["rgb_obs"]
        )
    import_calvin(folder, tmp_path / "play.h5", CalvinImportConfig(workers=1))
    (episode,) = load_dataset(tmp_path / "play.h5", CALVIN).episodes
    np.testing.assert_array_equal(
        episode.state[5], robot_state(pose_of(taken[5]["robot_obs"]), taken[5]["robot_obs"][6])
    )
    np.testing.assert_allclose(episode.action[5][:6], relative_of(folder, 5)[:6], atol=1e-6)
    seen = preprocess(taken[5]["rgb_obs"]["rgb_gripper"], CALVIN.cameras[1])
    np.testing.assert_array_equal(episode.images["gripper"][5], seen)


def relative_of(folder: Path, number: int) -> np.ndarray:
    with np.load(frame_path(folder, number)) as file:
        return file["rel_actions"]


@pytest.mark.calvin
def test_a_data_folder_gives_scene_and_starts(tmp_path: Path) -> None:
    import hydra
    import omegaconf

    folder = write_calvin(tmp_path / "validation", [40], [("open_drawer", 3, 25), ("open_drawer", 9, 30)])
    with pytest.raises(DiwaError, match=r"merged_config.yaml is missing"):
        make_calvin(CalvinConfig(data=str(folder)))
    conf = Path(importlib.util.find_spec("calvin_env").origin).parents[1] / "conf"
    with hydra.initialize_config_dir(str(conf), version_base=None):
        settings = hydra.compose("config_data_collection", overrides=["cameras=static_gripper_tactile"])
    path = folder / RENDERED
    path.parent.mkdir()
    omegaconf.OmegaConf.save(settings, path)
    environment = CalvinEnvironment(CalvinConfig(data=str(folder), egl=False))
    environment.reset("open_drawer", 8_000_000_001)  # the second of two
    observation = environment.observe()
    assert observation.scene_state[1] == pytest.approx(0.09, abs=1e-3)
    assert set(observation.images) == {"static", "gripper"}
    environment.close()


@pytest.mark.calvin
def test_nothing_but_ours_is_printed() -> None:
    """Gym, Hydra, PyBullet and CALVIN's own code all have something to say at their start or end."""
    code = (
        "from diwa_sim.calvin.config import CalvinConfig; from diwa_sim.calvin.environment import CalvinEnvironment\n"
        "made = CalvinEnvironment(CalvinConfig(egl=False)); made.reset('open_drawer', 0); made.close()\n"
        "print('ours')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("ours\n", "")
