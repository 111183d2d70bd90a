"""Bags of another lab: the same motion gives the same dataset, and what is wrong is one line that names it."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import Dataset, build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.pose import Pose, robot_state
from diwa_data.recording import messages
from diwa_data.recording.marks import Mark, write_marks
from diwa_data.spec import Spec
from diwa_data.testing.foreign import MAPPING, STATE, Lab, as_of_humble, franka_state, write_foreign
from diwa_data.testing.synthetic import record_synthetic, synthetic_pose
from diwa_data.view.inspect import inspect_path

ONE = DatasetConfig(workers=1)


@pytest.fixture(scope="module")
def plain(spec: Spec) -> Spec:
    cameras = tuple(dataclasses.replace(camera, size=(48, 48)) for camera in spec.cameras)
    return dataclasses.replace(spec, cameras=cameras, scene_state=())


@pytest.fixture(scope="module")
def own(plain: Spec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own bag of a demonstration of 3 s, success marked at 2 s."""
    folder = tmp_path_factory.mktemp("own")
    return record_synthetic(folder, plain, 3.0, {"source": "demonstration", "skill": "open_drawer"}, success=2.0)


@pytest.fixture(scope="module")
def ours(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("ours") / "D.h5"
    build_dataset([own], out, ONE)
    return load_dataset(out)


@pytest.fixture(scope="module")
def theirs(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_foreign(own, tmp_path_factory.mktemp("theirs") / "run1")


def mapping(folder: Path, **changes) -> Path:
    """A mapping file with some keys changed; None leaves one out."""
    values = yaml.safe_load(MAPPING) | {"episodes": {"by": "events", "topic": "/episode"}, "success": {"by": "events"}}
    values = {key: value for key, value in (values | changes).items() if value is not None}
    path = folder / "lab.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def build(bag: Path, folder: Path, **changes) -> Dataset:
    build_dataset([bag], folder / "D.h5", ONE, mapping=mapping(folder, **changes))
    return load_dataset(folder / "D.h5")


def require_equal(one: Dataset, two: Dataset, **tolerance) -> None:
    assert one.spec == two.spec
    for a, b in zip(one.episodes, two.episodes, strict=True):
        for name in ("state", "action", "success", "stamp", "received"):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), **{"rtol": 0, "atol": 0} | tolerance)
        for camera in a.images:
            np.testing.assert_array_equal(a.images[camera], b.images[camera])
        left_out = ("bag", "recorded_by")
        assert {k: v for k, v in a.attributes.items() if k not in left_out} == {
            k: v for k, v in b.attributes.items() if k not in left_out
        }


@pytest.mark.parametrize(("storage", "version"), [("mcap", 9), ("mcap", 8), ("sqlite3", 9), ("sqlite3", 8)])
def test_the_same_motion_under_other_names_gives_an_equal_dataset(own, ours, tmp_path, storage, version) -> None:
    bag = write_foreign(own, tmp_path / "run1", storage, version)
    require_equal(build(bag, tmp_path), ours)


def test_a_bag_of_humble_gives_an_equal_dataset(own: Path, ours: Dataset, tmp_path: Path) -> None:
    bag = as_of_humble(write_foreign(own, tmp_path / "run1", "sqlite3", 8))
    require_equal(build(bag, tmp_path), ours)


def test_transforms_are_chained_through_the_frames_between(own: Path, ours: Dataset, tmp_path: Path) -> None:
    """The moving frame is the flange; hand and tool are mounted on it. Ours is the flange's pose, moved by both."""
    offset = Pose(np.array([0.01, -0.02, 0.1]), Rotation.from_euler("xyz", [0.1, 0.2, -0.7]))
    lab = Lab(("base", "flange", "hand", "tcp"))
    bag = write_foreign(own, tmp_path / "run1", lab=lab, first=(lab.mounted(lab.frames[1:], offset),))
    episode = build(bag, tmp_path).episodes[0]
    for state, stamp in zip(episode.state, episode.stamp, strict=True):
        pose = synthetic_pose(stamp)
        for _ in range(2):
            pose = Pose(pose.position + pose.rotation.apply(offset.position), pose.rotation * offset.rotation)
        np.testing.assert_allclose(state, robot_state(pose, 0.04), atol=1e-6)


def test_a_pose_in_the_other_direction_is_turned_round(own: Path, ours: Dataset, tmp_path: Path) -> None:
    """Camera and hand both hang on the base; the pose wanted is that of the base in the hand."""
    found = build(write_foreign(own, tmp_path / "run1"), tmp_path, pose={"parent": "tcp", "child": "base"}, target=None)
    pose = synthetic_pose(found.episodes[0].stamp[3])
    back = Pose(-pose.rotation.inv().apply(pose.position), pose.rotation.inv())
    np.testing.assert_allclose(found.episodes[0].state[3], robot_state(back, 0.04), atol=1e-6)


@pytest.mark.parametrize("field", ["o_t_ee", "o_t_ee_c", "o_t_ee_c.pose"])
def test_types_that_only_the_bag_defines_are_read(own: Path, ours: Dataset, tmp_path: Path, field: str) -> None:
    lab = Lab()

    def change(topic, message):
        if topic == messages.CURRENT_POSE:
            yield "/franka/state", STATE, franka_state(lab, message)
        else:
            yield from lab.of(topic, message)

    bag = write_foreign(own, tmp_path / "run1", lab=lab, change=change)
    found = build(bag, tmp_path, pose={"topic": "/franka/state", "field": field}, base_frame="", target=None)
    np.testing.assert_allclose(found.episodes[0].state, ours.episodes[0].state[:-1], atol=1e-6)


def test_without_a_target_the_pose_one_tick_later_is_the_command(theirs: Path, ours: Dataset, tmp_path: Path) -> None:
    found = build(theirs, tmp_path, target=None).episodes[0]
    expected = ours.episodes[0]
    assert len(found) == len(expected) - 1
    np.testing.assert_array_equal(found.state, expected.state[:-1])
    # action t leads from the command at t, the pose at t + 1, to that at t + 1
    moved = (expected.state[2:, :3] - expected.state[1:-1, :3]) / 0.04
    np.testing.assert_allclose(found.action[:-1, :3], moved, atol=1e-4)
    np.testing.assert_array_equal(found.action[:, 6], expected.action[:-1, 6])
    assert found.attributes["derived"] == "target_pose"
    assert "target_pose of 1 of 1 was not recorded: what was measured one tick later stands for it" in inspect_path(
        tmp_path / "D.h5"
    )


def test_without_a_command_the_width_shows_it(own: Path, tmp_path: Path) -> None:
    lab = Lab()

    def change(topic, message):
        if topic == messages.JOINT_STATES:
            time = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
            message.position = message.position.copy()
            message.position[-2:] = 0.04 if time < 1.0 else 0.03 if time < 2.0 else 0.01
        yield from lab.of(topic, message)

    bag = write_foreign(own, tmp_path / "run1", change=change)
    found = build(bag, tmp_path, gripper_command={"open_above": 0.07, "close_below": 0.05}).episodes[0]
    # 0.06 m from tick 8 on changes nothing; closed at tick 15: the command of tick 14, which action 13 carries
    np.testing.assert_array_equal(found.action[:, 6], [1.0] * 13 + [-1.0] * (len(found) - 13))
    assert found.attributes["derived"] == "gripper_command"


def test_gripper_command_conventions(own: Path, ours: Dataset, tmp_path: Path) -> None:
    lab = Lab()

    def change(topic, message):
        if topic == messages.GRIPPER_COMMAND:
            if message.data < 0:  # nothing is published until it is first closed
                yield "/gripper/close", "std_msgs/msg/Bool", lab.message("std_msgs/msg/Bool", data=True)
        else:
            yield from lab.of(topic, message)

    bag = write_foreign(own, tmp_path / "run1", change=change)
    command = {"topic": "/gripper/close", "threshold": 0.5, "inverted": True, "initial": "open"}
    require_equal(build(bag, tmp_path, gripper_command=command), ours)


def test_marks_beside_the_bag_win(own: Path, tmp_path: Path) -> None:
    bag = write_foreign(own, tmp_path / "run1")
    before = {path: path.read_bytes() for path in bag.iterdir()}
    write_marks(bag, [Mark("fail", 1.0)])
    (tmp_path / "one").mkdir()
    failed = build(bag, tmp_path / "one").episodes[0]
    assert (failed.outcome, failed.attributes["success_tick"]) == ("fail", -1)
    write_marks(bag, [Mark("success", 1.0)])
    (tmp_path / "two").mkdir()
    assert build(bag, tmp_path / "two").episodes[0].attributes["success_tick"] == 8
    assert {path: path.read_bytes() for path in bag.iterdir()} == before


def test_success_of_the_last_seconds(theirs: Path, tmp_path: Path) -> None:
    episodes = build(theirs, tmp_path, episodes={"by": "bag"}, success={"by": "end", "seconds": 0.3}).episodes
    assert episodes[0].outcome == "success"
    np.testing.assert_array_equal(np.flatnonzero(episodes[0].success), np.arange(len(episodes[0]))[-3:])


def test_two_attempts_of_one_bag_are_two_episodes_each_beginning_anew(own: Path, plain: Spec, tmp_path: Path) -> None:
    """The gripper opens again at 1.0 and 2.2 s: both attempts have segment 0, and success at their end."""
    lab = Lab()

    def change(topic, message):
        if topic == messages.JOINT_STATES:
            time = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
            message.position = message.position.copy()
            message.position[-2:] = 0.01 if 0.5 < time < 1.0 or 2.0 < time < 2.2 else 0.04
        yield from lab.of(topic, message)

    bag = write_foreign(own, tmp_path / "run1", change=change)
    changes = {
        "episodes": {"by": "gripper", "margin": 0.3},
        "success": {"by": "end", "seconds": 0.2},
        "gripper_command": {"open_above": 0.07, "close_below": 0.05},
    }
    one, two = build(bag, tmp_path, **changes).episodes
    assert one.stamp[-1] <= 1.3 + 1 / 7.5 < two.stamp[0] + 1 / 7.5
    assert [each.attributes["segment"] for each in (one, two)] == [0, 0]
    assert [each.outcome for each in (one, two)] == ["success", "success"]
    assert all(each.success[-1] and not each.success[0] for each in (one, two))


def test_a_changed_mapping_is_refused_and_an_interrupted_building_resumes(
    theirs: Path, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(theirs, tmp_path / "bags" / "a")
    shutil.copytree(theirs, tmp_path / "bags" / "b")
    (tmp_path / "bags" / "b" / "run1.mcap").write_bytes(b"damaged")
    with pytest.raises(DiwaError, match="b is truncated or damaged"):
        build(tmp_path / "bags", tmp_path)
    shutil.copy(theirs / "run1.mcap", tmp_path / "bags" / "b")
    build(tmp_path / "bags", tmp_path)
    with pytest.raises(DiwaError, match=r"config\.mapping\.skill was 'open_drawer', is 'pick_cup'"):
        build(tmp_path / "bags", tmp_path, skill="pick_cup")


FRONT, FINGERS = "/front/color/image_raw/compressed", "/gripper/joint_states"
BAD = {
    "unknown topic": (
        {"target": {"topic": "/teleop/targe"}},
        r"/teleop/targe \(target of .*\) has no message; did you mean /teleop/target\?; topics there: /episode",
    ),
    "wrong type": ({"pose": {"topic": "/episode"}}, r"/episode at .* holds no pose; its fields are data"),
    "no image": (
        {"cameras": [{"name": "a", "topic": "/episode"}]},
        r"/episode .* is a std_msgs/msg/String; a camera needs sensor_msgs/msg/Image",
    ),
    "missing frame": (
        {"pose": {"parent": "base", "child": "tool"}},
        r"/tf: no transforms between base and tool; frames there are: base, tcp",
    ),
    "slow camera": (
        {"record_rate": 60.0},
        r"has 30\.0 frames per second, fewer than record_rate 60: set that in the mapping to 7\.5, or a multiple",
    ),
    "misspelt key": (
        {"pose": {"topik": "/x"}},
        r"lab\.yaml: pose: unknown key 'topik'; known: topic, field, parent, child, latched",
    ),
    "misspelt list of cameras": (
        {"cameras": None, "camera": []},
        r"lab\.yaml: unknown key 'camera'; known: cameras, pose",
    ),
    "misspelt section": ({"camera": []}, r"lab\.yaml: unknown key 'camera'; known: cameras, pose"),
    "misspelt camera key": (
        {"cameras": [{"name": "a", "topik": "/x"}]},
        r"cameras\[0\]: unknown key 'topik'; known: name, topic",
    ),
    "clashing cameras": (
        {"cameras": [{"name": "a", "topic": "/x"}, {"name": "a", "topic": "/y"}]},
        r"lab\.yaml: spec\.cameras",
    ),
    "joint": (
        {"gripper_width": {"topic": FINGERS, "joints": ["jaw"]}},
        r"no message with joints jaw; joints there are: panda_joint1",
    ),
    "joints unnamed": ({"gripper_width": {"topic": FINGERS}}, r"no joints listed; joints there are: panda_joint1"),
    "number": (
        {"gripper_width": {"topic": "/teleop/target"}},
        r"/teleop/target at .* holds no number; its fields are",
    ),
    "field": (
        {"gripper_width": {"topic": "/gripper/command", "field": "width"}},
        r"has no 'width' in its GripperCommand; its fields are position, max_effort",
    ),
    "frame": ({"base_frame": "world"}, r"is in the frame 'base', not in 'world'"),
    "frames apart": (
        {"pose": {"parent": "tcp", "child": "base"}},
        r"/teleop/target is in the frame 'base', but /tf in 'tcp'",
    ),
    "half a pair": ({"pose": {"parent": "base"}}, "give a topic, or parent and child"),
    "kind": ({"kind": "lerobot"}, "kind is 'lerobot', this command takes a mapping of kind: bags"),
    "format": ({"format": 2}, "has format 2, this version reads up to 1"),
    "rate": ({"rate": 7.0}, "must divide spec.record_rate"),
    "crop": (
        {"cameras": [{"name": "a", "topic": FRONT, "crop": [0, 0, 41, 40]}]},
        r"crop \(0, 0, 41, 40\) does not fit into its image of 40x48",
    ),
    "word": (
        {"episodes": {"by": "events", "topic": "/episode", "start": "begin"}},
        r"/episode says start, stop, success, never 'begin'",
    ),
    "never opens": ({"episodes": {"by": "gripper"}, "success": None}, "the gripper never opens after it was closed"),
    "no skill": ({"skill": None}, "skill is missing"),
    "no gripper": ({"gripper_width": None}, "gripper_width is missing"),
    "no cameras": ({"cameras": None}, "cameras is None: list one to four"),
    "no robot": ({"robot": None}, "robot is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(theirs: Path, tmp_path: Path, case: str) -> None:
    changes, message = BAD[case]
    with pytest.raises(DiwaError, match=message) as raised:
        build(theirs, tmp_path, **changes)
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) in (["lab.yaml"], [".D.h5.parts", "lab.yaml"])


def test_clocks_that_differ_are_told_and_receive_times_serve(own: Path, ours: Dataset, tmp_path: Path) -> None:
    lab = Lab()

    def change(topic, message):
        if topic == messages.TARGET_POSE:
            message.header.stamp.sec -= 1000
        yield from lab.of(topic, message)

    bag = write_foreign(own, tmp_path / "run1", change=change)
    with pytest.raises(DiwaError, match=r"/teleop/target are 1000\.0 s behind .*set stamps: received"):
        build(bag, tmp_path)
    shutil.rmtree(tmp_path / ".D.h5.parts")
    np.testing.assert_array_equal(build(bag, tmp_path, stamps="received").episodes[0].action, ours.episodes[0].action)


def test_a_stream_that_is_too_slow_is_told_and_may_be_latched(own: Path, ours: Dataset, tmp_path: Path) -> None:
    lab = Lab()

    def change(topic, message):
        if topic != messages.JOINT_STATES or message.header.stamp.nanosec % 500_000_000 == 0:
            yield from lab.of(topic, message)

    bag = write_foreign(own, tmp_path / "run1", change=change)
    with pytest.raises(DiwaError, match=r"/gripper/joint_states has a message every 0\.50 s, .* after 0\.2 s: raise"):
        build(bag, tmp_path)
    width = yaml.safe_load(MAPPING)["gripper_width"]
    shutil.rmtree(tmp_path / ".D.h5.parts")
    require_equal(build(bag, tmp_path, gripper_width=width | {"latched": True}), ours)


def test_our_own_commands_point_to_a_mapping(theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(DiwaError, match=r"it needs a mapping, which 'diwa inspect .*run1 --suggest-mapping'"):
        build_dataset([theirs], tmp_path / "D.h5", ONE)
    card = inspect_path(theirs)
    assert {"/teleop/target", "geometry_msgs/msg/PoseStamped", "--suggest-mapping"} <= {*card.split()}


def test_an_arm_without_a_gripper(own: Path, ours: Dataset, theirs: Path, tmp_path: Path) -> None:
    found = build(theirs, tmp_path, gripper_width=None, gripper_command=None, action={"gripper": False})
    assert found.spec.action_dim == 6
    np.testing.assert_array_equal(found.episodes[0].state, ours.episodes[0].state[:, :9])
    np.testing.assert_array_equal(found.episodes[0].action, ours.episodes[0].action[:, :6])
