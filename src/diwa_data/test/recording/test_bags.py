"""Reading damaged, foreign and incomplete bags, and salvaging them."""

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags, read_episode
from diwa_data.recording.bag_writer import RosbagsBackend, Storage
from diwa_data.recording.messages import decode_value, gripper_width
from diwa_data.recording.recover import recover
from diwa_data.recording.session import Session
from diwa_data.recording.sidecar import Sidecar
from diwa_data.spec import Spec
from diwa_data.testing.synthetic import record_synthetic


def truncate(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def count(path: Path) -> int:
    with Bag(path) as bag:
        return sum(1 for _ in bag.messages(list(bag.topics)))


def test_find_bags(bags: Path) -> None:
    assert [bag.name for bag in find_bags([bags])] == ["000000", "000001"]
    assert find_bags([bags / "000001"]) == [bags / "000001"]
    with pytest.raises(DiwaError, match="nowhere does not exist"):
        find_bags([bags / "nowhere"])
    (bags / "empty").mkdir()
    with pytest.raises(DiwaError, match="holds no finished episode"):
        find_bags([bags / "empty"])


@pytest.mark.parametrize("name", ["000000/000000.mcap", "000001/000001.db3"])
def test_truncated_bag_is_one_clear_error(bags: Path, name: str) -> None:
    truncate(bags / name, 0.6)
    with pytest.raises(DiwaError, match=r"is truncated or damaged .*diwa recover"):
        read_episode((bags / name).parent)


def test_truncated_mcap_is_salvaged(tmp_path: Path) -> None:
    bag = record_synthetic(tmp_path, Spec(), 1.0, {"source": "play"})  # large images make several chunks
    whole = count(bag)
    truncate(bag / "000000.mcap", 0.7)
    assert recover(tmp_path) == [bag]
    assert Sidecar.read(bag).events == [("start", 0.0)]
    assert whole / 3 < count(bag) < whole
    assert (tmp_path / ".damaged-000000").is_dir()
    assert find_bags([tmp_path]) == [bag]
    with Bag(bag) as salvaged:
        assert salvaged.sidecar.labels["recovered"] is True


def test_what_cannot_be_salvaged_stays_as_it_was(bags: Path) -> None:
    os.truncate(bags / "000000" / "000000.mcap", 500)
    before = sorted(bags.rglob("*"))
    with pytest.raises(DiwaError, match="delete the episode"):
        recover(bags / "000000")
    assert sorted(bags.rglob("*")) == before
    unfinished = bags / ".recording-000000-77" / "000000"
    unfinished.parent.mkdir()
    shutil.move(bags / "000000", unfinished)
    truncate(bags / "000001" / "000001.db3", 0.5)
    before = sorted(bags.rglob("*"))
    with pytest.raises(
        DiwaError, match=r"delete the episode; .*000001\.db3 cannot be salvaged \(database disk image is malformed\)"
    ):
        recover(bags)
    assert sorted(bags.rglob("*")) == before
    with pytest.raises(DiwaError, match="cannot be salvaged"):
        recover(bags / "000001")
    with pytest.raises(DiwaError, match="does not exist"):
        recover(bags / "nowhere")


def test_an_episode_without_its_messages_is_to_be_deleted_and_the_others_are_kept(bags: Path) -> None:
    os.truncate(bags / "000001" / "000001.db3", 0)
    (bags / "000000" / "000000.mcap").unlink()
    with pytest.raises(DiwaError, match=rf"neither an \.mcap nor a \.db3 file: delete {bags / '000000'}"):
        recover(bags / "000000")
    assert (bags / "000001" / "000001.db3").exists()


def test_whole_bags_need_no_recovery(bags: Path) -> None:
    with pytest.raises(DiwaError, match=r"nothing to recover .* 2 episodes are there, all complete"):
        recover(bags)


def test_unfinished_and_foreign_folders(bags: Path) -> None:
    sidecar = bags / "000000" / "episode.json"
    unfinished = Sidecar.read(bags / "000000")
    unfinished.complete = False
    unfinished.write(bags / "000000")
    with pytest.raises(DiwaError, match="was not finished: salvage it with 'diwa recover"):
        Bag(bags / "000000")
    sidecar.write_text("{")
    with pytest.raises(DiwaError, match=r"episode\.json is damaged"):
        Bag(bags / "000000")
    sidecar.unlink()
    with pytest.raises(DiwaError, match=r"has no episode\.json"):
        Bag(bags / "000000")


def test_missing_storage_file(bags: Path) -> None:
    (bags / "000000" / "000000.mcap").unlink()
    with pytest.raises(DiwaError, match="is truncated or damaged"):
        Bag(bags / "000000")


def test_missing_topics_are_named_with_those_present(recorded: Path) -> None:
    with Bag(recorded / "000000") as bag, pytest.raises(DiwaError, match=r"no message on /top; .*/diwa/current_pose"):
        bag.require_topics(["/joint_states", "/top"])


def test_nan_pose_is_named() -> None:
    data = bytes(messages.encode_pose(Pose(np.array([0, np.nan, 0]), Rotation.identity()), 0.0))
    with pytest.raises(DiwaError, match=r"bag: /diwa/target_pose: pose \[0\.0, nan, 0\.0\] .* is not finite"):
        decode_value(messages.TARGET_POSE, data, "bag: /diwa/target_pose")


def test_zero_quaternion_is_refused() -> None:
    data = bytes(messages.encode_pose(Pose(np.zeros(3), Rotation.identity()), 0.0))
    with pytest.raises(DiwaError, match="is not finite"):
        decode_value(messages.TARGET_POSE, data[:-8] + bytes(8), "bag")
    with pytest.raises(DiwaError, match="is not a geometry_msgs/msg/PoseStamped"):
        decode_value(messages.TARGET_POSE, data[:20], "bag")


def test_gripper_width_is_the_sum_of_the_fingers() -> None:
    names = ["panda_joint1", "panda_finger_joint1", "panda_finger_joint2"]
    joints = decode_value(
        messages.JOINT_STATES, bytes(messages.encode_joints(names, np.array([1, 0.03, 0.04]), np.zeros(3), 0.0)), "bag"
    )
    assert gripper_width(joints, "bag") == pytest.approx(0.07)
    arm = decode_value(
        messages.JOINT_STATES, bytes(messages.encode_joints(names[:1], np.ones(1), np.ones(1), 0.0)), "bag"
    )
    with pytest.raises(DiwaError, match=r"no finger joint .* panda_joint1"):
        gripper_width(arm, "bag")


def test_a_renamed_or_copied_bag_still_reads(bags: Path) -> None:
    shutil.move(bags / "000000", bags / "renamed")
    assert count(bags / "renamed") > 400


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_type_that_is_not_of_ros_is_salvaged_too(tmp_path: Path, storage: Storage) -> None:
    force, data = "franka_msgs/msg/Force", b"\0\1\0\0" + bytes(8)
    known = partial(RosbagsBackend, definitions={force: "float64 z\n"})
    with Session(
        Spec(), tmp_path, {"extra_topics": ["/force"]}, storage=storage, min_free_mb=0, backend=known
    ) as session:
        session.event("start", 0.0)
        for number in range(20):
            session.message("/force", force, number / 10, data)
    killed = tmp_path / ".recording-000000-1"
    killed.mkdir()
    (tmp_path / "000000").rename(killed / "000000")
    (bag,) = recover(tmp_path)
    with Bag(bag) as salvaged:
        assert salvaged.topics["/force"] == 20
        assert {sample.value for _, sample in salvaged.messages(["/force"])} == {data}
