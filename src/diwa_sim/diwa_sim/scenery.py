"""The scene as films show it: the same bodies with the Panda's own shape, shadows, a floor and a sky.

It is a model of its own that takes its state from the one that moves: what policies see stays as it is, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np

from diwa_sim.render import Cameras
from diwa_sim.scene import SceneObject, load_model

SIZE = 480, 640
"""Height and width of its pictures, pixels."""
CAMERA = "film"
LAMPS = "bulb", "led"
SHINE = 0.25
"""Specular reflection of arm and furniture."""


class Scenery:
    """Draws a state of the scene for films."""

    def __init__(self, objects: Sequence[SceneObject] = ()):
        self._model = load_model(objects, film=True)
        self._data = mujoco.MjData(self._model)
        matte, self._lit = (self._model.material(name).id for name in ("matte", "lit"))
        self._matte = matte
        self._model.mat_specular[matte] = self._model.mat_shininess[matte] = SHINE
        self._model.light_active[0] = 0  # the policies' own light casts no shadow
        self._cameras = Cameras(self._model, SIZE, plain=False)

    def draw(self, moving: mujoco.MjModel, data: mujoco.MjData, on: Sequence[bool]) -> np.ndarray:
        """Picture (480, 640, 3) uint8 of the state of the model that moves; which of the lamps are `on`."""
        self._data.qpos[:] = data.qpos
        for name, lit in zip(LAMPS, on, strict=True):
            self._model.geom(name).rgba = moving.geom(name).rgba
            self._model.geom(name).matid = self._lit if lit else self._matte
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        return self._cameras.render(self._data, (CAMERA,))[CAMERA]

    def close(self) -> None:
        """Free the renderer."""
        self._cameras.close()
