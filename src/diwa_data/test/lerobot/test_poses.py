"""Numbers of other conventions to poses and targets: by hand, and that all conventions agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.lerobot.folder import Feature
from diwa_data.lerobot.frames import tick_frames
from diwa_data.lerobot.mapping import (
    ActionMapping,
    GripperCommand,
    LeRobotMapping,
    Numbers,
    RotationMapping,
    StateMapping,
    SuccessMapping,
)
from diwa_data.lerobot.poses import Reader

FORMS = {
    "quaternion_xyzw": lambda r: r.as_quat(),
    "quaternion_wxyz": lambda r: r.as_quat()[:, [3, 0, 1, 2]],
    "euler": lambda r: r.as_euler("ZYX"),
    "axis_angle": lambda r: r.as_rotvec(),
    "rotation_6d": lambda r: np.concatenate([r.as_matrix()[:, :, 0], r.as_matrix()[:, :, 1]], axis=1),
    "matrix": lambda r: r.as_matrix().reshape(-1, 9),
}


def reader(rows, form="quaternion_xyzw", success=None, **action) -> Reader:
    """A reader of rows p (L, 3), r, dp, dr and g."""
    features = {name: Feature(name, "float32", values.shape[1:], ()) for name, values in rows.items()}
    state = StateMapping(Numbers("p"), RotationMapping("r", form=form, order="ZYX"), Numbers("g"))
    given = {"kind": "delta", "position": Numbers("dp"), "gripper": GripperCommand("g", stay=0.5)} | action
    return Reader(
        LeRobotMapping(1, "lerobot", state, ActionMapping(**given), success=success or SuccessMapping()), features
    )


def random_rows(seed: int, length: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    turn = Rotation.from_rotvec(0.1 * rng.normal(size=(length, 3)))
    rows = {"p": rng.normal(size=(length, 3)), "r": Rotation.random(length, random_state=seed).as_quat()}
    return rows | {"dp": 0.01 * rng.normal(size=(length, 3)), "dr": turn.as_quat(), "g": np.ones((length, 1))}


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 1000))
def test_every_form_of_a_rotation_is_the_same_rotation(form, seed):
    rows = random_rows(seed)
    expected = Rotation.from_quat(rows["r"])
    found = reader(rows | {"r": FORMS[form](expected)}, form).measured(rows | {"r": FORMS[form](expected)})
    assert (found.rotation * expected.inv()).magnitude().max() < 1e-6


@pytest.mark.parametrize("frame", ["base", "tool"])
@pytest.mark.parametrize("relative_to", ["target", "measured"])
@given(seed=st.integers(0, 1000))
def test_motions_are_those_that_lead_from_pose_to_target(frame, relative_to, seed):
    rows = random_rows(seed)
    read = reader(rows, rotation=RotationMapping("dr"), frame=frame, relative_to=relative_to)
    measured = read.measured(rows)
    targets = read.targets(rows, measured)
    np.testing.assert_array_equal(targets.position[0], rows["p"][0])
    for i in range(5):
        start = targets if relative_to == "target" else measured
        position, rotation = start.position[i], start.rotation[i]
        turn = Rotation.from_quat(rows["dr"][i])
        moved = rotation.apply(rows["dp"][i]) if frame == "tool" else rows["dp"][i]
        np.testing.assert_allclose(targets.position[i + 1], position + moved, atol=1e-9)
        expected = rotation * turn if frame == "tool" else turn * rotation
        assert (targets.rotation[i + 1] * expected.inv()).magnitude() < 1e-7


def test_targets_without_a_rotation_keep_the_first_one():
    rows = random_rows(1)
    for kind in ("absolute", "delta"):
        read = reader(rows, kind=kind)
        targets = read.targets(rows, read.measured(rows))
        assert (targets.rotation * Rotation.from_quat(rows["r"][0]).inv()).magnitude().max() < 1e-9
    np.testing.assert_allclose(targets.position[-1], rows["p"][0] + rows["dp"][:-1].sum(axis=0))


def test_euler_differences_are_added():
    rows = random_rows(2) | {"dr": np.full((6, 3), 0.01)}
    read = reader(rows, rotation=RotationMapping("dr", form="euler_difference"))
    targets = read.targets(rows, read.measured(rows))
    start = Rotation.from_quat(rows["r"][0]).as_euler("xyz")
    assert (targets.rotation[3] * Rotation.from_euler("xyz", start + 0.03).inv()).magnitude() < 1e-9


def test_gripper_commands_are_latched_and_known_one_frame_later():
    rows = random_rows(3) | {"g": np.array([[0.5], [0.9], [0.5], [0.1], [0.6], [1.0]])}
    assert reader(rows).grippers(rows, 1.0).tolist() == [1, 1, 1, 1, -1, -1]
    assert reader(rows).grippers(rows, -1.0).tolist() == [-1, -1, -1, -1, 1, 1]


@pytest.mark.parametrize(
    ("success", "done", "succeeded"),
    [
        (SuccessMapping(), "000000", None),
        (SuccessMapping("g"), "000111", True),
        (SuccessMapping("next.g"), "000011", True),
        (SuccessMapping("g", threshold=0.9), "000000", False),
        (SuccessMapping("g", whole_episode=True), "000001", True),
        (SuccessMapping("g", whole_episode=True, seconds=0.4), "000111", True),
        (SuccessMapping(seconds=0.2), "000011", True),
    ],
)
def test_success(success, done, succeeded):
    rows = random_rows(4) | {"g": np.array([[0], [0], [0], [0.9], [0], [0]])}
    rows["next.g"] = rows["g"]
    found, said = reader(rows, success=success).success(rows, 5.0)
    assert "".join(str(int(each)) for each in found) == done
    assert said is succeeded


@given(
    length=st.integers(1, 200),
    fps=st.sampled_from([7.5, 10.0, 15.0, 24.0, 29.97, 30.0, 60.0]),
    rate=st.sampled_from([5.0, 7.5]),
)
def test_a_tick_has_the_last_frame_that_was_captured_by_then(length, fps, rate):
    frames = tick_frames(length, fps, rate)
    for tick, frame in enumerate(frames):
        assert frame / fps <= tick / rate + 1e-6
        assert frame == length - 1 or (frame + 1) / fps > tick / rate - 1e-6
    assert len(frames) / rate >= (length - 1) / fps - 1e-6
    assert (np.diff(frames) > 0).all()
