"""Dreams keep to the limits that the robot keeps to, by the same functions: one robot in NumPy, N dreams in PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.limits import MotionLimits, columns_of, executed_action, matrix_of, rotated
from diwa_data.motion import SafetyFilter, lead, limit_goal
from diwa_data.pose import DOWN, Pose, integrate, relative_action, robot_state, rotation_distance
from diwa_data.spec import ActionSpec, Spec
from diwa_learning.world_model.model import WorldModel

SEEDS = st.integers(0, 2**32 - 1)
LIMITS = MotionLimits(max_tilt=0.6, max_lead_pos=0.03, max_lead_rot=0.15)
SPEC = Spec(limits=LIMITS)


def some_poses(rng: np.random.Generator, count: int, spread: float = 1.0) -> list[Pose]:
    """Poses in and out of the box, tilted by up to 1.5 times `spread`, rad."""
    places = rng.uniform([0.1, -0.6, -0.1], [0.9, 0.6, 0.9], (count, 3))
    turned = Rotation.from_euler("xyz", rng.uniform(-spread, spread, (count, 3)))
    return [Pose(place, turn * DOWN) for place, turn in zip(places, turned, strict=True)]


def actions_of(rng: np.random.Generator, count: int) -> np.ndarray:
    return SPEC.action.executed(rng.normal(size=(count, 7)))


def in_dreams(actions: np.ndarray, targets: list[Pose], hands: list[Pose], limits: MotionLimits) -> np.ndarray:
    """The executed parts (N, 7) that N dreams make of them at once."""
    rows = [torch.from_numpy(np.stack([row_of(pose) for pose in poses])) for poses in (targets, hands)]
    return executed_action(torch, torch.from_numpy(actions), *rows, SPEC.action, SPEC.tick, limits).numpy()


def row_of(pose: Pose) -> np.ndarray:
    return np.append(pose.position, columns_of(np, pose.rotation.as_matrix()))


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_dreams_move_the_target_as_the_safety_filter_moves_the_goal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = [limit_goal(pose, LIMITS).pose for pose in some_poses(rng, 8)]
    actions, wide = actions_of(rng, 8), replace(LIMITS, max_lead_pos=1.0, max_lead_rot=3.0)
    dreamt = in_dreams(actions, targets, targets, wide)
    for target, action, executed in zip(targets, actions, dreamt, strict=True):
        safety = SafetyFilter(wide, SPEC)
        safety.reset(target)
        command = safety.step(action, target)
        np.testing.assert_allclose(executed, command.action, atol=1e-6)
        reached = integrate(target, executed, SPEC.action)
        np.testing.assert_allclose(reached.position, command.goal.position, atol=1e-6)
        if np.abs(executed[3:6]).max() < 1:  # a turn that is taken back may be more than an action holds
            assert rotation_distance(reached.rotation, command.goal.rotation) < 1e-6


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_what_is_executed_keeps_every_limit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    slow = replace(LIMITS, max_speed=0.1, max_rotation_speed=0.3)
    targets = [limit_goal(pose, slow).pose for pose in some_poses(rng, 8, 0.3)]
    dreamt = in_dreams(actions_of(rng, 8), targets, targets, slow)
    for target, executed in zip(targets, dreamt, strict=True):
        reached = integrate(target, executed, SPEC.action)
        assert np.linalg.norm(reached.position - target.position) < 0.1 * SPEC.tick + 1e-9
        assert rotation_distance(reached.rotation, target.rotation) < 0.3 * SPEC.tick + 1e-9
        limited = limit_goal(reached, slow).pose
        np.testing.assert_allclose(limited.position, reached.position, atol=1e-9)
        assert rotation_distance(limited.rotation, reached.rotation) < 1e-6
        assert lead(reached, target, slow) < 1 + 1e-6


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.floats(0.0, 0.1), st.floats(0.0, 0.2))
def test_a_target_leads_the_hand_by_no_more_than_it_may(seed: int, behind: float, turned: float) -> None:
    rng = np.random.default_rng(seed)
    target = Pose(rng.uniform([0.4, -0.2, 0.3], [0.6, 0.2, 0.5]), Rotation.from_rotvec([0.1, 0, 0]) * DOWN)
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    hand = Pose(target.position - behind * axis, Rotation.from_rotvec(-turned * axis) * target.rotation)
    (executed,) = in_dreams(actions_of(rng, 1), [target], [hand], LIMITS)
    reached = integrate(target, executed, SPEC.action)
    # one action takes back no more than 40 mm and 0.1 rad an axis
    assert np.linalg.norm(reached.position - hand.position) < max(LIMITS.max_lead_pos, behind) + 1e-9
    assert rotation_distance(reached.rotation, hand.rotation) < max(LIMITS.max_lead_rot, turned) + 1e-6


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_nothing_changes_within_the_limits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    middle = [Pose(rng.uniform([0.4, -0.2, 0.3], [0.6, 0.2, 0.5]), DOWN) for _ in range(8)]
    actions = actions_of(rng, 8)
    actions[:, :6] *= 0.4
    np.testing.assert_allclose(in_dreams(actions, middle, middle, LIMITS), actions, atol=1e-9)


@pytest.mark.parametrize("kind", ["extrinsic_xyz", "euler_difference"])
@given(SEEDS)
@settings(max_examples=15, deadline=None)
def test_rotations_of_arrays_are_those_of_poses(kind, seed: int) -> None:
    rng, spec = np.random.default_rng(seed), ActionSpec(rotation=kind)
    (pose,), action = some_poses(rng, 1), actions_of(rng, 1)[0]
    moved = integrate(pose, action, spec)
    turned = rotated(np, pose.rotation.as_matrix(), action[3:6] * spec.max_rot, spec)
    np.testing.assert_allclose(turned, moved.rotation.as_matrix(), atol=1e-9)
    np.testing.assert_allclose(matrix_of(np, robot_state(pose, None)[3:9]), pose.rotation.as_matrix(), atol=1e-6)
    wide = MotionLimits((-9.0,) * 3, (9.0,) * 3, max_lead_pos=1.0, max_lead_rot=3.0, max_tilt=3.0)
    row = row_of(pose)[None]
    found = executed_action(np, action[None], row, row, spec, 1 / 7.5, wide)[0]
    np.testing.assert_allclose(found, relative_action(pose, moved, action[6], spec), atol=1e-6)


def test_a_dream_sums_up_the_rotation_and_stops_it_with_the_hand(tiny_config) -> None:
    torch.manual_seed(0)
    model = WorldModel(replace(tiny_config, robot_state_weight=1.0), SPEC)
    model.set_state_statistics(torch.tensor([0.5, 0.0, 0.3] + [0.0] * 7), torch.tensor([0.1, 0.2, 0.4] + [1.0] * 7))
    torch.nn.init.zeros_(model.state_decoder[-1].weight)
    torch.nn.init.zeros_(model.state_decoder[-1].bias)
    model.state_decoder[-1].bias.data[3:9] = torch.tensor([1.0, 0, 0, 0, -1, 0])  # straight down, whatever comes
    state, turning = model.rssm.initial(2), torch.tensor([[0, 0, 0, 0, 0, 1.0, 1.0], [1.0, 0, 0, 0, 0, 0, -1.0]])
    for expected in (0.1, 0.15, 0.15):
        executed = model.executed(state, turning)
        state = model.rssm.imagine_step(state, executed)
        turned = Pose.from_state(np.append(np.zeros(3), state.target[0, 3:].detach().numpy()))
        assert rotation_distance(turned.rotation, DOWN) == pytest.approx(expected, abs=1e-5)
    assert executed[:, 6].tolist() == [1, -1]
    torch.testing.assert_close(state.target[1, 3:], torch.tensor([1.0, 0, 0, 0, -1, 0]))


def test_limits_that_are_not_known_are_not_kept(tiny_config) -> None:
    model = WorldModel(replace(tiny_config, robot_state_weight=1.0), Spec())
    action = torch.tensor([[0, 0, 0, 1.0, 1, 1, 1]])
    state = model.rssm.initial(1)
    for _ in range(20):
        assert torch.equal(model.executed(state, action)[:, 3:], action[:, 3:])
        state = model.rssm.imagine_step(state, action)
