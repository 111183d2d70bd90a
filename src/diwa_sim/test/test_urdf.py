"""The arm as ROS shows it: the URDF's kinematics and the transforms put the hand where the simulator has it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose
from diwa_sim.scene import load_model
from diwa_sim.table import JOINTS
from diwa_sim.urdf import transforms, urdf


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return load_model()


def numbers(element: ElementTree.Element | None, name: str) -> np.ndarray:
    assert element is not None
    return np.array(element.attrib[name].split(), float)


def along(parent: Pose, child: Pose) -> Pose:
    return Pose(parent.position + parent.rotation.apply(child.position), parent.rotation * child.rotation)


def by_urdf(text: str, angles: dict[str, float], link: str) -> Pose:
    """Pose of a link in the root, by the joints above it."""
    above = {joint.find("child").attrib["link"]: joint for joint in ElementTree.fromstring(text).findall("joint")}
    pose = Pose(np.zeros(3), Rotation.identity())
    while link in above:
        joint = above[link]
        origin = joint.find("origin")
        step = Pose(numbers(origin, "xyz"), Rotation.from_euler("xyz", numbers(origin, "rpy")))
        if joint.attrib["type"] != "fixed":
            axis, value = numbers(joint.find("axis"), "xyz"), angles[joint.attrib["name"]]
            turn = joint.attrib["type"] == "revolute"
            moved = Rotation.from_rotvec(value * axis) if turn else Rotation.identity()
            step = along(step, Pose(np.zeros(3) if turn else value * axis, moved))
        pose, link = along(step, pose), joint.find("parent").attrib["link"]
    assert link == "panda_link0"
    return pose


@pytest.mark.parametrize("seed", range(3))
def test_urdf_transforms_and_simulator_agree(model: mujoco.MjModel, seed: int) -> None:
    data, rng = mujoco.MjData(model), np.random.default_rng(seed)
    angles = {name: rng.uniform(*model.joint(name).range) for name in JOINTS}
    for name, value in angles.items():
        data.qpos[model.joint(name).qposadr[0]] = value
    mujoco.mj_forward(model, data)
    said = {
        child: (parent, pose) for parent, child, pose in transforms(model, data, ("static", "gripper"), "panda_link0")
    }
    described = urdf(model, "panda_link0")
    for link, site in (("tcp", data.site("tcp")), ("left_finger", data.body("left_finger"))):
        pose, above = Pose(np.zeros(3), Rotation.identity()), link
        while above != "panda_link0":
            parent, step = said[above]
            pose, above = along(step, pose), parent
        for found in (pose, by_urdf(described, angles, link)):
            np.testing.assert_allclose(found.position, site.xpos, atol=1e-6)
            np.testing.assert_allclose(found.rotation.as_matrix().ravel(), site.xmat, atol=1e-6)


def test_cameras_look_along_z_and_belong_to_what_they_are_mounted_on(model: mujoco.MjModel) -> None:
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    said = {child: (parent, pose) for parent, child, pose in transforms(model, data, ("static", "gripper"), "base")}
    assert (said["static_camera"][0], said["gripper_camera"][0]) == ("base", "hand")
    camera = said["static_camera"][1]
    towards = np.array([0.55, 0.0, 0.0]) - camera.position  # the table
    assert camera.rotation.apply([0, 0, 1]) @ towards / np.linalg.norm(towards) > 0.9
    assert camera.rotation.apply([0, 1, 0])[2] < -0.5, "y is down in the image"


def test_meshes_are_files_and_links_have_joints(model: mujoco.MjModel) -> None:
    robot = ElementTree.fromstring(urdf(model, "base"))
    files = [Path(unquote(urlparse(mesh.attrib["filename"]).path)) for mesh in robot.iter("mesh")]
    assert len(files) == 11
    assert all(file.is_file() for file in files)
    assert {joint.attrib["name"] for joint in robot.findall("joint")} >= {*JOINTS}
    assert len(robot.findall("link")) == len(robot.findall("joint")) + 1
