"""NEW."""

from __future__ import annotations

import mujoco
import numpy as np

from diwa_data.pose import Pose
from diwa_sim.table import load_model
from diwa_sim.tasks import SCENE_STATE


class SceneMirror:
    """Furniture and cube where a scene state says, without physics; `Scene` of the scripted operator."""

    def __init__(self, scene_state: np.ndarray, target_pose: Pose):
        self._model = load_model()
        self._data = mujoco.MjData(self._model)
        self._furniture = [self._model.joint(name).qposadr[0] for name in SCENE_STATE[:4]]
        self._cube = self._model.joint("cube").qposadr[0]
        self.update(scene_state, target_pose)

    def update(self, scene_state: np.ndarray, target_pose: Pose) -> None:
        """What was published last: (13,) as named by `SCENE_STATE`, and the commanded hand pose."""
        self.target_pose = target_pose
        self._scene_state = np.array(scene_state)
        self._data.qpos[self._furniture] = scene_state[:4]
        self._data.qpos[self._cube : self._cube + 7] = [*scene_state[6:9], *scene_state[[12, 9, 10, 11]]]
        mujoco.mj_kinematics(self._model, self._data)

    def scene_state(self) -> np.ndarray:
        """(13,) as it was published."""
        return self._scene_state

    def site(self, name: str) -> np.ndarray:
        """Position (3,) of a named point of the furniture: drawer_handle, slider_knob, lever_tip, button_top."""
        return self._data.site(name).xpos.copy()
