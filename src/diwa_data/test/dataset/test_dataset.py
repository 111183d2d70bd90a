"""Bags to datasets: values by hand, resuming, and every bad input."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.dataset.file import copy_episodes, write_checksum, write_digest
from diwa_data.dataset.parts import build_part
from diwa_data.errors import DiwaError
from diwa_data.images import preprocess
from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose, relative_action, robot_state
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag
from diwa_data.recording.bag_writer import BagWriter
from diwa_data.recording.sidecar import Sidecar
from diwa_data.spec import Spec
from diwa_data.testing.synthetic import record_synthetic, synthetic_image, synthetic_pose
from diwa_data.view.inspect import inspect_path

ONE = DatasetConfig(workers=1)


@pytest.fixture(scope="module")
def built(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("datasets") / "D.h5"
    build_dataset([recorded], out, ONE)
    return out


def rewrite(bag: Path, change) -> Path:
    """Write a bag again, its messages passed through `change(topic, data) -> data | None`."""
    aside = bag.parent / "aside"
    shutil.move(bag, aside)
    with Bag(aside) as source:
        types = messages.TYPES | {messages.image_topic(c.name): messages.IMAGE_TYPE for c in source.spec.cameras}
        writer = BagWriter(bag.parent, bag.name, Sidecar(source.spec, source.sidecar.labels), "mcap")
        for topic, sample in source.messages(list(source.topics)):
            data = change(topic, bytes(sample.value))
            if data is not None:
                writer.write(topic, types[topic], sample.received, data)
    shutil.rmtree(aside)
    return writer.finish()


def test_rows_by_hand(built: Path, spec: Spec) -> None:
    dataset = load_dataset(built)
    assert dataset.spec == spec
    demonstration, play = dataset.episodes
    assert (demonstration.name, len(demonstration), len(play)) == ("000000", 23, 15)
    tick = 5
    now = tick / 7.5
    np.testing.assert_allclose(demonstration.stamp, np.arange(23) / 7.5, atol=1e-6)
    for number, camera in enumerate(spec.cameras):
        expected = preprocess(synthetic_image(now + number, 40, 48), camera)
        np.testing.assert_array_equal(demonstration.images[camera.name][tick], expected)
    np.testing.assert_allclose(demonstration.state[tick], robot_state(synthetic_pose(now), 0.04), atol=1e-6)
    # the target known at a tick was issued a sixtieth of a second before; it lacks the tick's own, 1 ms later
    before, after = (synthetic_pose(t / 7.5 - 1 / 60) for t in (tick, tick + 1))
    np.testing.assert_allclose(demonstration.action[tick], relative_action(before, after, 1.0, spec.action), atol=1e-4)
    assert demonstration.scene_state is not None
    np.testing.assert_allclose(demonstration.scene_state[tick], [now, now])
    assert demonstration.action.dtype == demonstration.state.dtype == np.float32


def test_gripper_success_and_attributes(built: Path) -> None:
    demonstration, play = load_dataset(built, images=False).episodes
    assert demonstration.images == {}
    # closed at 1.501 s, after tick 11 (1.467 s): action 11 carries the command known at tick 12
    np.testing.assert_array_equal(demonstration.action[:, 6], [1.0] * 11 + [-1.0] * 12)
    np.testing.assert_array_equal(demonstration.action[-1, :6], np.zeros(6))
    assert demonstration.attributes["success_tick"] == 15
    np.testing.assert_array_equal(demonstration.success, np.arange(23) >= 15)
    assert demonstration.attributes["labels"] == {"source": "demonstration", "skill": "open_drawer", "seed": 7}
    assert (demonstration.attributes["skill"], play.attributes["skill"]) == ("open_drawer", "")
    assert (play.attributes["source"], play.attributes["success_tick"], play.attributes["bag"]) == (
        "play",
        -1,
        "000001",
    )
    assert (demonstration.attributes["clipped"], demonstration.attributes["flagged"]) == (0, [])


def test_parallel_building_gives_the_same_rows(recorded: Path, built: Path, tmp_path: Path) -> None:
    build_dataset([recorded], tmp_path / "D.h5", DatasetConfig(workers=2))
    for one, two in zip(load_dataset(built).episodes, load_dataset(tmp_path / "D.h5").episodes, strict=True):
        np.testing.assert_array_equal(one.images["static"], two.images["static"])
        np.testing.assert_array_equal(one.action, two.action)
    assert [path.name for path in tmp_path.iterdir()] == ["D.h5"]


def test_bags_may_be_aligned_anywhere_and_in_any_order(recorded: Path, built: Path, tmp_path: Path) -> None:
    def backwards(jobs, workers):
        yield from (build_part(job) for job in reversed(jobs))

    build_dataset([recorded], tmp_path / "D.h5", ONE, backwards)
    for one, two in zip(load_dataset(built).episodes, load_dataset(tmp_path / "D.h5").episodes, strict=True):
        np.testing.assert_array_equal(one.action, two.action)


def test_lost_frames_are_flagged_and_long_gaps_split(tmp_path: Path, spec: Spec) -> None:
    record_synthetic(tmp_path / "bags", spec, 3.0, {"source": "play"}, skip=[8, *range(30, 50)])
    build_dataset([tmp_path / "bags"], tmp_path / "D.h5", ONE)
    first, second = load_dataset(tmp_path / "D.h5").episodes
    assert first.attributes["flagged"] == [2]
    np.testing.assert_array_equal(
        first.images["static"][2], preprocess(synthetic_image(7 / 30, 40, 48), spec.cameras[0])
    )
    assert (len(first), first.attributes["segment"], second.attributes["segment"]) == (8, 0, 1)
    assert second.stamp[0] == pytest.approx(50 / 30)


def test_clipping_is_counted(tmp_path: Path, spec: Spec) -> None:
    slow = dataclasses.replace(spec, action=dataclasses.replace(spec.action, max_pos=0.001))
    record_synthetic(tmp_path / "bags", slow, 1.0, {"source": "play"})
    build_dataset([tmp_path / "bags"], tmp_path / "D.h5", ONE)
    attributes = load_dataset(tmp_path / "D.h5").episodes[0].attributes
    assert attributes["clipped"] == 7
    assert attributes["clipped_share"] == 1.0


def test_an_episode_without_two_good_ticks_is_left_out_aloud(
    recorded: Path, tmp_path: Path, spec: Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    short = record_synthetic(tmp_path / "bags", spec, 0.1, {"source": "play"})
    build_dataset([short, recorded], tmp_path / "D.h5", ONE)
    assert f"left out, without two good ticks in a row: {short}" in capsys.readouterr().out
    assert len(load_dataset(tmp_path / "D.h5").episodes) == 2
    with pytest.raises(DiwaError, match="no recording of 1 has two good ticks"):
        build_dataset([short], tmp_path / "E.h5", ONE)


def test_building_again_is_a_no_op_and_other_input_is_refused(
    recorded: Path, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_dataset([recorded], built, DatasetConfig(workers=2))
    assert "is complete already" in capsys.readouterr().out
    with pytest.raises(DiwaError, match=r"config\.max_age was 0\.2, is 0\.3\. Restore them, or delete it"):
        build_dataset([recorded], built, DatasetConfig(max_age=0.3))
    with pytest.raises(DiwaError, match="begun with other settings: bags was "):
        build_dataset([recorded / "000000"], built, ONE)


def test_a_bad_bag_stops_the_build_and_a_second_run_continues(bags: Path, tmp_path: Path) -> None:
    out = tmp_path / "D.h5"
    storage = bags / "000001" / "000001.db3"
    whole = storage.read_bytes()
    storage.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DiwaError, match="000001 is truncated or damaged"):
        build_dataset([bags], out, ONE)
    assert not out.exists()
    parts = list((tmp_path / ".D.h5.parts").glob("*.h5"))
    assert len(parts) == 1
    with pytest.raises(DiwaError, match=r"config\.max_age was 0\.2, is 0\.3\. Restore them, or delete the folder"):
        build_dataset([bags], out, DatasetConfig(max_age=0.3, workers=1))
    storage.write_bytes(whole)
    with h5py.File(parts[0], "a") as file:
        file["0"].attrs["kept"] = True
    with pytest.raises(DiwaError, match=rf"{parts[0].name} is truncated or damaged .*: delete it and run again"):
        build_dataset([bags], out, ONE)
    write_digest(parts[0])
    build_dataset([bags], out, ONE)
    assert "kept" in load_dataset(out).episodes[0].attributes  # the finished part was not built again
    assert len(load_dataset(out).episodes) == 2
    assert not (tmp_path / ".D.h5.parts").exists()


def test_bags_of_two_specs_are_refused(recorded: Path, tmp_path: Path, spec: Spec) -> None:
    other = dataclasses.replace(spec, action=dataclasses.replace(spec.action, max_pos=0.02))
    bag = record_synthetic(tmp_path / "bags", other, 0.5, {"source": "play"})
    with pytest.raises(DiwaError, match=r"spec\.action\.max_pos is 0\.02, expected 0\.04"):
        build_dataset([recorded, bag], tmp_path / "D.h5", ONE)


def test_dataset_of_another_spec_is_refused(built: Path, spec: Spec) -> None:
    load_dataset(built, spec)
    with pytest.raises(DiwaError, match=r"D\.h5 .* spec\.rate is 7\.5, expected 15"):
        load_dataset(built, dataclasses.replace(spec, rate=15.0))


def test_a_missing_topic_is_named(bags: Path, tmp_path: Path) -> None:
    bag = rewrite(bags / "000000", lambda topic, data: None if topic == messages.TARGET_POSE else data)
    with pytest.raises(DiwaError, match=r"no message on /diwa/target_pose; topics present: .*/joint_states"):
        build_dataset([bag], tmp_path / "D.h5", ONE)


def test_nan_pose_in_a_bag(bags: Path, tmp_path: Path) -> None:
    bad = bytes(messages.encode_pose(Pose(np.array([np.nan, 0, 0]), Rotation.identity()), 0.0))
    bag = rewrite(bags / "000000", lambda topic, data: bad if topic == messages.CURRENT_POSE else data)
    with pytest.raises(DiwaError, match=r"000000: /diwa/current_pose at 0\.000 s: pose \[nan, 0\.0, 0\.0\]"):
        build_dataset([bag], tmp_path / "D.h5", ONE)
    assert not (tmp_path / "D.h5").exists()


@pytest.mark.parametrize("scene", [np.zeros(3), np.array([0.0, np.nan])])
def test_a_scene_state_of_other_length_or_nan_in_a_bag(bags: Path, tmp_path: Path, scene: np.ndarray) -> None:
    bad = [bytes(messages.encode_vector(scene))]
    bag = rewrite(bags / "000000", lambda topic, data: bad.pop() if topic == messages.SCENE_STATE and bad else data)
    with pytest.raises(
        DiwaError, match=r"/diwa/scene_state: \[0.* is not one finite number for each of drawer, slider"
    ):
        build_dataset([bag], tmp_path / "D.h5", ONE)


def test_nan_and_wrong_shapes_in_a_dataset(built: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copy(built, tmp_path / "D.h5"))
    with h5py.File(damaged, "a") as file:
        file["episodes/000001/action"][4, 2] = np.nan
    write_checksum(damaged)
    with pytest.raises(DiwaError, match="episode 000001: action is not finite at tick 4"):
        load_dataset(damaged)
    with h5py.File(damaged, "a") as file:
        del file["episodes/000000/state"]
        file["episodes/000000/state"] = np.zeros((23, 9), np.float32)
    write_checksum(damaged)
    with pytest.raises(DiwaError, match=r"episode 000000: state has shape \(23, 9\), its spec says \(23, 10\)"):
        load_dataset(damaged)


def test_the_published_target_is_kept_and_summed_up_where_it_is_not(built: Path, spec: Spec) -> None:
    for episode in load_dataset(built).episodes:
        assert episode.target is not None
        assert episode.targets(spec.action) is episode.target
        poses = [Pose.from_state(row) for row in episode.target]
        for before, after, action in zip(poses, poses[1:], episode.action, strict=False):
            np.testing.assert_allclose(relative_action(before, after, action[6], spec.action), action, atol=1e-4)
        summed = dataclasses.replace(episode, target=None).targets(spec.action)
        np.testing.assert_allclose(summed[0], episode.state[0, :9], atol=1e-6)
        ahead = episode.target[0, :3] - summed[0, :3]
        np.testing.assert_allclose(summed[:, :3] + ahead, episode.target[:, :3], atol=1e-5)


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "target is not finite at tick 3"), (5, "target .* no rotation")]
)
def test_a_damaged_target_is_refused(built: Path, tmp_path: Path, value: float, message: str) -> None:
    damaged = Path(shutil.copy(built, tmp_path / "D.h5"))
    with h5py.File(damaged, "r+") as file:
        values = file["episodes/000000/target"][:]
        values[3, 4] = value
        del file["episodes/000000/target"]
        file["episodes/000000/target"] = values
    write_checksum(damaged)
    with pytest.raises(DiwaError, match=message):
        load_dataset(damaged)


def test_bags_of_other_days_have_the_widest_limits_of_all(tmp_path: Path, spec: Spec, capsys) -> None:
    for day, limits in enumerate((MotionLimits(max_speed=0.1), None, MotionLimits(max_tilt=0.5))):
        record_synthetic(tmp_path / f"day{day}", dataclasses.replace(spec, limits=limits), 1.0, {})
    bags = sorted(tmp_path.iterdir())
    build_dataset(bags, tmp_path / "D.h5", ONE)
    assert load_dataset(tmp_path / "D.h5").spec == dataclasses.replace(spec, limits=MotionLimits())
    assert "recorded under 2 different motion limits: the widest are used" in capsys.readouterr().out
    build_dataset(bags[:2], tmp_path / "E.h5", ONE)
    assert load_dataset(tmp_path / "E.h5").spec.limits == MotionLimits(max_speed=0.1)


def test_some_episodes_make_a_dataset_of_their_own(built: Path, tmp_path: Path) -> None:
    whole = load_dataset(built)
    names = [episode.name for episode in whole.episodes]
    copy_episodes(built, names[:0:-1], tmp_path / "part.h5")
    part = load_dataset(tmp_path / "part.h5")
    assert [episode.name for episode in part.episodes] == [f"{number:06d}" for number in range(len(names) - 1)]
    np.testing.assert_array_equal(part.episodes[0].action, whole.episodes[-1].action)
    assert part.spec == whole.spec
    for wrong, message in ((["000777"], "no episodes 000777"), ([], "that were named")):
        with pytest.raises(DiwaError, match=message):
            copy_episodes(built, wrong, tmp_path / "none.h5")
    assert not (tmp_path / "none.h5").exists()


def test_files_that_are_no_dataset(built: Path, tmp_path: Path) -> None:
    with pytest.raises(DiwaError, match="no dataset"):
        load_dataset(tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("text")
    (tmp_path / "half.h5").write_bytes(built.read_bytes()[:20_000])
    with pytest.raises(DiwaError, match="cannot be read as a dataset"):
        load_dataset(tmp_path / "text.h5")
    with pytest.raises(DiwaError, match="truncated or damaged"):
        load_dataset(tmp_path / "half.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DiwaError, match="is HDF5, but no dataset"):
        load_dataset(tmp_path / "other.h5")
    with h5py.File(Path(shutil.copy(built, tmp_path / "D.h5")), "a") as file:
        del file["episodes/000000/gripper"]
    write_checksum(tmp_path / "D.h5")
    with pytest.raises(DiwaError, match="episode 000000 has no gripper"):
        load_dataset(tmp_path / "D.h5")


def test_full_disk_while_building(tmp_path: Path, tiny_disk: Path, spec: Spec) -> None:
    # images that hardly compress: 90 ticks of 2 x 12 kB
    big = dataclasses.replace(spec, cameras=tuple(dataclasses.replace(c, size=(64, 64)) for c in spec.cameras))
    bag = record_synthetic(tmp_path / "bags", big, 8.0, {"source": "play"}, noise=True)
    with pytest.raises(DiwaError, match="no space left to write"):
        build_dataset([bag], tiny_disk / "D.h5", ONE)
    assert [path.name for path in tiny_disk.iterdir()] == [".D.h5.parts"]
    assert not list((tiny_disk / ".D.h5.parts").glob("*.h5*"))


INTERRUPTED = """
import sys
from pathlib import Path
from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset
if __name__ == "__main__":
    build_dataset([Path(sys.argv[1])], Path(sys.argv[2]), DatasetConfig(workers=2))
"""


@pytest.mark.parametrize("to_group", [True, False])
def test_ctrl_c_keeps_finished_episodes(tmp_path: Path, spec: Spec, to_group: bool) -> None:
    record_synthetic(tmp_path / "bags", spec, 0.5, {"source": "play"})
    for _ in range(2):
        record_synthetic(tmp_path / "bags", spec, 60.0, {"source": "play"})
    script, out = tmp_path / "build.py", tmp_path / "D.h5"
    script.write_text(INTERRUPTED)
    command = [sys.executable, str(script), str(tmp_path / "bags"), str(out)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    parts = tmp_path / ".D.h5.parts"
    while not list(parts.glob("*.h5")) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT) if to_group else os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in errors
    assert not out.exists()
    assert not [path for path in parts.iterdir() if path.name.endswith(".part")]
    assert 1 <= len(list(parts.glob("*.h5"))) < 3
    build_dataset([tmp_path / "bags"], out, ONE)
    assert len(load_dataset(out).episodes) == 3


def test_cards(recorded: Path, built: Path, tmp_path: Path, spec: Spec) -> None:
    bag = inspect_path(recorded / "000000")
    assert 'labels: source "demonstration", skill "open_drawer", seed 7' in bag
    assert "/diwa/static/image" in bag
    assert "30.00 Hz" in bag
    assert "success at 2.00 s" in bag
    assert "ticks at 7.5 Hz: 23 in 1 segment(s), 0 flagged" in bag
    assert "actions: 22, clipped 0.0 %" in bag
    folder = inspect_path(recorded)
    assert "2 bags" in folder
    assert "1 demonstration open_drawer" in folder
    dataset = inspect_path(built)
    assert "2 episodes, 38 ticks at 7.5 Hz" in dataset
    assert "success marks: 1 of 2" in dataset
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "spec.json").write_text(spec.to_json())
    (checkpoint / "config.json").write_text(json.dumps({"phase": "policy"}))
    with pytest.raises(DiwaError, match=r"metrics\.json is missing"):
        inspect_path(checkpoint)
    (checkpoint / "metrics.json").write_text(json.dumps({"loss": 0.5}))
    assert "loss: 0.5" in inspect_path(checkpoint)
    with pytest.raises(DiwaError, match="does not exist"):
        inspect_path(tmp_path / "nowhere")


def test_a_camera_that_was_slower_than_the_contract_is_told_of(tmp_path: Path, spec: Spec, capsys) -> None:
    bag = record_synthetic(tmp_path / "bags", spec, 4.0, {}, skip=range(1, 200, 2))
    build_dataset([tmp_path / "bags"], tmp_path / "D.h5", ONE)
    topic = messages.image_topic(spec.cameras[0].name)
    said = f"{topic} came at 15.0 to 15.0 Hz in 1 of 1 bags, not at the contract's 30: its frames are old or missing"
    assert said in capsys.readouterr().out
    assert list(Sidecar.read(bag).slow_cameras) == [topic]
    assert f"{topic}: 15.0" in inspect_path(tmp_path / "bags")
    slow = dataclasses.replace(spec, record_rate=15.0)
    record_synthetic(tmp_path / "slow", slow, 4.0, {})
    build_dataset([tmp_path / "slow"], tmp_path / "slow.h5", ONE)
    assert "came at" not in capsys.readouterr().out, "15 Hz is what this lab has agreed on"
    lengths = [len(load_dataset(tmp_path / name).episodes[0]) for name in ("D.h5", "slow.h5")]
    assert lengths[0] == lengths[1] > 25
