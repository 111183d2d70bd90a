"""The clutch and the teleoperator."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.motion import MotionLimits
from diwa_data.pose import Pose, rotation_distance
from diwa_data.spec import Spec
from diwa_data.teleop import Clutch, Command, ControllerState, TeleopConfig, Teleoperator

DT = 1 / 60
DOWN = Rotation.from_rotvec([np.pi, 0, 0])
HOME = Pose(np.array([0.5, 0.0, 0.3]), DOWN)


def controller(x: float = 0.0, held: bool = True, trigger: float = 0.0, **options) -> ControllerState:
    return ControllerState(
        Pose(np.array([x, 0.0, 0.0]), options.pop("rotation", Rotation.identity())), held, trigger, **options
    )


def started(**config) -> Teleoperator:
    teleoperator = Teleoperator(Spec(), TeleopConfig(**config))
    teleoperator.reset(HOME, 1.0)
    teleoperator.step(controller(held=False), HOME, DT)
    return teleoperator


def follow(teleoperator: Teleoperator, xs: list[float], held: bool = True) -> Command:
    for x in xs:
        command = teleoperator.step(controller(x, held), HOME, DT)
    return command


def test_motion_is_relative_to_where_the_clutch_was_pressed() -> None:
    teleoperator = started()
    command = follow(teleoperator, [0.7, 0.704, 0.708])
    np.testing.assert_allclose(command.target.position, [0.508, 0, 0.3], atol=1e-9)
    assert command.interventions == ()


def test_releasing_moving_and_pressing_again_does_not_jump() -> None:
    teleoperator = started()
    follow(teleoperator, [0.0, 0.004])
    command = follow(teleoperator, [0.1, 0.3, 0.6], held=False)
    np.testing.assert_allclose(command.target.position, [0.504, 0, 0.3], atol=1e-9)
    command = follow(teleoperator, [0.6, 0.604])
    np.testing.assert_allclose(command.target.position, [0.508, 0, 0.3], atol=1e-9)


def test_rotation_follows_in_the_base_frame() -> None:
    teleoperator = started()
    teleoperator.step(controller(), HOME, DT)
    command = teleoperator.step(controller(rotation=Rotation.from_euler("z", 0.01)), HOME, DT)
    assert rotation_distance(command.target.rotation, Rotation.from_euler("z", 0.01) * DOWN) < 1e-9


def test_a_jump_releases_until_pressed_again() -> None:
    teleoperator = started()
    follow(teleoperator, [0.0, 0.004])
    command = teleoperator.step(controller(0.06), HOME, DT)
    assert command.interventions == ("jump",)
    command = follow(teleoperator, [0.064, 0.068])
    np.testing.assert_allclose(command.target.position, [0.504, 0, 0.3], atol=1e-9)
    follow(teleoperator, [0.068], held=False)
    command = follow(teleoperator, [0.068, 0.07])
    np.testing.assert_allclose(command.target.position, [0.506, 0, 0.3], atol=1e-9)


@pytest.mark.parametrize("lost", [controller(0.004, valid=False), controller(np.nan)])
def test_lost_tracking_releases(lost: ControllerState) -> None:
    teleoperator = started()
    follow(teleoperator, [0.0, 0.004])
    teleoperator.step(lost, HOME, DT)
    command = follow(teleoperator, [0.008, 0.012])
    np.testing.assert_allclose(command.target.position, [0.504, 0, 0.3], atol=1e-9)


def test_a_deadman_held_at_reset_must_be_pressed_anew() -> None:
    clutch = Clutch(0.05)
    clutch.reset()
    clutch.step(controller(), HOME)
    assert not clutch.engaged
    clutch.step(controller(held=False), HOME)
    clutch.step(controller(), HOME)
    assert clutch.engaged


def test_speed_and_lead_are_limited() -> None:
    teleoperator = started()
    command = follow(teleoperator, [0.0, 0.04])
    np.testing.assert_allclose(command.target.position, [0.505, 0, 0.3], atol=1e-9)
    assert command.interventions == ("speed",)
    command = follow(teleoperator, [0.04 + 0.005 * step for step in range(20)])
    np.testing.assert_allclose(command.target.position, [0.55, 0, 0.3], atol=1e-6)
    assert "lead" in command.interventions


def test_trigger_closes_and_an_invalid_reading_keeps_the_gripper() -> None:
    teleoperator = started()
    grippers = [
        teleoperator.step(controller(trigger=trigger, valid=valid), HOME, DT).gripper
        for trigger, valid in [(0.1, True), (0.11, True), (0.0, False), (0.0, True)]
    ]
    assert grippers == [1.0, -1.0, -1.0, 1.0]


def test_limits_faster_than_full_scale_are_refused() -> None:
    limits = dataclasses.replace(MotionLimits(), max_speed=0.5)
    with pytest.raises(DiwaError, match=r"limits\.max_speed 0\.5/s .* spec\.action\.max_pos 0\.04"):
        Teleoperator(Spec(), TeleopConfig(limits=limits))


_ANY = st.floats(-1e6, 1e6) | st.floats(-0.3, 0.3) | st.sampled_from([np.nan, np.inf, -np.inf])
_AXIS_ANGLE = st.tuples(*[st.floats(-3.2, 3.2)] * 3) | st.sampled_from([(np.pi, 0, 0), (0, 3.14159, 0), (0, 0, -np.pi)])
_READINGS = st.tuples(st.tuples(_ANY, _ANY, _ANY), _AXIS_ANGLE, st.booleans(), st.booleans(), _ANY)


@given(st.lists(st.tuples(_READINGS, st.tuples(*[st.floats(-2, 2)] * 3), _AXIS_ANGLE), min_size=1, max_size=40))
def test_no_controller_and_no_arm_make_the_target_jump(steps) -> None:
    """Whatever is read, and wherever the arm is found, a step of the target stays within the speed limits."""
    limits, teleoperator, last = MotionLimits(), started(), HOME
    for (position, turn, held, valid, trigger), measured, measured_turn in steps:
        pose = Pose(np.array(position), Rotation.from_rotvec(turn))
        arm = Pose(np.array(measured), Rotation.from_rotvec(measured_turn))
        target = teleoperator.step(ControllerState(pose, held, trigger, (), valid), arm, DT).target
        assert np.abs(target.position - last.position).max() <= limits.max_speed * DT + 1e-9
        turned = (target.rotation * last.rotation.inv()).as_rotvec()
        assert np.abs(turned).max() <= limits.max_rotation_speed * DT + 1e-9
        last = target


def test_an_unknown_arm_holds_the_target() -> None:
    teleoperator = started()
    follow(teleoperator, [0.0, 0.004])
    lost = Pose(np.full(3, np.nan), DOWN)
    command = teleoperator.step(controller(0.008), lost, DT)
    np.testing.assert_allclose(command.target.position, [0.504, 0, 0.3], atol=1e-9)
    assert command.interventions == ("finite",)
