"""The MuJoCo model of the table: our scene with the Panda's meshes from gymnasium-robotics."""

from __future__ import annotations

import importlib.util
from importlib import resources
from pathlib import Path

import mujoco

from diwa_data.errors import DiwaError

MESH_FOLDER = "envs/assets/kitchen_franka/franka_assets/meshes/collision"
MESHES = ("link0", "link1", "link2", "link3", "link4", "link5", "link6", "link7", "hand", "finger")


def load_model() -> mujoco.MjModel:
    """Compile the scene. Raises `DiwaError` when the package with the meshes is missing."""
    xml = resources.files("diwa_sim").joinpath("assets/scene.xml").read_text()
    return mujoco.MjModel.from_xml_string(xml, assets=_meshes())


def _meshes() -> dict[str, bytes]:
    """File name -> contents of the Panda's low-polygon meshes (Apache-2.0)."""
    package = importlib.util.find_spec("gymnasium_robotics")  # only located: importing it takes seconds
    if package is None or package.origin is None:
        raise DiwaError("the Panda's meshes are missing: pip install 'gymnasium-robotics>=1.3,<2'")
    folder = Path(package.origin).parent / MESH_FOLDER
    missing = [name for name in MESHES if not (folder / f"{name}.stl").is_file()]
    if missing:
        raise DiwaError(f"{folder} lacks {missing[0]}.stl: pip install --force-reinstall 'gymnasium-robotics>=1.3,<2'")
    return {f"{name}.stl": (folder / f"{name}.stl").read_bytes() for name in MESHES}
