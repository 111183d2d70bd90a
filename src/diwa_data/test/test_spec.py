"""The contract: validation, JSON and mismatches."""

import dataclasses

import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_data.spec import ActionSpec, CameraSpec, Spec, require_same


def test_derived_sizes() -> None:
    spec = Spec()
    assert (spec.action_dim, spec.state_dim, spec.frames_per_tick) == (7, 10, 4)
    assert spec.tick == pytest.approx(0.13333, abs=1e-4)


def test_json_round_trip() -> None:
    spec = Spec(cameras=(CameraSpec("static", crop=(0, 10, 700, 700)),), scene_state=("drawer",))
    assert Spec.from_json(spec.to_json(), "here") == spec


@pytest.mark.parametrize(("text", "message"), [("{", "file.json is damaged"), ('{"speed": 1}', "unknown key 'speed'")])
def test_foreign_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(DiwaError, match=message):
        Spec.from_json(text, "file.json")


def test_rates_must_divide() -> None:
    with pytest.raises(DiwaError, match="must divide"):
        Spec(rate=8.0)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("aa", "names 'a' twice"),
        ("", "names no cameras: there must be 1 to 4"),
        ("abcde", r"5 cameras \(a, b, c, d, e\)"),
    ],
)
def test_one_to_four_cameras_have_different_names(names: str, message: str) -> None:
    with pytest.raises(DiwaError, match=f"spec.cameras {message}" if names == "aa" else message):
        Spec(cameras=tuple(map(CameraSpec, names)))


def test_mismatch_names_field_and_both_values() -> None:
    other = dataclasses.replace(Spec(), action=ActionSpec(max_pos=0.02), rate=15.0)
    with pytest.raises(DiwaError, match=r"D\.h5.*spec\.action\.max_pos is 0\.02, expected 0\.04.*spec\.rate is 15"):
        require_same(Spec(), other, "D.h5")
    require_same(Spec(), Spec(), "D.h5")


def test_mismatch_inside_a_camera_is_named() -> None:
    other = dataclasses.replace(Spec(), cameras=(CameraSpec("static", size=(32, 32)), CameraSpec("gripper")))
    with pytest.raises(DiwaError, match=r"spec\.cameras\[0\]\.size\[0\] is 32, expected 64"):
        require_same(Spec(), other, "here")


def test_executed_clips_and_takes_the_sign_of_the_gripper() -> None:
    action = ActionSpec()
    raw = np.array([[1.7, -0.5, 0, 0, -3, 0, 0.0], [0, 0, 0, 0, 0, 0, -1e-9]])
    expected = np.array([[1, -0.5, 0, 0, -1, 0, 1.0], [0, 0, 0, 0, 0, 0, -1]])
    np.testing.assert_array_equal(action.executed(raw), expected)
    assert raw[0, 0] == 1.7  # the raw action is not changed
    np.testing.assert_array_equal(action.null, [0, 0, 0, 0, 0, 0, 1])


def test_without_a_gripper_actions_have_six_numbers_and_states_nine() -> None:
    action = ActionSpec(gripper=False)
    spec = Spec(action=action, state=action.state)
    assert (spec.action_dim, spec.state_dim, spec.state) == (6, 9, ("position", "rotation_6d"))
    assert Spec.from_json(spec.to_json(), "here") == spec
    np.testing.assert_array_equal(action.null, np.zeros(6, np.float32))
    np.testing.assert_array_equal(action.executed(np.array([[1.7, 0, 0, 0, 0, -3.0]])), [[1, 0, 0, 0, 0, -1]])
    assert action.gripper_command(action.null) == 1.0
    with pytest.raises(
        DiwaError, match=r"spec\.state is .*gripper_width.* must be position, rotation_6d, as action\.gr"
    ):
        Spec(action=action)
    with pytest.raises(DiwaError, match=r"must be position, rotation_6d, gripper_width, as action\.gripper is true"):
        Spec(state=action.state)
    with pytest.raises(DiwaError, match=r"spec\.action\.gripper is False, expected True; .*state"):
        require_same(Spec(), spec, "here")


def test_a_spec_from_before_there_was_a_choice_has_a_gripper() -> None:
    text = Spec().to_json().replace('"gripper": true, ', "")
    assert text != Spec().to_json()
    assert Spec.from_json(text, "here") == Spec()
