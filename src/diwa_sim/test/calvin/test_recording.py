"""Recordings of our own in CALVIN's scene: the contract always, the operator where `calvin_env` is installed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diwa_data.calvin.tasks import GOALS
from diwa_data.config import load_section
from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.skills import Goal, recorded_goal
from diwa_data.spec import CALVIN, Spec, require_same
from diwa_sim.calvin.config import CalvinConfig
from diwa_sim.calvin.starts import drawn_start
from diwa_sim.calvin.tasks import PLAYGROUND, points
from diwa_sim.environments import is_done, open_environment, seeing
from diwa_sim.operator.record import SimulatedRecordConfig, record
from diwa_sim.replay import replay
from diwa_sim.scene import SCENE_STATE
from diwa_sim.table import SimConfig

RECORDING = load_section(SimulatedRecordConfig, "record", "calvin_laptop")


def test_the_contract_of_recordings_names_rate_and_renderer() -> None:
    spec = CalvinConfig(rate=7.5, egl=False).spec
    assert (spec.robot, spec.rate, spec.record_rate, spec.frames_per_tick) == ("calvin_cpu", 7.5, 7.5, 1)
    assert (spec.action.max_pos, spec.action.max_rot, spec.action.frame) == (0.04, 0.1, "world")
    assert (spec.cameras, spec.scene_state) == (CALVIN.cameras, CALVIN.scene_state)
    with pytest.raises(DiwaError, match=r"spec.robot is 'calvin_egl', expected 'calvin_cpu'"):
        require_same(spec, CalvinConfig(rate=7.5).spec, "another dataset")
    assert CalvinConfig().spec == CALVIN
    with pytest.raises(DiwaError, match=r"calvin.rate is 15 Hz: choose 30, .* or 7.5"):
        CalvinConfig(rate=15.0)


@pytest.mark.parametrize("made", [CalvinConfig(), CalvinConfig(rate=7.5), CalvinConfig(rate=7.5, egl=False)])
def test_a_checkpoint_is_judged_at_the_rate_and_with_the_renderer_of_its_recordings(made: CalvinConfig) -> None:
    for asked in (CalvinConfig(), CalvinConfig(rate=7.5, egl=False)):
        assert seeing(asked, made.spec).spec == made.spec
        assert seeing(asked, Spec()) == asked
    assert seeing(SimConfig(), made.spec) == SimConfig()


def test_points_move_with_the_furniture() -> None:
    shut = points(np.zeros(24))
    start = drawn_start("close_drawer", 3, 0.1).scene
    np.testing.assert_allclose(points(start)["drawer_handle"] - shut["drawer_handle"], [0, -0.22, 0])
    moved = points(drawn_start("turn_off_lightbulb", 3, 0.1).scene)["switch_bar"] - shut["switch_bar"]
    np.testing.assert_allclose(np.linalg.norm(moved), 0.088, atol=1e-4)


def test_the_operator_knows_calvins_tasks_with_calvins_goals() -> None:
    assert {name: PLAYGROUND.tasks[name].goal for name in PLAYGROUND.usual} == GOALS
    with pytest.raises(DiwaError, match="unknown simulated task 'push_cube'; choose one of open_drawer"):
        PLAYGROUND.task("push_cube")


def test_scene_states_are_judged_by_the_goals_of_their_scene() -> None:
    scene = np.zeros((2, 24))
    scene[:, CALVIN.scene_state.index("drawer")] = (0.11, 0.09)  # at our table neither would be shut enough
    assert is_done("close_drawer", scene[0], scene, CALVIN.scene_state).tolist() == [False, True]
    table = np.zeros((2, len(SCENE_STATE)))
    table[:, SCENE_STATE.index("drawer")] = (0.05, 0.03)
    assert is_done("close_drawer", table[0], table, SCENE_STATE).tolist() == [False, True]


def test_bad_requests_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for config, said in (
        (replace(RECORDING, skill="push_cube"), "unknown task of CALVIN's 'push_cube'"),
        (replace(RECORDING, tasks=("lift_cube",)), "unknown task of CALVIN's 'lift_cube'"),
        (replace(RECORDING, device="keyboard"), "no window for a person with --device keyboard: use scripted"),
    ):
        with pytest.raises(DiwaError, match=said):
            record(tmp_path / "a", config, config.calvin)
    assert not (tmp_path / "a").exists()


@pytest.mark.calvin
def test_limits_of_the_table_are_refused_with_a_cure(tmp_path: Path) -> None:
    config = SimulatedRecordConfig(environment="calvin", skill="open_drawer", workers=1)
    with pytest.raises(DiwaError, match=r"outside of the workspace .* those of --preset calvin_laptop"):
        record(tmp_path / "a", config, replace(config.calvin, egl=False))
    assert not list((tmp_path / "a").glob("*.json"))


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One demonstration of `turn_on_led`."""
    folder = tmp_path_factory.mktemp("calvin")
    record(folder, replace(RECORDING, skill="turn_on_led", episodes=1, workers=1), RECORDING.calvin)
    return folder


@pytest.mark.calvin
def test_a_demonstration_goes_through_dataset_and_replay(bags: Path, tmp_path: Path) -> None:
    build_dataset([bags], tmp_path / "d.h5", DatasetConfig(workers=1))
    loaded = load_dataset(tmp_path / "d.h5")
    assert loaded.spec == replace(RECORDING.calvin.spec, limits=RECORDING.teleop.limits)
    episode = next(each for each in loaded.episodes if each.outcome == "success")
    labels = episode.attributes["labels"]
    assert recorded_goal(labels, "turn_on_led", "labels") == Goal("led", 0.0, 0.5)
    led = episode.scene_state[:, CALVIN.scene_state.index("led")]
    assert (led[0], led[-1]) == (0.0, 1.0)
    assert all(image.std() > 5 for images in episode.images.values() for image in images)
    assert np.abs(np.diff(episode.received) - 1 / 7.5).max() < 1e-6
    assert [result.succeeded for result in replay(tmp_path / "d.h5")] == [True]


@pytest.mark.calvin
def test_another_renderer_is_refused_in_the_same_folder(bags: Path) -> None:
    config = replace(RECORDING, skill="turn_on_led", episodes=1, workers=1)
    with pytest.raises(DiwaError, match=r"calvin.egl was False, is True"):
        record(bags, config, replace(config.calvin, egl=True))
    with pytest.raises(DiwaError, match=r"record.environment was 'calvin', is 'table'"):
        record(bags, config)


@pytest.mark.calvin
def test_play_begins_anywhere_and_has_nothing_to_succeed_at() -> None:
    robot = open_environment(RECORDING.calvin, RECORDING.teleop.limits)
    robot.reset("", 5)
    assert not robot.judged
    with pytest.raises(DiwaError, match="none of CALVIN's tasks"):
        robot.succeeded()
    robot.command(robot.target_pose, -1.0)
    assert robot.time == pytest.approx(1 / 7.5)
    assert robot.spec.limits == RECORDING.teleop.limits != MotionLimits()
    robot.close()
