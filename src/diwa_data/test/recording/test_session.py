"""A recording session from raw messages and operator events: what appears, what is kept, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags, read_episode
from diwa_data.recording.bag_writer import RosbagsBackend
from diwa_data.recording.recorder import DISCARDED, Refusal
from diwa_data.recording.session import Session
from diwa_data.recording.sidecar import Sidecar
from diwa_data.spec import CameraSpec, Spec
from diwa_data.testing.synthetic import synthetic_image, synthetic_pose
from diwa_data.view.inspect import inspect_path

LABELS = {"source": "demonstration", "skill": "open_drawer", "operator": "ada"}


def open_session(folder: Path, spec: Spec, **settings) -> Session:
    return Session(spec, folder, LABELS, min_free_mb=0, **settings)


def feed(session: Session, first: int, last: int) -> None:
    """Pose and static image of frames `first` to `last` (exclusive) at 30 Hz, as serialised messages."""
    for frame in range(first, last):
        time = frame / 30
        pose = messages.encode_pose(synthetic_pose(time), time)
        image = messages.encode_image(synthetic_image(time, 40, 48), time, "static_camera")
        session.message(messages.CURRENT_POSE, messages.TYPES[messages.CURRENT_POSE], time, pose)
        session.message(messages.image_topic("static"), messages.IMAGE_TYPE, time, image)


def gripper(session: Session, value: float, time: float) -> None:
    topic = messages.GRIPPER_COMMAND
    session.message(topic, messages.TYPES[topic], time, messages.encode_float(value))


def test_only_what_comes_between_start_and_stop_is_recorded(tmp_path, spec):
    with open_session(tmp_path, spec) as session:
        feed(session, 0, 10)
        assert session.event("start", 10 / 30) == "recording 000000"
        assert session.event("start", 0.4) == "000000 is being recorded already"
        assert not (tmp_path / "000000").exists()
        feed(session, 10, 40)
        assert session.event("success", 1.2) == "000000: success at 0.9 s"
        said = session.event("stop", 40 / 30)
        feed(session, 40, 50)
    assert said.startswith("finished 000000, 1.0 s. Reset the scene")
    (bag,) = find_bags([tmp_path])
    streams = read_episode(bag)
    np.testing.assert_allclose([s.received for s in streams[messages.CURRENT_POSE]], np.arange(10, 40) / 30)
    assert np.array_equal(streams[messages.image_topic("static")][0].value, synthetic_image(10 / 30, 40, 48))
    assert [s.value for s in streams[messages.EPISODE_EVENT]] == ["start", "success", "stop"]
    sidecar = Sidecar.read(bag)
    assert sidecar.labels == LABELS
    assert sidecar.topics[messages.image_topic("static")].rate == pytest.approx(30.0)


def test_an_episode_knows_the_gripper_command_that_was_given_before_it(tmp_path, spec):
    with open_session(tmp_path, spec) as session:
        gripper(session, 1.0, 0.0)
        gripper(session, -1.0, 0.5)
        session.event("start", 2.0)
        gripper(session, 1.0, 2.5)
        session.event("stop", 3.0)
    found = read_episode(tmp_path / "000000")[messages.GRIPPER_COMMAND]
    assert [(s.value, s.received) for s in found] == [(-1.0, 2.0), (1.0, 2.5)]


def test_the_last_episode_can_be_discarded_and_is_set_aside(tmp_path, spec):
    with open_session(tmp_path, spec) as session:
        for second in (0, 2):
            session.event("start", second)
            feed(session, 30 * second, 30 * second + 5)
            session.event("stop", second + 1)
        assert session.event("discard", 4.0).startswith("discarded 000001; it is kept as .discarded-000001-")
        session.event("start", 5.0)
        assert session.event("discard", 6.0) == "discarded 000001"  # the running one is deleted
        session.event("start", 7.0)
        feed(session, 210, 215)
        session.event("stop", 8.0)
        assert session.event("stop", 8.0) == "nothing is being recorded"
    assert [bag.name for bag in find_bags([tmp_path])] == ["000000", "000001"]
    (aside,) = tmp_path.glob(f"{DISCARDED}000001-*")
    with Bag(aside) as bag:
        assert bag.topics[messages.CURRENT_POSE] == 5


def test_nothing_of_an_earlier_session_is_discarded(tmp_path, spec):
    with open_session(tmp_path, spec) as session:
        session.event("start", 0.0)
        session.event("stop", 1.0)
    with open_session(tmp_path, spec) as session:
        assert session.event("discard", 2.0) == "nothing to discard in this session"
        assert session.event("start", 3.0) == "recording 000001"
    assert [bag.name for bag in find_bags([tmp_path])] == ["000000", "000001"], "the end of a session finishes"


def test_a_folder_in_use_and_one_of_another_spec_are_refused(tmp_path, spec):
    with open_session(tmp_path, spec) as session:
        with pytest.raises(DiwaError, match=r"in use by process \d+ on .* since 20"):
            open_session(tmp_path, spec)
        session.event("start", 0.0)
    with pytest.raises(DiwaError, match=r"spec\.robot is 'panda_sim', expected 'panda_lab'"):
        open_session(tmp_path, Spec(robot="panda_lab", cameras=spec.cameras, scene_state=spec.scene_state))
    open_session(tmp_path, spec).close()


def test_unknown_events_are_refused(tmp_path, spec):
    with open_session(tmp_path, spec) as session, pytest.raises(DiwaError, match="unknown episode event 'pause'"):
        session.event("pause", 0.0)


def test_status_counts_rates_and_minutes(tmp_path, spec):
    with open_session(tmp_path, spec) as session:
        feed(session, 0, 31)
        status = session.status(1.0)
        assert (status.episode, status.seconds, status.minutes_left) == ("", 0.0, float("inf"))
        assert status.rates[messages.CURRENT_POSE] == pytest.approx(30.0)
        session.event("start", 2.0)
        feed(session, 60, 121)
        status = session.status(4.0)
        assert (status.episode, status.seconds) == ("000000", 2.0)
        bytes_per_second = 61 / 2 * (40 * 48 * 3 + 150)
        assert status.minutes_left == pytest.approx(status.free_mb * 1e6 / bytes_per_second / 60, rel=0.05)
        line = status.line()
        for part in ("episode 000000", "2.0 s", "GB free", "current_pose 30.0", "static/image 30.0"):
            assert part in line


def test_a_mark_between_two_episodes_is_one_of_the_last(tmp_path, spec):
    with open_session(tmp_path, spec) as session:
        for second in range(0, 6, 2):
            session.event("start", second)
            feed(session, 30 * second, 30 * second + 5)
            if second == 2:
                session.event("fail", 2.5)
            session.event("stop", second + 1)
            if second == 2:
                assert session.event("success", 3.5).startswith("000001 is marked fail already; correct it with")
            else:
                assert session.event("success", second + 1.5).startswith(f"00000{second // 2}: success at its end; ")
        assert session.event("success", 6.0).startswith("000002 is marked success already")
        assert session.event("fail", 6.0).startswith("000002: fail at its end; when it was can be mended with 'diwa ")
    sidecars = [Sidecar.read(bag) for bag in find_bags([tmp_path])]
    assert [(s.outcome, s.verdict.at) for s in sidecars] == [("success", 1.0), ("fail", 2.5), ("fail", 5.0)]


def test_the_running_episode_knows_its_numbers_and_a_mark_before_any_is_turned_down(tmp_path, spec):
    with open_session(tmp_path, spec) as session:
        feed(session, 0, 5)
        assert (
            session.event("success", 0.1) == "nothing is being recorded; mark a finished episode with 'diwa annotate'"
        )
        assert session.event("stop", 0.1) == "nothing is being recorded"
        assert session.numbers(messages.CURRENT_POSE) == {}
        session.event("start", 10 / 30)
        feed(session, 10, 20)
        feed(session, 23, 30)
        image = messages.image_topic("static")
        assert session.numbers(image) == {"count": 17, "largest_gap": 0.133, "dropped": 3}
        assert session.numbers(messages.CURRENT_POSE) == {"count": 17, "largest_gap": 0.133}
        assert session.numbers("/silent") == {}


def send_noise(session: Session, frames: range) -> list[str]:
    """Images of 100 KB that hardly compress; what the session says to each."""
    said = []
    for frame in frames:
        image = np.random.default_rng(frame).integers(0, 256, (180, 190, 3), np.uint8)
        data = messages.encode_image(image, frame / 30, "static_camera")
        said.append(session.message(messages.image_topic("static"), messages.IMAGE_TYPE, frame / 30, data))
    return said


NOISY = Spec(cameras=(CameraSpec("static", record_size=(180, 190)),))


def test_little_space_finishes_the_episode_and_starts_no_other(tiny_disk, monkeypatch):
    monkeypatch.setattr("diwa_data.recording.recorder._DISK_CHECK_EVERY", 0.0)
    with Session(NOISY, tiny_disk, {}, min_free_mb=0.4) as session:
        session.event("start", 0.0)
        assert send_noise(session, range(2)) == ["", ""]
        (tiny_disk / "other").write_bytes(bytes(700_000))
        (told,) = send_noise(session, range(2, 3))
        assert "MB must stay free: free some, then continue. finished 000000" in told
        with pytest.raises(DiwaError, match="MB must stay free"):
            session.event("start", 1.0)
        assert not session.episode
    with Bag(tiny_disk / "000000") as bag:
        assert bag.topics[messages.image_topic("static")] == 3


def test_a_full_disk_loses_the_running_episode_and_no_other(tiny_disk):
    with Session(NOISY, tiny_disk, {}, min_free_mb=0) as session:
        session.event("start", 0.0)
        send_noise(session, range(1))
        session.event("stop", 0.1)
        session.event("start", 0.2)
        with pytest.raises(DiwaError, match="no space left"):
            send_noise(session, range(1, 100))
        assert not session.episode
    assert [bag.name for bag in find_bags([tiny_disk])] == ["000000"]
    assert not list(tiny_disk.glob(".recording-*"))


def test_no_episode_starts_while_a_required_topic_is_silent_or_wrong(tmp_path, spec):
    static = messages.image_topic("static")
    with open_session(tmp_path, spec, required=(messages.CURRENT_POSE, static)) as session:
        with pytest.raises(DiwaError, match=f"cannot start: nothing on {messages.CURRENT_POSE}; nothing on {static}"):
            session.event("start", 0.0)
        feed(session, 0, 3)
        assert session.status(0.2).silent == {}
        assert session.status(3.0).silent == pytest.approx({messages.CURRENT_POSE: 3 - 2 / 30, static: 3 - 2 / 30})
        assert f"SILENT: {messages.CURRENT_POSE}, {static}" in session.status(3.0).line()
        wrong = messages.encode_image(synthetic_image(0, 20, 20), 4.0, "static_camera")
        told = session.message(static, messages.IMAGE_TYPE, 4.0, wrong)
        assert "camera 'static' gave an image of uint8 20x20x3, but its spec says uint8 40x48x3" in told
        assert session.message(static, messages.IMAGE_TYPE, 4.1, wrong) == "", "told once"
        with pytest.raises(DiwaError, match="gave an image of uint8 20x20x3"):
            session.event("start", 4.1)
        assert session.message("/joint_states", "std_msgs/msg/String", 4.2, b"") == (
            "/joint_states is a std_msgs/msg/String, not a sensor_msgs/msg/JointState"
        )
        session.message("/joint_states", messages.TYPES["/joint_states"], 4.2, b"")
        feed(session, 126, 130)
        assert session.event("start", 4.4) == "recording 000000"


def test_no_episode_starts_with_a_camera_that_is_too_slow(tmp_path, spec):
    static = messages.image_topic("static")
    with open_session(tmp_path, spec, required=(static,)) as session:
        feed(session, 0, 2)
        for frame in range(5):  # a Kinect at its default of 5 Hz
            image = messages.encode_image(synthetic_image(frame, 40, 48), frame / 5, "static_camera")
            session.message(static, messages.IMAGE_TYPE, 1 + frame / 5, image)
        session.status(2.0)
        with pytest.raises(DiwaError, match=f"cannot start: {static} comes at 3.* Hz, not 30"):
            session.event("start", 2.0)
        feed(session, 90, 120)
        session.status(4.0)
        assert session.event("start", 4.0) == "recording 000000"


def test_labels_and_intrinsics_that_came_before_the_start_are_the_episodes(tmp_path, spec):
    info = messages.camera_info_topic("static")
    with open_session(tmp_path, spec) as session:
        session.label({"seed": 4, "skill": "none"})
        session.message(
            info, messages.CAMERA_INFO_TYPE, 0.0, messages.encode_camera_info(np.eye(3), (40, 48), 0.0, "s")
        )
        session.event("start", 1.0)
    sidecar = Sidecar.read(tmp_path / "000000")
    assert sidecar.labels == LABELS | {"seed": 4}
    with Bag(tmp_path / "000000") as bag:
        (found,) = bag.messages([info])
        assert messages.decode(found[1].value, messages.CAMERA_INFO_TYPE).k.reshape(3, 3).tolist() == np.eye(3).tolist()


class Forgetful(RosbagsBackend):
    """A storage that silently loses its third message, as rosbag2's MCAP does on a full disk."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.written = 0

    def write(self, *message) -> None:
        self.written += 1
        if self.written != 3:
            super().write(*message)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_an_episode_that_is_not_whole_does_not_appear(tmp_path, spec, storage):
    with Session(spec, tmp_path, {}, storage=storage, min_free_mb=0, backend=Forgetful) as session:
        session.event("start", 0.0)
        feed(session, 0, 5)
        with pytest.raises(DiwaError, match="holds 11 of 12 messages"):
            session.event("stop", 1.0)
        assert session.event("start", 2.0) == "recording 000001"
    assert [bag.name for bag in find_bags([tmp_path])] == ["000001"] if storage == "sqlite3" else True


@pytest.mark.parametrize("topic", [messages.CURRENT_POSE, messages.TARGET_POSE])
def test_no_episode_starts_while_a_pose_is_in_another_frame(tmp_path, spec, topic):
    kind = messages.TYPES[topic]
    with open_session(tmp_path, spec, base_frame="fr3_link0") as session:
        said = session.message(topic, kind, 0.0, messages.encode_pose(synthetic_pose(0.0), 0.0, "world"))
        assert said.startswith(f"{topic} is in the frame 'world', not in the robot's base 'fr3_link0'")
        with pytest.raises(DiwaError, match=f"cannot start: {topic} is in the frame 'world'"):
            session.event("start", 0.1)
        session.message(topic, kind, 0.2, messages.encode_pose(synthetic_pose(0.2), 0.2, "fr3_link0"))
        assert session.event("start", 0.3) == "recording 000000"


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_topics_of_others_are_in_bag_and_card_and_outside_of_the_contract(tmp_path, spec, storage):
    text, empty = "std_msgs/msg/String", b"\0\1\0\0\0\0\0\0"  # no transform
    labels = LABELS | {"extra_topics": ["/robot_description", "/tf", "/colour"]}
    large = messages.encode_image(np.zeros((720, 1280, 3), np.uint8), 0.5, "camera")
    with Session(spec, tmp_path, labels, min_free_mb=0, storage=storage) as session:
        session.keep("/robot_description")
        for said in ("left", "right", "left"):  # by two nodes, one of which was started again
            session.message("/robot_description", text, 0.0, messages.encode_string(said))
        feed(session, 0, 10)
        session.event("start", 10 / 30)
        session.message("/tf", "tf2_msgs/msg/TFMessage", 0.4, empty)
        session.message("/colour", messages.IMAGE_TYPE, 0.5, large)
        feed(session, 15, 40)
        session.event("stop", 40 / 30)
        assert {"/tf", "/colour", messages.CURRENT_POSE} <= session.heard
    (path,) = find_bags([tmp_path])
    with Bag(path) as bag:
        assert [bag.topics[topic] for topic in ("/robot_description", "/tf", "/colour")] == [2, 1, 1]
        assert bag.spec == spec
        bag.read_through()
    card = inspect_path(path)
    assert "extra_topics" in card
    assert "/colour " in card


@pytest.mark.parametrize("refused", ["stop", "success", "discard"])
def test_what_was_not_done_is_told_apart(tmp_path, spec, refused):
    with open_session(tmp_path, spec) as session:
        assert isinstance(session.event(refused, 0.0), Refusal)
        feed(session, 0, 10)
        assert not isinstance(session.event("start", 0.4), Refusal)
        assert isinstance(session.event("start", 0.5), Refusal)
        assert not isinstance(session.event("fail", 0.6), Refusal)
        assert not isinstance(session.event("stop", 0.7), Refusal)
        assert isinstance(session.event("success", 0.8), Refusal)
