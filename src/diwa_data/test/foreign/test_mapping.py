"""Mapping files: what they may say, and contracts that come from a robot file."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from diwa_data.errors import DiwaError
from diwa_data.foreign.mapping import load_mapping
from diwa_data.robot_config import load_robot
from diwa_data.testing.foreign import MAPPING

ROBOT = """\
/**:
  ros__parameters:
    robot:
      name: our_arm
      cameras: [static, gripper]
      static: {crop: [0, 10, 100, 100], record_size: [100, 100], size: [48, 48]}
      gripper: {record_size: [100, 100]}
      action: {max_pos: 0.02}
      inference_delay: 0.05
"""
CAMERAS = [{"name": "static", "topic": "/a"}, {"name": "gripper", "topic": "/b"}]


def write(folder: Path, **changes) -> Path:
    values = yaml.safe_load(MAPPING) | changes
    path = folder / "lab.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return path


def test_a_robot_file_gives_the_contract(tmp_path: Path) -> None:
    (tmp_path / "arm.yaml").write_text(ROBOT)
    mapping = load_mapping(write(tmp_path, robot="arm.yaml", cameras=CAMERAS))
    assert mapping.spec == replace(load_robot(tmp_path / "arm.yaml").spec, limits=None)  # nobody knows them
    assert [camera.topic for camera in mapping.cameras] == ["/a", "/b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 7.5}, r"rate is already in the robot file arm\.yaml: leave it out"),
        (
            {"cameras": [CAMERAS[0] | {"size": [64, 64]}, CAMERAS[1]]},
            r"cameras\[0\]\.size is already in the robot file",
        ),
        ({"cameras": CAMERAS[::-1]}, "cameras are gripper, static, but arm.yaml has static, gripper, in this order"),
        ({"robot": "leg.yaml"}, "unknown robot"),
    ],
)
def test_a_robot_file_is_not_contradicted(tmp_path: Path, changes: dict, message: str) -> None:
    (tmp_path / "arm.yaml").write_text(ROBOT)
    with pytest.raises(DiwaError, match=message):
        load_mapping(write(tmp_path, **{"robot": "arm.yaml", "cameras": CAMERAS} | changes))


def test_words_that_yaml_takes_for_true_are_words(tmp_path: Path) -> None:
    path = write(tmp_path, episodes={"by": "events", "topic": "/recording", "start": True, "stop": False})
    assert (load_mapping(path).episodes.start, load_mapping(path).episodes.stop) == ("true", "false")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds NoneType, not keys and values"),
        ("- a", "holds list, not keys and values"),
        ("a: [", "is not YAML"),
        ("1: 2", "not keys and values"),
        ("kind: bags", "has format None"),
        ("kind: bags\nformat: 1", "cameras is None"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "lab.yaml").write_text(text)
    with pytest.raises(DiwaError, match=message):
        load_mapping(tmp_path / "lab.yaml")
    with pytest.raises(DiwaError, match=r"is missing: write it as docs/formats\.md says"):
        load_mapping(tmp_path / "nowhere.yaml")
    with pytest.raises(DiwaError, match=r"is a folder, not a file: write it as docs/formats\.md says"):
        load_mapping(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": {"by": "events"}}, r"lab\.yaml: episodes: .*a topic belongs to by: events"),
        ({"episodes": {"by": "gaps", "gap": 0}}, "gap is 0.0, but must be a positive number of seconds"),
        ({"episodes": {"by": "events", "topic": "/e", "success": "start"}}, "need words of their own"),
        ({"success": {"by": "events"}}, "success is by events, so episodes must be too: they are by bag"),
        ({"success": {"by": "end", "seconds": -1}}, "seconds is -1.0"),
        ({"source": "play", "skill": "two words"}, "play shows none"),
        ({"skill": "Two Words"}, "'Two Words'"),
        ({"labels": {"skill": "x"}}, "labels.skill is the key skill of the mapping"),
        ({"gripper_command": {"open_above": 0.01, "close_below": 0.02}}, "0 < close_below <= open_above"),
        ({"gripper_width": {"topic": "/x", "scale": 0}}, "scale is 0.0"),
        ({"gripper_width": {"topic": "/x", "joints": ["a"], "field": "b"}}, "give joints or a field, not both"),
        ({"pose": {"parent": "a", "child": "b", "field": "c"}}, "transforms have none"),
        ({"pose": {"topic": "/x", "parent": "a", "child": "b"}}, "give a topic, or parent and child"),
        ({"pose": None}, "pose is missing"),
        ({"gripper_width": None, "gripper_command": None}, r"has neither, and action: \{gripper: false\}"),
        ({"action": {"gripper": False}}, "gripper_width is given, but action.gripper is false"),
        ({"cameras": [CAMERAS[0] | {"record_size": [0, 5]}]}, "record_size is"),
        ({"cameras": [CAMERAS[0] | {"size": [50, 50]}]}, "has size 50x50; the world model takes images of 48"),
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DiwaError, match=message) as raised:
        load_mapping(write(tmp_path, **changes))
    assert str(raised.value).startswith(str(tmp_path / "lab.yaml"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*yaml.safe_load(MAPPING), "episodes", "success", "action", "labels", "stamps", "rate"]), values)
def test_any_value_loads_or_is_refused(tmp_path_factory, key: str, value) -> None:
    path = write(tmp_path_factory.mktemp("any"), **{key: value})
    with suppress(DiwaError):
        load_mapping(path)
