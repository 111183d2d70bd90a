"""The clutch and the teleoperator."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.motion import use_of_limits
from diwa_data.pose import Pose, rotation_distance
from diwa_data.spec import Spec
from diwa_data.teleop.clutch import Clutch, Command, ControllerState, TeleopConfig, Teleoperator

DOWN = Rotation.from_rotvec([np.pi, 0, 0])
HOME = Pose(np.array([0.5, 0.0, 0.3]), DOWN)
STILL = 40  # steps after which everything rests


def controller(x: float = 0.0, held: bool = True, trigger: float = 0.0, **options) -> ControllerState:
    return ControllerState(
        Pose(np.array([x, 0.0, 0.0]), options.pop("rotation", Rotation.identity())), held, trigger, **options
    )


def started(**config) -> Teleoperator:
    teleoperator = Teleoperator(Spec(), TeleopConfig(**config))
    teleoperator.reset(HOME, 1.0)
    teleoperator.step(controller(held=False), HOME)
    return teleoperator


def follow(teleoperator: Teleoperator, xs: list[float], held: bool = True, wait: int = 0) -> Command:
    """The command after the controller was at each of `xs` (metres), and `wait` steps longer at the last."""
    for x in [*xs, *[xs[-1]] * wait]:
        command = teleoperator.step(controller(x, held), HOME)
    return command


def test_motion_is_relative_to_where_the_clutch_was_pressed() -> None:
    teleoperator = started()
    command = follow(teleoperator, [0.7, 0.704, 0.708], wait=STILL)
    np.testing.assert_allclose(command.target.position, [0.508, 0, 0.3], atol=1e-5)
    assert command.interventions == ()


def test_releasing_moving_and_pressing_again_does_not_jump() -> None:
    teleoperator = started()
    follow(teleoperator, [0.0, 0.004], wait=STILL)
    command = follow(teleoperator, [0.1, 0.3, 0.6], held=False)
    np.testing.assert_allclose(command.target.position, [0.504, 0, 0.3], atol=1e-5)
    command = follow(teleoperator, [0.6, 0.604], wait=STILL)
    np.testing.assert_allclose(command.target.position, [0.508, 0, 0.3], atol=1e-5)


def test_releasing_in_the_middle_of_a_motion_brakes_and_does_not_come_back() -> None:
    teleoperator = started()
    moving = follow(teleoperator, [0.004 * step for step in range(12)])
    xs = [follow(teleoperator, [0.044], held=False).target.position[0] for _ in range(STILL)]
    assert 0.001 < xs[-1] - moving.target.position[0] < 0.025
    assert min(np.diff(xs)) >= -1e-9
    assert teleoperator.at_rest


def test_rotation_follows_in_the_base_frame() -> None:
    teleoperator = started()
    teleoperator.step(controller(), HOME)
    for _ in range(STILL):
        command = teleoperator.step(controller(rotation=Rotation.from_euler("z", 0.01)), HOME)
    assert rotation_distance(command.target.rotation, Rotation.from_euler("z", 0.01) * DOWN) < 1e-5


@pytest.mark.parametrize("jumped", [controller(0.06), controller(0.004, rotation=Rotation.from_euler("x", np.pi))])
def test_a_jump_or_a_flip_releases_until_pressed_again(jumped) -> None:
    teleoperator = started()
    follow(teleoperator, [0.0, 0.004], wait=STILL)
    assert teleoperator.step(jumped, HOME).interventions == ("jump",)
    command = follow(teleoperator, [0.064, 0.068], wait=STILL)
    np.testing.assert_allclose(command.target.position, [0.504, 0, 0.3], atol=1e-5)
    assert rotation_distance(command.target.rotation, DOWN) < 1e-6
    follow(teleoperator, [0.068], held=False)
    command = follow(teleoperator, [0.068, 0.07], wait=STILL)
    np.testing.assert_allclose(command.target.position, [0.506, 0, 0.3], atol=1e-5)


@pytest.mark.parametrize("lost", [controller(0.004, valid=False), controller(np.nan)])
def test_lost_tracking_releases(lost: ControllerState) -> None:
    teleoperator = started()
    follow(teleoperator, [0.0, 0.004], wait=STILL)
    teleoperator.step(lost, HOME)
    command = follow(teleoperator, [0.008, 0.012])
    np.testing.assert_allclose(command.target.position, [0.504, 0, 0.3], atol=1e-5)


def test_a_deadman_held_at_reset_must_be_pressed_anew() -> None:
    clutch = Clutch(0.05, 0.5)
    clutch.reset()
    assert clutch.step(controller(), HOME) is None
    assert clutch.step(controller(held=False), HOME) is None
    assert clutch.step(controller(), HOME) is not None


def test_speed_and_lead_are_limited() -> None:
    teleoperator, last, told = started(), HOME, set()
    for step in range(60):
        command = teleoperator.step(controller(0.01 * step), HOME)
        assert command.target.position[0] - last.position[0] <= 0.3003 / 60
        told |= set(command.interventions)
        last = command.target
    assert 0.54 < last.position[0] <= 0.55
    assert "lead" in told


def test_trigger_closes_and_an_invalid_reading_keeps_the_gripper() -> None:
    teleoperator = started()
    grippers = [
        teleoperator.step(controller(trigger=trigger, valid=valid), HOME).gripper
        for trigger, valid in [(0.1, True), (0.11, True), (0.0, False), (0.0, True)]
    ]
    assert grippers == [1.0, -1.0, -1.0, 1.0]


def test_limits_faster_than_full_scale_are_refused() -> None:
    limits = dataclasses.replace(MotionLimits(), max_speed=0.9)
    with pytest.raises(DiwaError, match=r"limits\.max_speed 0\.9/s .* spec\.action\.max_pos 0\.04"):
        Teleoperator(Spec(), TeleopConfig(limits=limits))


def test_an_arm_outside_of_the_workspace_is_not_driven() -> None:
    teleoperator = Teleoperator(Spec(), TeleopConfig())
    assert teleoperator.at_rest
    with pytest.raises(DiwaError, match="outside of the workspace"):
        teleoperator.reset(Pose(np.array([500.0, 0.0, 300.0]), DOWN), 1.0)


def test_braking_ends_at_rest_whatever_the_controller_does_and_needs_a_new_press() -> None:
    teleoperator = started()
    follow(teleoperator, [0.004 * step for step in range(12)])
    assert not teleoperator.at_rest
    for _ in range(STILL):
        command = teleoperator.brake()
    assert teleoperator.at_rest
    still = follow(teleoperator, [0.1, 0.104, 0.108])
    np.testing.assert_allclose(still.target.position, command.target.position, atol=1e-9)


def test_an_arm_that_something_else_moves_is_left() -> None:
    teleoperator = started()
    for _ in range(40):
        teleoperator.step(controller(held=False), Pose(HOME.position + 0.1, DOWN))
    assert teleoperator.is_left


def test_an_unknown_arm_brakes_the_target() -> None:
    teleoperator = started()
    follow(teleoperator, [0.0, 0.004], wait=STILL)
    lost = Pose(np.full(3, np.nan), DOWN)
    command = teleoperator.step(controller(0.008), lost)
    np.testing.assert_allclose(command.target.position, [0.504, 0, 0.3], atol=1e-5)
    assert command.interventions == ("finite",)


_ANY = st.floats(-1e6, 1e6) | st.floats(-0.3, 0.3) | st.sampled_from([np.nan, np.inf, -np.inf])
_AXIS_ANGLE = st.tuples(*[st.floats(-3.2, 3.2)] * 3) | st.sampled_from([(np.pi, 0, 0), (0, 3.14159, 0), (0, 0, -np.pi)])
_READINGS = st.tuples(st.tuples(_ANY, _ANY, _ANY), _AXIS_ANGLE, st.booleans(), st.booleans(), _ANY)


@given(st.lists(st.tuples(_READINGS, st.tuples(_ANY, _ANY, _ANY), _AXIS_ANGLE), min_size=1, max_size=40))
def test_no_controller_and_no_arm_break_a_limit(steps) -> None:
    """Whatever is read, and wherever the arm is said to be."""
    teleoperator, published = started(), [HOME]
    for (position, turn, held, valid, trigger), measured, measured_turn in steps:
        pose = Pose(np.array(position), Rotation.from_rotvec(turn))
        arm = Pose(np.array(measured), Rotation.from_rotvec(measured_turn))
        published.append(teleoperator.step(ControllerState(pose, held, trigger, (), valid), arm).target)
    used = use_of_limits(published, MotionLimits(), 60.0)
    assert max(used.values()) <= 1 + 1e-6, used
