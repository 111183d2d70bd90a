"""The simulated arm as ROS shows it: its URDF, and where its links and cameras are."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose
from diwa_sim.scene import mesh_folder

BASE, HAND, TCP = "link0", "hand", "tcp"
"""Bodies of the base and the hand, and the site between the fingertips."""
_OPTICAL = Rotation.from_euler("x", np.pi)  # MuJoCo's cameras look along -z, y up; ROS's along z, y down
_EFFORT, _VELOCITY = "87", "2.6"


def transforms(
    model: mujoco.MjModel, data: mujoco.MjData, cameras: tuple[str, ...], base: str
) -> Iterator[tuple[str, str, Pose]]:
    """Parent, child and the child's pose in the parent: the arm's links, `tcp`, and `NAME_camera` of `cameras`.

    `base`: the name of the base link's frame. Cameras are children of the hand if they are on it, else of the base.
    """
    for body in _links(model):
        parent = int(model.body_parentid[body])
        yield _name(model, parent, base), model.body(body).name, _between(_of_body(data, parent), _of_body(data, body))
    hand = model.body(HAND).id
    site = model.site(TCP).id
    tip = Pose(data.site_xpos[site].copy(), _rotation(data.site_xmat[site]))
    yield HAND, TCP, _between(_of_body(data, hand), tip)
    for name in cameras:
        at = model.camera(name).id
        held = int(model.cam_bodyid[at]) == hand
        lens = Pose(data.cam_xpos[at].copy(), _rotation(data.cam_xmat[at]) * _OPTICAL)
        parent = hand if held else model.body(BASE).id
        yield _name(model, parent, base), f"{name}_camera", _between(_of_body(data, parent), lens)


def urdf(model: mujoco.MjModel, base: str) -> str:
    """The arm's links with their meshes, and its joints under their names in `/joint_states`."""
    robot = ElementTree.Element("robot", name="panda")
    for body in (model.body(BASE).id, *_links(model)):
        link = ElementTree.SubElement(robot, "link", name=_name(model, body, base))
        for geom in range(model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body]):
            if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
                _add_visual(link, model, geom)
    for body in _links(model):
        _add_joint(robot, model, body, base)
    tip = ElementTree.SubElement(robot, "joint", name="tcp_joint", type="fixed")
    _add_ends(tip, HAND, TCP, model.site_pos[model.site(TCP).id], np.array([1.0, 0.0, 0.0, 0.0]))
    ElementTree.SubElement(robot, "link", name=TCP)
    return ElementTree.tostring(robot, encoding="unicode")


def _links(model: mujoco.MjModel) -> list[int]:
    """Bodies that hang on the base, each behind its parent."""
    found = [int(model.body(BASE).id)]
    found += [
        body for body in range(found[0] + 1, model.nbody) if model.body_rootid[body] == model.body_rootid[found[0]]
    ]
    return found[1:]


def _add_visual(link: ElementTree.Element, model: mujoco.MjModel, geom: int) -> None:
    visual = ElementTree.SubElement(link, "visual")
    geometry = ElementTree.SubElement(visual, "geometry")
    mesh = mesh_folder() / f"{model.mesh(model.geom_dataid[geom]).name}.stl"
    ElementTree.SubElement(geometry, "mesh", filename=mesh.as_uri())
    material = ElementTree.SubElement(visual, "material", name=f"colour_{geom}")
    ElementTree.SubElement(material, "color", rgba=_words(model.geom_rgba[geom]))


def _add_joint(robot: ElementTree.Element, model: mujoco.MjModel, body: int, base: str) -> None:
    name, at = model.body(body).name, int(model.body_jntadr[body])
    kinds = {mujoco.mjtJoint.mjJNT_HINGE: "revolute", mujoco.mjtJoint.mjJNT_SLIDE: "prismatic"}
    kind = kinds[mujoco.mjtJoint(model.jnt_type[at])] if at >= 0 else "fixed"
    joint = ElementTree.SubElement(robot, "joint", name=model.joint(at).name if at >= 0 else f"{name}_joint", type=kind)
    _add_ends(
        joint, _name(model, int(model.body_parentid[body]), base), name, model.body_pos[body], model.body_quat[body]
    )
    if at >= 0:
        low, high = model.jnt_range[at]
        ElementTree.SubElement(joint, "axis", xyz=_words(model.jnt_axis[at]))
        ElementTree.SubElement(joint, "limit", lower=f"{low:g}", upper=f"{high:g}", effort=_EFFORT, velocity=_VELOCITY)


def _add_ends(
    joint: ElementTree.Element, parent: str, child: str, position: np.ndarray, quaternion: np.ndarray
) -> None:
    """`quaternion`: w x y z, as MuJoCo's."""
    ElementTree.SubElement(joint, "parent", link=parent)
    ElementTree.SubElement(joint, "child", link=child)
    angles = Rotation.from_quat(quaternion[[1, 2, 3, 0]]).as_euler("xyz")
    ElementTree.SubElement(joint, "origin", xyz=_words(position), rpy=_words(angles))


def _words(numbers: np.ndarray) -> str:
    return " ".join(f"{number:.9g}" for number in numbers)


def _name(model: mujoco.MjModel, body: int, base: str) -> str:
    name = str(model.body(body).name)
    return base if name == BASE else name


def _of_body(data: mujoco.MjData, body: int) -> Pose:
    return Pose.from_quaternion(data.xpos[body].copy(), data.xquat[body][[1, 2, 3, 0]])


def _rotation(matrix: np.ndarray) -> Rotation:
    return Rotation.from_matrix(matrix.reshape(3, 3))


def _between(parent: Pose, child: Pose) -> Pose:
    """Pose of `child` in the frame `parent`."""
    back = parent.rotation.inv()
    return Pose(back.apply(child.position - parent.position), back * child.rotation)
