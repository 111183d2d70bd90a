"""Chains of transforms against scipy's own products, whatever tree they hang in and in whatever order they come."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.foreign.transforms import Transforms, oldest, pose_of
from diwa_data.testing.foreign import Lab

LAB = Lab()


def transform(parent: str, child: str, pose: np.ndarray, stamp: float = 1.0):
    """A TransformStamped of a position and a rotation vector (6,)."""
    x, y, z, w = Rotation.from_rotvec(pose[3:]).as_quat().tolist()
    quaternion = LAB.message("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)
    point = LAB.message("geometry_msgs/msg/Point", x=float(pose[0]), y=float(pose[1]), z=float(pose[2]))
    time = LAB.message("builtin_interfaces/msg/Time", sec=int(stamp), nanosec=round(stamp % 1 * 1e9))
    return LAB.transform(
        parent, child, time, LAB.message("geometry_msgs/msg/Pose", position=point, orientation=quaternion)
    )


def message(*transforms):
    return LAB.message("tf2_msgs/msg/TFMessage", transforms=list(transforms))


def matrix(pose: np.ndarray) -> np.ndarray:
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = Rotation.from_rotvec(pose[3:]).as_matrix(), pose[:3]
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_chain_is_the_product_of_its_transforms(data) -> None:
    count = data.draw(st.integers(2, 7))
    parents = [data.draw(st.integers(0, child - 1)) for child in range(1, count)]  # a tree whose root is frame 0
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    poses = rng.normal(size=(count - 1, 6))
    world = [np.eye(4)]
    for child in range(1, count):
        world.append(world[parents[child - 1]] @ matrix(poses[child - 1]))
    one, two = data.draw(st.permutations(range(count)))[:2]
    transforms = Transforms(f"/f{one}", f"f{two}")
    order = data.draw(st.permutations(range(1, count)))
    for child in order:
        transforms.feed(message(transform(f"f{parents[child - 1]}", f"/f{child}", poses[child - 1])), static=False)
    assert transforms.is_known
    found, expected = pose_of(transforms.now(), "here"), np.linalg.inv(world[one]) @ world[two]
    np.testing.assert_allclose(found.position, expected[:3, 3], atol=1e-9)
    np.testing.assert_allclose(found.rotation.as_matrix(), expected[:3, :3], atol=1e-9)


def test_the_stamp_is_that_of_the_oldest_transform_that_moves() -> None:
    transforms = Transforms("a", "d")
    assert not transforms.feed(message(transform("a", "b", np.ones(6), 5.0)), static=False)
    assert not transforms.feed(message(transform("b", "c", np.ones(6), 0.0)), static=True)
    assert transforms.feed(message(transform("c", "d", np.ones(6), 7.0)), static=False)
    assert oldest(transforms.now()) == 5.0
    assert not transforms.feed(message(transform("a", "elsewhere", np.ones(6), 9.0)), static=False)
    assert transforms.feed(message(transform("a", "b", np.ones(6), 9.0)), static=False)
    assert oldest(transforms.now()) == 7.0


def test_a_single_transform_is_exactly_what_it_says() -> None:
    pose = np.random.default_rng(0).normal(size=6)
    transforms = Transforms("a", "b")
    sent = transform("a", "b", pose)
    transforms.feed(message(sent), static=False)
    found = pose_of(transforms.now(), "here")
    assert found.position.tolist() == pose[:3].tolist()
    np.testing.assert_allclose(found.quaternion[3], sent.transform.rotation.w, rtol=0, atol=1e-15)


def test_a_circle_has_no_end_and_is_not_followed() -> None:
    transforms = Transforms("a", "z")
    transforms.feed(message(transform("b", "a", np.ones(6)), transform("a", "b", np.ones(6))), static=False)
    assert not transforms.is_known
    assert transforms.frames == ["a", "b"]


def test_a_nan_names_its_transform() -> None:
    transforms = Transforms("a", "b")
    transforms.feed(message(transform("a", "b", np.array([np.nan, 0, 0, 0, 0, 0]))), static=False)
    with pytest.raises(DiwaError, match=r"here: transform from a to b: pose .* is not finite"):
        pose_of(transforms.now(), "here")
