"""Verdicts on ages and on the joints of the Panda, and its kinematics."""

import numpy as np
import pytest

from diwa_data.robot_config import JointConfig
from diwa_deploy.safety import JOINT_LIMITS, WatchdogConfig, fingertips, judge, judge_joints

NAMES = [f"panda_joint{number}" for number in range(1, 8)]
HOME = np.array([0.0, -0.55, 0.0, -2.55, 0.0, 2.0, 0.785])


def test_the_fingertips_are_where_the_simulator_has_them() -> None:
    """MuJoCo's forward kinematics of the Panda at the same angles."""
    np.testing.assert_allclose(fingertips(HOME)[0], [0.376666435, 0.0, 0.350336098], atol=1e-6)


def test_the_jacobian_is_the_change_of_the_fingertips() -> None:
    angles, small = HOME + np.linspace(-0.3, 0.3, 7), 1e-6
    changes = [(fingertips(angles + small * e)[0] - fingertips(angles - small * e)[0]) / (2 * small) for e in np.eye(7)]
    jacobian = fingertips(angles)[1]
    np.testing.assert_allclose(jacobian[:3], np.array(changes).T, atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(jacobian[3:], axis=0), 1.0)


def told(change: dict[int, float], names=NAMES):
    angles = HOME.copy()
    for joint, angle in change.items():
        angles[joint - 1] = angle
    fingers = ["panda_finger_joint1", "panda_finger_joint2"]
    return judge_joints([*names, *fingers], [*angles, 0.04, 0.04], JointConfig())


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({}, "ok", ""),
        ({1: 2.8}, "warn", "joint 1 is 0.10 rad from its limit"),
        ({2: -1.75}, "hold", "joint 2 is 0.01 rad from its limit"),
        ({6: 3.74}, "hold", "joint 6 is 0.01 rad from its limit"),
        ({4: -3.2}, "hold", "joint 4 is -0.13 rad from its limit"),
        ({2: 0.2, 4: -0.3, 6: 1.7}, "hold", "singularity"),
        ({3: np.nan}, "hold", "not finite"),
    ],
)
def test_margins_warn_and_hold(change, level, words) -> None:
    found = told(change)
    assert found.level == level
    assert words in found.reason


def test_limits_are_those_of_the_arm_by_its_joints_names() -> None:
    assert told({6: 0.6}, [f"fr3_joint{number}" for number in range(1, 8)]).reason.startswith("joint 6 is 0.06")
    assert told({6: 0.6}, [f"left_fr3_joint{number}" for number in range(1, 8)]).level == "warn"
    assert told({6: 0.6}).level == "ok"
    assert told({1: 9.0}, [f"axis_{number}" for number in range(1, 8)]).level == "ok", "another arm"
    assert all(low < high for limits in JOINT_LIMITS.values() for low, high in limits)


def test_a_margin_of_zero_is_switched_off() -> None:
    angles = HOME.copy()
    angles[3] = -3.0718
    assert judge_joints(NAMES, angles, JointConfig(0.0, 0.0, 0.0, 0.0)).level == "ok"


@pytest.mark.parametrize(
    ("age", "level"),
    [(0.0, "ok"), (0.1, "ok"), (0.11, "warn"), (0.21, "hold"), (1.0, "hold"), (1.01, "abort"), (np.inf, "abort")],
)
def test_the_oldest_decides(age, level):
    verdict = judge({"a": 0.0, "b": age, "c": 0.01}, WatchdogConfig())
    assert verdict.level == level
    assert verdict.reason == ("" if level == "ok" else f"b is {age:.2f} s old")


def test_an_unknown_age_is_infinite_and_no_ages_are_fine():
    assert judge({"a": np.nan}, WatchdogConfig()).level == "abort"
    assert judge({}, WatchdogConfig()).level == "ok"
    assert judge({"a": 0.3}, WatchdogConfig(hold=0.5)).level == "warn"
