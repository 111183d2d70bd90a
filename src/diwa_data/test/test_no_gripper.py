"""A robot without a gripper: six numbers an action, nine a state, from the bag to other people's formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.images import preprocess_observation
from diwa_data.lerobot.export import feature_table
from diwa_data.lerobot.files import dataset_card
from diwa_data.limits import MotionLimits
from diwa_data.motion import SafetyFilter
from diwa_data.pose import Pose, action_sequence, robot_state
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, needed_topics
from diwa_data.robot import Observation
from diwa_data.spec import ActionSpec, Spec
from diwa_data.testing.synthetic import record_synthetic, synthetic_image, synthetic_pose
from diwa_data.view.inspect import idle_share, inspect_path

BARE = ActionSpec(gripper=False)


@pytest.fixture(scope="module")
def bare(spec: Spec) -> Spec:
    return replace(spec, action=BARE, state=BARE.state)


@pytest.fixture(scope="module")
def bag(bare: Spec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {"source": "demonstration", "skill": "wipe_table"}
    return record_synthetic(tmp_path_factory.mktemp("bare"), bare, 3.0, labels, success=2.0)


def test_a_dataset_needs_no_topic_of_a_gripper(bag: Path, bare: Spec, tmp_path: Path) -> None:
    topics = {messages.JOINT_STATES, messages.GRIPPER_COMMAND}
    assert not topics & {*needed_topics(bare)}
    assert topics < {*needed_topics(Spec())}
    with Bag(bag) as opened:
        assert not topics & {*opened.topics}
    assert "no gripper" in inspect_path(bag)
    build_dataset([bag], tmp_path / "D.h5", DatasetConfig(workers=1))
    dataset = load_dataset(tmp_path / "D.h5", bare)
    (episode,) = dataset.episodes
    assert (episode.action.shape[1], episode.state.shape[1], dataset.spec) == (6, 9, bare)
    np.testing.assert_allclose(episode.state[5], robot_state(synthetic_pose(5 / 7.5), None), atol=1e-6)
    np.testing.assert_array_equal(episode.action[-1], np.zeros(6))
    assert "no gripper" in inspect_path(tmp_path / "D.h5")


def test_actions_are_those_of_a_robot_with_one_but_for_the_last_number() -> None:
    targets, grippers = [synthetic_pose(t / 7.5) for t in range(9)], np.array([1.0, -1.0] * 4 + [1.0])
    whole = action_sequence(targets, grippers, ActionSpec()).actions
    np.testing.assert_array_equal(action_sequence(targets, grippers, BARE).actions, whole[:, :6])
    assert idle_share(np.zeros((4, 6))) == 1.0
    assert idle_share(whole[:, :6]) == 0.0


def test_a_state_without_a_width_gives_the_pose_back(spec: Spec, bare: Spec) -> None:
    pose, images = synthetic_pose(0.7), {camera.name: synthetic_image(0.0, 40, 48) for camera in spec.cameras}
    seen = Observation(images, pose, pose, None, 0.0, 0.0)
    state = preprocess_observation(seen, bare).state
    np.testing.assert_allclose(Pose.from_state(state).position, pose.position, atol=1e-6)
    measured = replace(seen, gripper_width=0.05)  # whatever a simulator says
    np.testing.assert_array_equal(preprocess_observation(measured, bare).state, state)
    assert preprocess_observation(measured, spec).state[9] == pytest.approx(0.05)


def test_the_safety_filter_takes_six_numbers(bare: Spec) -> None:
    safety, start = SafetyFilter(MotionLimits(), bare), synthetic_pose(0.0)
    np.testing.assert_array_equal(safety.reset(start), np.zeros(6))
    command = safety.step(np.array([0.5, 0, 0, 0, 0, 0]), start)
    assert (command.gripper, command.action.shape, command.interventions) == (1.0, (6,), ())
    np.testing.assert_allclose(command.goal.position - start.position, [0.02, 0, 0], atol=1e-9)
    assert safety.executed(command.goal).shape == (6,)
    assert safety.step(np.full(6, np.nan), start).interventions == ("finite",)


def test_lerobot_is_told_the_names_there_are(bare: Spec) -> None:
    features = feature_table(bare, video=False)
    for key, last, length in (("action", "delta_yaw", 6), ("observation.state", "r21", 9)):
        assert (features[key]["names"][-1], len(features[key]["names"]), features[key]["shape"]) == (
            last,
            length,
            [length],
        )
    assert "gripper (" not in dataset_card("lab/wipe", bare, ["wipe table"], 1, 2)
    assert "gripper (+1 opens, -1 closes)" in dataset_card("lab/wipe", Spec(), ["wipe table"], 1, 2)
