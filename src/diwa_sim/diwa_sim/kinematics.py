"""The Panda's kinematics: hand pose from joint angles, and back."""

from __future__ import annotations

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose

ARM_JOINTS = tuple(f"joint{i}" for i in range(1, 8))
HOME = np.array([0.0, -0.55, 0.0, -2.55, 0.0, 2.0, 0.785])
"""Joint angles with the hand pointing down over the table, rad; the posture that redundancy is drawn to."""
_LARGEST_STEP = 0.15  # m, rad: a longer way is gone in several iterations, or it may end in a joint limit
_DAMPING = 0.02  # bounds steps near singularities
_POSTURE = 0.05  # share of the way home per iteration


class Kinematics:
    """Hand pose from joint angles and back, on a copy of the model's data that never moves the robot."""

    def __init__(self, model: mujoco.MjModel):
        self._model, self._data = model, mujoco.MjData(model)
        self._site = model.site("tcp").id
        joints = [model.joint(name) for name in ARM_JOINTS]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dof = np.array([joint.dofadr[0] for joint in joints])
        self._range = np.array([joint.range for joint in joints])  # (7, 2)
        self._jacobian = np.zeros((6, model.nv))

    def forward(self, angles: np.ndarray) -> Pose:
        """Hand pose in the base frame at joint `angles` (7,)."""
        self._place(angles)
        return Pose(
            self._data.site_xpos[self._site].copy(),
            Rotation.from_matrix(self._data.site_xmat[self._site].reshape(3, 3)),
        )

    def solve(self, target: Pose, start: np.ndarray, iterations: int) -> np.ndarray:
        """Joint angles (7,) within their limits that bring the hand from `start` towards `target`.

        dq = J^T (J J^T + damping^2 I)^-1 (e - J n) + n with posture motion n = posture (HOME - q).
        """
        angles = np.array(start, float)
        position, quaternion = target.position, target.quaternion[[3, 0, 1, 2]]  # MuJoCo: w x y z
        for _ in range(iterations):
            error = self._error(angles, position, quaternion)
            mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site)
            jacobian = self._jacobian[:, self._dof]  # (6, 7)
            posture = _POSTURE * (HOME - angles)
            gram = jacobian @ jacobian.T
            gram.flat[::7] += _DAMPING**2
            angles += jacobian.T @ np.linalg.solve(gram, error - jacobian @ posture) + posture
            np.clip(angles, self._range[:, 0], self._range[:, 1], out=angles)
        return angles

    def _error(self, angles: np.ndarray, position: np.ndarray, quaternion: np.ndarray) -> np.ndarray:
        """Position and rotation-vector error (6,) of the hand at `angles`, base frame."""
        self._place(angles)
        current, difference, error = np.empty(4), np.empty(4), np.empty(6)
        mujoco.mju_mat2Quat(current, self._data.site_xmat[self._site])
        mujoco.mju_negQuat(current, current)
        mujoco.mju_mulQuat(difference, quaternion, current)
        mujoco.mju_quat2Vel(error[3:], difference, 1.0)
        error[:3] = position - self._data.site_xpos[self._site]
        return np.clip(error, -_LARGEST_STEP, _LARGEST_STEP)

    def _place(self, angles: np.ndarray) -> None:
        self._data.qpos[self._qpos] = angles
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
