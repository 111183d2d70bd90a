"""The scene as MuJoCo compiles it: the table with arm and cube, and the objects that tasks bring."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError, damage_as_error, unknown
from diwa_data.pose import Pose
from diwa_data.skills import skill_name
from diwa_sim.starts import Start

SCENE_STATE = (
    "drawer", "slider", "lever", "button", "bulb", "led",
    "cube_x", "cube_y", "cube_z", "cube_qx", "cube_qy", "cube_qz", "cube_qw",
)  # fmt: skip
"""Names of the table's scene state (13,): metres, rad (lever), 0 or 1 (lights), quaternion x y z w. Drawer grows when
it opens, slider to the left, lever away from the robot, button when pressed. Objects come behind it."""
MESHES = "envs/assets/kitchen_franka/franka_assets/meshes"
"""Folder of the Panda's meshes (Apache-2.0) in the package `gymnasium_robotics`: `collision`, of few polygons, which
policies see, and `visual`, for films."""
_POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
_FREE_X, _FREE_Y = (0.29, 0.42), (-0.19, 0.05)
"""Part of the table where objects lie: out of the way of drawer and lever, metres."""
_APART = 0.10
"""Least distance between the centres of two objects at a start, metres."""


@dataclass(frozen=True)
class SceneObject:
    """Something that a task adds to the table: one body that moves freely, as MJCF.

    Its body and what it holds are named `NAME/...` in the scene; its pose comes behind the scene state as NAME_x,
    NAME_y, NAME_z, NAME_qx, NAME_qy, NAME_qz, NAME_qw.
    """

    name: str
    mjcf: str
    """A `<mujoco>` model with one body in its worldbody, which has a freejoint. Its `pos` is where it lies if nothing
    else is said: z is the height of its origin when it stands on the table, whose top is at 0."""
    assets: Mapping[str, bytes] = field(default_factory=dict)
    """Files that the model names, such as meshes."""

    def __post_init__(self) -> None:
        skill_name(self.name)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names (7,) of its pose in the scene state."""
        return tuple(f"{self.name}_{part}" for part in _POSE)

    def body(self) -> str:
        """Name of its body in its own model. Raises `DiwaError` if the model is not one free body."""
        where, cure = f"the object {self.name!r}", "give MJCF with one body in its worldbody, which has a freejoint"
        with damage_as_error(f"{where} is not a model that MuJoCo compiles", cure):
            model = mujoco.MjModel.from_xml_string(self.mjcf, assets=dict(self.assets))
        free = [int(model.jnt_bodyid[i]) for i in range(model.njnt) if model.jnt_type[i] == mujoco.mjtJoint.mjJNT_FREE]
        outer = [i for i in range(1, model.nbody) if model.body_parentid[i] == 0]
        if outer != free or not (name := model.body(free[0]).name if len(free) == 1 else ""):
            raise DiwaError(f"{where} is not one body with a name and a freejoint: {cure}")
        return name


def objects_named(scene_state: Sequence[str]) -> tuple[str, ...]:
    """Names of the objects whose poses a scene state holds behind the table's numbers."""
    return tuple(name.removesuffix("_x") for name in scene_state[len(SCENE_STATE) :] if name.endswith("_x"))


def load_model(objects: Sequence[SceneObject] = (), film: bool = False) -> mujoco.MjModel:
    """Compile the scene, or with `film` its dressed copy, which has the same joints.

    Raises `DiwaError` if the package with the meshes is missing, or an object cannot be added.
    """
    folder = resources.files("diwa_sim").joinpath("assets")
    xml, assets = folder.joinpath("scene.xml").read_text(), _arm_meshes("visual" if film else "collision")
    for each in objects:
        file = f"{each.name}.xml"
        if twice := assets.keys() & {file, *each.assets}:
            raise DiwaError(f"the object {each.name!r} brings {min(twice)}, which the scene has already: rename it")
        attached = f'<attach model="{each.name}" body="{each.body()}" prefix="{each.name}/"/>\n  </worldbody>'
        xml = xml.replace("</asset>", f'  <model name="{each.name}" file="{file}"/>\n  </asset>', 1)
        xml = xml.replace("</worldbody>", attached, 1)
        assets |= {file: each.mjcf.encode(), **each.assets}
    if film:
        assets["scene.xml"], xml = xml.encode(), folder.joinpath("scenery.xml").read_text()
    names = ", ".join(each.name for each in objects)
    with damage_as_error(f"MuJoCo does not add {names or 'nothing'} to the scene", "repair the objects' MJCF"):
        return mujoco.MjModel.from_xml_string(xml, assets=assets)


def move_camera(model: mujoco.MjModel, name: str, by: Sequence[float]) -> None:
    """Move a camera that is fixed to the scene by metres along x, y, z, then radians about them: `by` (6,)."""
    camera, turned = model.camera(name), np.empty(4)
    turn = Rotation.from_rotvec(by[3:]).as_quat()
    camera.pos += np.asarray(by[:3])
    mujoco.mju_mulQuat(turned, turn[[3, 0, 1, 2]], camera.quat)
    camera.quat[:] = turned


class Layout:
    """Where a compiled scene keeps what its scene state tells."""

    def __init__(self, model: mujoco.MjModel, objects: Sequence[str] = ()):
        roots = {model.body(i).name.split("/")[0]: i for i in reversed(range(model.nbody))}
        self.bodies = {name: roots[name] for name in ("cube", *objects)}
        """Name -> number of the body."""
        joints = {name: model.body_jntadr[body] for name, body in self.bodies.items()}
        self.starts = {name: int(model.jnt_qposadr[joint]) for name, joint in joints.items()}
        """Name -> where its seven numbers begin in qpos: position and quaternion w x y z."""
        self.furniture = [int(model.joint(name).qposadr[0]) for name in SCENE_STATE[:4]]
        """Where drawer, slider, lever and button are in qpos."""
        self.poses = [start + part for start in self.starts.values() for part in (0, 1, 2, 4, 5, 6, 3)]
        """Where the poses of cube and objects are in qpos, in the scene state's order."""

    def pose(self, data: mujoco.MjData, name: str) -> Pose:
        """Pose of the cube or of an object. Raises `DiwaError` for another name."""
        if name not in self.bodies:
            raise unknown("object of the scene", name, self.bodies)
        body = self.bodies[name]
        return Pose.from_quaternion(data.xpos[body].copy(), data.xquat[body][[1, 2, 3, 0]])

    @staticmethod
    def point(data: mujoco.MjData, name: str) -> np.ndarray:
        """Position (3,) of a site. Raises `DiwaError` for one that the scene does not have."""
        try:
            return data.site(name).xpos.copy()
        except KeyError as error:
            raise DiwaError(f"the scene has no point {name!r}: {' '.join(str(error.args[0]).split())}") from error


def mesh_folder(kind: str = "collision") -> Path:
    """The folder of one kind of the arm's meshes (`MESHES`). Raises `DiwaError` if their package is missing."""
    package = importlib.util.find_spec("gymnasium_robotics")  # only located: importing it takes seconds
    if package is None or package.origin is None:
        raise DiwaError("the Panda's meshes are missing: pip install 'gymnasium-robotics>=1.3,<2'")
    return Path(package.origin).parent / MESHES / kind


def _arm_meshes(kind: str) -> dict[str, bytes]:
    """File name -> contents, of one of the kinds in `MESHES`."""
    folder = mesh_folder(kind)
    files = [folder / f"{name}.stl" for name in (*(f"link{i}" for i in range(8)), "hand", "finger")]
    if missing := [file for file in files if not file.is_file()]:
        raise DiwaError(f"{missing[0]} is missing: pip install --force-reinstall 'gymnasium-robotics>=1.3,<2'")
    return {file.name: file.read_bytes() for file in files}


def with_objects(start: Start, names: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Places (3,) of all objects `names` at `start`: those that it does not give lie anywhere clear of the others.

    Each object has random numbers of its own, which its name and `seed` decide.
    """
    places = {name: np.asarray(start.objects[name], float) for name in names if name in start.objects}
    taken = [start.cube, *places.values()]
    for name in names:
        if name in places:
            continue
        rng = np.random.default_rng((seed, 0, *name.encode()))
        for _ in range(100):
            place = np.array([rng.uniform(*_FREE_X), rng.uniform(*_FREE_Y), rng.uniform(-np.pi / 4, np.pi / 4)])
            if all(np.hypot(*(place - other)[:2]) >= _APART for other in taken):
                break
        places[name] = place
        taken.append(place)
    return places
