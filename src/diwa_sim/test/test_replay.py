from pathlib import Path

import numpy as np
import pytest

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.recording.recorder import RecordConfig
from diwa_sim.operator.record import record
from diwa_sim.replay import replay, run_open_loop, success_shares
from diwa_sim.table import SimulatedPanda

SKILLS = ("open_drawer", "turn_off_led")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three demonstrations of each of two skills."""
    folder = tmp_path_factory.mktemp("replay")
    for skill in SKILLS:
        record(folder / skill, RecordConfig(skill=skill, episodes=3, workers=1, seed=11))
    build_dataset([folder / skill for skill in SKILLS], folder / "d.h5", DatasetConfig(workers=1))
    return folder / "d.h5"


def test_check_08_dataset_actions_replayed_open_loop_succeed(dataset: Path) -> None:
    """docs/method.md, check 8, reduced: gripper sign, scale, frame and timing."""
    results = replay(dataset)
    assert len(results) == 6
    assert success_shares(results) == dict.fromkeys(sorted(SKILLS), 1.0)


@pytest.mark.parametrize("spoilt", ["sign", "scale", "axes"])
def test_check_08_notices_wrong_actions(dataset: Path, robot: SimulatedPanda, spoilt: str) -> None:
    successes = 0
    for episode in load_dataset(dataset, images=False).episodes:
        actions = episode.action[:-1].copy()
        if spoilt == "sign":
            actions[:, :3] *= -1
        elif spoilt == "scale":
            actions[:, :3] *= 0.5
        else:
            actions[:, :3] = actions[:, [1, 0, 2]]
        robot.reset(episode.attributes["skill"], episode.attributes["labels"]["seed"])
        successes += run_open_loop(robot, actions)
    assert successes <= 1


def test_replayed_hand_follows_the_recorded_one(dataset: Path, robot: SimulatedPanda) -> None:
    """The strictest form of the check: scale, frame, sign and timing put the hand where it was, tick by tick."""
    episode = load_dataset(dataset, images=False).episodes[0]
    robot.reset(episode.attributes["skill"], episode.attributes["labels"]["seed"])
    np.testing.assert_allclose(robot.measured_pose.position, episode.state[0, :3], atol=1e-6)
    for t, action in enumerate(episode.action[:-1]):
        run_open_loop(robot, action[None])
        np.testing.assert_allclose(robot.measured_pose.position, episode.state[t + 1, :3], atol=4e-3)
        assert robot.gripper_width == pytest.approx(episode.state[t + 1, 9], abs=0.05)
        np.testing.assert_allclose(robot.observe().scene_state[:6], episode.scene_state[t + 1, :6], atol=8e-3)


def test_check_08_plus_one_opens(dataset: Path) -> None:
    for episode in load_dataset(dataset, images=False).episodes:
        width, gripper = episode.state[:, 9], episode.action[:, 6]
        assert gripper[0] == 1.0
        assert width[0] > 0.07, "open at the start"
        assert gripper[-2] == -1.0
        assert width[-1] < 0.01, "closed at the end"


def test_play_alone_is_nothing_to_replay(tmp_path: Path) -> None:
    record(tmp_path / "play", RecordConfig(minutes=0.05, episode_seconds=3, workers=1))
    build_dataset([tmp_path / "play"], tmp_path / "play.h5", DatasetConfig(workers=1))
    with pytest.raises(DiwaError, match="no demonstration"):
        replay(tmp_path / "play.h5")
