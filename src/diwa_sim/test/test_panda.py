import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose, rotation_distance
from diwa_sim.kinematics import HOME, Kinematics
from diwa_sim.scene import load_model
from diwa_sim.starts import GRIPPER_DOWN


@pytest.fixture(scope="module")
def kinematics() -> Kinematics:
    return Kinematics(load_model())


def test_forward_kinematics_of_the_public_ready_pose(kinematics: Kinematics) -> None:
    """Panda's documented ready pose: the flange at x 0.307, z 0.590, so the fingertips 0.1034 below the hand frame."""
    pose = kinematics.forward(np.array([0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4]))
    np.testing.assert_allclose(pose.position, [0.3069, 0, 0.5903 - 0.1034], atol=2e-4)
    assert rotation_distance(pose.rotation, GRIPPER_DOWN) < 1e-3


@settings(max_examples=40)
@given(
    st.floats(0.33, 0.65), st.floats(-0.35, 0.35), st.floats(0.02, 0.4), st.floats(-0.4, 0.4), st.floats(-0.05, 0.05)
)
def test_inverse_kinematics_reaches_the_whole_table(
    kinematics: Kinematics, x: float, y: float, z: float, yaw: float, tilt: float
) -> None:
    target = Pose(np.array([x, y, z]), Rotation.from_euler("xyz", [tilt, -tilt, yaw]) * GRIPPER_DOWN)
    reached = kinematics.forward(kinematics.solve(target, HOME, iterations=60))
    assert np.linalg.norm(reached.position - target.position) < 1e-3
    assert rotation_distance(reached.rotation, target.rotation) < 2e-3


def test_joint_limits_hold_where_the_target_is_out_of_reach(kinematics: Kinematics) -> None:
    model = load_model()
    limits = np.array([model.joint(f"joint{i}").range for i in range(1, 8)])
    angles = kinematics.solve(Pose(np.array([2.0, 0, -1.0]), GRIPPER_DOWN), HOME, iterations=60)
    assert np.isfinite(angles).all()
    assert (angles >= limits[:, 0]).all()
    assert (angles <= limits[:, 1]).all()
