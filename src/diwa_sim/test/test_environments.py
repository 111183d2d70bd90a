"""`diwa/Table-v0`: gymnasium's own checks, the task's reward, and starts by seed."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from diwa_data.errors import DiwaError
from diwa_data.spec import Spec


@pytest.fixture(scope="module")
def environment():
    made = gymnasium.make("diwa_sim:diwa/Table-v0", skill="turn_on_led", render_mode="rgb_array")
    yield made
    made.close()


def test_gymnasium_finds_nothing_wrong_with_it(environment):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*infinity")  # metres have no bound
        check_env(environment.unwrapped)


def test_spaces_are_those_of_the_contract(environment):
    seen, info = environment.reset(seed=3)
    assert {name: value.shape for name, value in seen.items()} == {
        "static": (64, 64, 3), "gripper": (64, 64, 3), "state": (10,), "scene_state": (13,), "executed": (7,),
        "target": (9,),
    }  # fmt: skip
    np.testing.assert_array_equal(seen["executed"], Spec().action.null)
    assert info == {"is_success": False}
    assert environment.render().shape == (200, 200, 3)


def test_a_seed_is_the_start_that_evaluation_takes(environment, robot):
    seen, _ = environment.reset(seed=2**33)
    robot.reset("turn_on_led", 2**33)
    np.testing.assert_array_equal(seen["scene_state"], robot.scene_state())
    starts = [environment.reset()[0]["scene_state"] for _ in range(2)]
    assert not np.array_equal(*starts)


def test_pressing_the_button_is_rewarded_and_ends_the_episode(environment):
    environment.reset(seed=0)
    robot, rewards = environment.unwrapped._robot, []
    while not any(rewards) and len(rewards) < 72:
        way = robot.site("button_top") - robot.target_pose.position
        way[2] += 0.06 if len(rewards) < 25 else -0.05  # come in above it, then press
        action = np.append(np.clip(way / 0.04, -1, 1), [0, 0, 0, -1]).astype(np.float32)
        _, reward, terminated, _, info = environment.step(action)
        rewards.append(reward)
        assert terminated == info["is_success"] == bool(reward)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_it_is_cut_after_72_ticks(environment):
    environment.reset(seed=0)
    assert [environment.step(Spec().action.null)[3] for _ in range(72)] == [False] * 71 + [True]


def test_an_unknown_skill_is_refused():
    with pytest.raises(DiwaError, match="unknown simulated task 'fly'"):
        gymnasium.make("diwa_sim:diwa/Table-v0", skill="fly")
