"""Recording: real rosbag2 folders, whole or not at all."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from ruamel.yaml import YAML
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags, read_episode
from diwa_data.recording.recorder import EpisodeRecorder
from diwa_data.recording.recover import recover
from diwa_data.spec import Spec
from diwa_data.teleop.clutch import ControllerState
from diwa_data.testing.synthetic import record_synthetic, synthetic_image, synthetic_pose

KILLED = """
import sys
from pathlib import Path
import numpy as np
from diwa_data.recording.recorder import EpisodeRecorder
from diwa_data.spec import Spec
from diwa_data.testing.synthetic import record_synthetic, synthetic_pose
spec = Spec.from_json(sys.argv[2], "argument")
record_synthetic(Path(sys.argv[1]), spec, 0.5, {"source": "play"})
recorder = EpisodeRecorder(Path(sys.argv[1]), spec, min_free_mb=0)
recorder.start(0.0, {"source": "play", "skill": "", "seed": 3})
noise = np.random.default_rng(0)
for frame in range(10_000):
    recorder.image("static", noise.integers(0, 256, (40, 48, 3), np.uint8), frame / 30, frame / 30)
    recorder.pose(synthetic_pose(frame / 30), frame / 30, frame / 30)
    if frame == 600:
        print("ready", flush=True)
        input()
"""


@pytest.mark.parametrize(("name", "storage"), [("000000", "mcap"), ("000001", "sqlite3")])
def test_metadata_is_what_ros2_bag_info_reads(recorded: Path, name: str, storage: str) -> None:
    metadata = YAML(typ="safe").load(recorded / name / "metadata.yaml")["rosbag2_bagfile_information"]
    assert metadata["version"] == 8
    assert metadata["storage_identifier"] == storage
    assert [(recorded / name / file).is_file() for file in metadata["relative_file_paths"]] == [True]
    assert metadata["compression_mode"] == ("" if storage == "mcap" else "message")
    topics = {t["topic_metadata"]["name"]: t for t in metadata["topics_with_message_count"]}
    assert topics["/diwa/static/image"]["topic_metadata"]["type"] == "sensor_msgs/msg/Image"
    assert "depth: 10" in topics["/joint_states"]["topic_metadata"]["offered_qos_profiles"]
    assert metadata["message_count"] == sum(t["message_count"] for t in topics.values())


@pytest.mark.parametrize("name", ["000000", "000001"])
def test_messages_come_back_as_recorded(recorded: Path, spec: Spec, name: str) -> None:
    streams = read_episode(recorded / name)
    frame = streams["/diwa/gripper/image"][10]
    assert (frame.stamp, frame.received) == pytest.approx((10 / 30, 10 / 30))
    np.testing.assert_array_equal(frame.value, synthetic_image(10 / 30 + 1, 40, 48))
    target = streams[messages.TARGET_POSE][-1]
    np.testing.assert_allclose(target.value.position, synthetic_pose(target.stamp).position, atol=1e-6)
    assert target.received - target.stamp == pytest.approx(0.001)
    assert [sample.value for sample in streams[messages.GRIPPER_COMMAND]] == [1.0, -1.0]
    events = [sample.value for sample in streams[messages.EPISODE_EVENT]]
    assert (events[0], events[-1]) == ("start", "stop")
    assert len(streams[messages.SCENE_STATE][0].value) == len(spec.scene_state)


def test_an_ordinary_reader_understands_the_bag(recorded: Path) -> None:
    with AnyReader([recorded / "000000"]) as reader:
        connection = next(c for c in reader.connections if c.topic == "/joint_states")
        _, timestamp, data = next(reader.messages([connection]))
        message = reader.deserialize(data, connection.msgtype)
    assert timestamp == 0
    assert message.name[-1] == "panda_finger_joint2"
    assert (len(message.position), len(message.velocity), len(message.effort)) == (9, 9, 0)


def test_sidecar_counts_rates_gaps_and_drops(tmp_path: Path, spec: Spec) -> None:
    bag = record_synthetic(tmp_path, spec, 1.0, {"source": "play", "note": "free"}, skip=[10, 11])
    content = json.loads((bag / "episode.json").read_text())
    static, gripper = content["topics"]["/diwa/static/image"], content["topics"]["/diwa/gripper/image"]
    assert (static["count"], static["dropped"], gripper["dropped"]) == (28, 2, 0)
    assert static["largest_gap"] == pytest.approx(0.1)
    assert gripper["rate"] == pytest.approx(30.0)
    assert content["labels"] == {"source": "play", "note": "free"}
    assert Spec.from_json(json.dumps(content["spec"]), "sidecar") == spec
    assert content["complete"] is True


def test_controller_and_wrong_use(tmp_path: Path, spec: Spec) -> None:
    with EpisodeRecorder(tmp_path, spec, min_free_mb=0) as recorder:
        recorder.start(0.0, {})
        pose = Pose(np.zeros(3), Rotation.identity())
        recorder.controller(ControllerState(pose, True, 0.5), 0.0, 0.0)
        with pytest.raises(DiwaError, match="unknown episode event 'win'"):
            recorder.event("win", 0.0)
        with pytest.raises(DiwaError, match="camera 'top' is not in the spec, which has static, gripper"):
            recorder.image("top", np.zeros((40, 48, 3), np.uint8), 0.0, 0.0)
        with pytest.raises(DiwaError, match="'static' gave an image of uint8 48x40x3"):
            recorder.image("static", np.zeros((48, 40, 3), np.uint8), 0.0, 0.0)
        with pytest.raises(DiwaError, match="being recorded already"):
            recorder.start(0.0, {})
        bag = recorder.stop(1.0)
        with pytest.raises(DiwaError, match="call start first"):
            recorder.pose(pose, 0.0, 0.0)
    joy = read_episode(bag)[messages.CONTROLLER_JOY][0].value
    assert (joy.axes.tolist(), joy.buttons.tolist()) == ([0.5], [1, 1])


def test_discard_leaves_nothing_and_names_count_up(tmp_path: Path, spec: Spec) -> None:
    with EpisodeRecorder(tmp_path, spec, min_free_mb=0) as recorder:
        recorder.start(0.0, {})
        recorder.gripper(1.0, 0.0)
        recorder.discard()
        assert list(tmp_path.iterdir()) == []
        for _ in range(2):
            recorder.start(0.0, {})
            recorder.gripper(1.0, 0.0)
            recorder.stop(1.0)
        with pytest.raises(DiwaError, match="000001 exists already"):
            recorder.start(0.0, {}, "000001")
        recorder.start(0.0, {}, "unfinished")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000", "000001"]


def test_two_recorders_do_not_take_the_same_name(tmp_path: Path, spec: Spec) -> None:
    with (
        EpisodeRecorder(tmp_path, spec, min_free_mb=0) as first,
        EpisodeRecorder(tmp_path, spec, min_free_mb=0) as second,
    ):
        first.start(0.0, {}, "000000")
        with pytest.raises(DiwaError, match="being recorded by another process"):
            second.start(0.0, {}, "000000")
        second.start(0.0, {})
        second.gripper(1.0, 0.0)
        assert second.stop(1.0).name == "000001"


def test_full_disk_while_recording(tiny_disk: Path, spec: Spec) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 40, 48, 3), np.uint8)
    recorder = EpisodeRecorder(tiny_disk, spec, min_free_mb=0)
    recorder.start(0.0, {"source": "play"})

    def fill() -> None:
        for frame, image in enumerate(noise):
            recorder.image("static", image, frame / 30, frame / 30)

    with pytest.raises(DiwaError, match=r"no space left to write .*000000"):
        fill()
    assert not recorder.recording
    assert list(tiny_disk.iterdir()) == []


def test_little_space_stops_before_the_disk_is_full(tiny_disk: Path, spec: Spec) -> None:
    recorder = EpisodeRecorder(tiny_disk, spec, min_free_mb=5)
    with pytest.raises(DiwaError, match=r"MB are free .* 5 MB must stay free"):
        recorder.start(0.0, {})


def test_a_killed_recorder_loses_only_the_running_episode(tmp_path: Path, spec: Spec) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), spec.to_json()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    with pytest.raises(DiwaError, match="still being recorded"):
        recover(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    assert [bag.name for bag in find_bags([tmp_path])] == ["000000"]
    assert recover(tmp_path) == [tmp_path / "000001"]
    with Bag(tmp_path / "000001") as bag:
        assert bag.sidecar.labels == {"source": "play", "skill": "", "seed": 3, "recovered": True}
        assert bag.topics["/diwa/static/image"] > 400  # all but the last, unfinished chunk
        assert sum(1 for _ in bag.messages(list(bag.topics))) == sum(bag.topics.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000", "000001"]
    with pytest.raises(DiwaError, match="nothing to recover"):
        recover(tmp_path)


def test_recording_is_fast_enough(tmp_path: Path) -> None:
    images = [synthetic_image(0.1 * k, 200, 200) for k in range(10)]
    pose = synthetic_pose(0.0)
    with EpisodeRecorder(tmp_path, Spec(), min_free_mb=0) as recorder:
        recorder.start(0.0, {})
        started = time.process_time()
        for frame in range(150):
            now = frame / 30
            recorder.pose(pose, now, now)
            for name in ("static", "gripper"):
                recorder.image(name, images[frame % 10], now, now)
            for _ in range(4):
                recorder.target(pose, now, now)
        recorder.stop(1.0)
    assert (time.process_time() - started) / 150 < 3e-3  # 0.4 ms measured; the budget is 1.2 ms
