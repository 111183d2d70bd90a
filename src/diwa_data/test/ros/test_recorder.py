"""The recorder node's promises, each broken into on purpose."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from diwa_data.dataset.align import DatasetConfig, ticks_of
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags
from diwa_data.recording.recover import recover
from diwa_data.recording.sidecar import Sidecar

pytestmark = pytest.mark.ros

STATIC = messages.image_topic("static")


def record(topics, recorder, seconds: float) -> None:
    """One whole episode."""
    recorder.forget()
    begin(topics, recorder)
    time.sleep(seconds)
    end(topics, recorder)


def begin(topics, recorder) -> None:
    """Start as soon as the recorder hears everything."""
    for _ in range(20):
        topics.event("start")
        try:
            recorder.wait_for("recording 0", 0.5)
            return
        except AssertionError:
            continue
    recorder.wait_for("recording 0", 0.1)


def end(topics, recorder) -> None:
    topics.event("stop")
    recorder.wait_for("finished 0")


def segments(bag: Path) -> list[int]:
    """Ticks of every segment of an episode."""
    with Bag(bag) as opened:
        ticks = list(ticks_of(opened, DatasetConfig()))
    return [sum(tick.segment == number for tick in ticks) for number in sorted({tick.segment for tick in ticks})]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_an_episode_holds_every_message_and_reads_without_ros(topics, robot, start, tmp_path, storage):
    recorder = start("recorder", f"folder:={tmp_path}", f"storage:={storage}", "skill:=open_drawer", "min_free_mb:=0.0")
    recorder.wait_for("press start")
    record(topics, recorder, 3.0)
    assert recorder.stop() == 0
    (bag,) = find_bags([tmp_path])
    sidecar = Sidecar.read(bag)
    assert sidecar.labels == {"source": "demonstration", "skill": "open_drawer", "operator": ""}
    assert [name for name, _ in sidecar.events] == ["start", "stop"]
    for topic in (STATIC, messages.CURRENT_POSE, messages.JOINT_STATES):
        assert sidecar.topics[topic].rate == pytest.approx(30.0, rel=0.05)
    assert sidecar.topics[STATIC].missing(30.0) <= 1
    assert len(segments(bag)) == 1


def test_the_arms_mode_is_in_the_bag_where_it_is_told(topics, robot, recorder, tmp_path):
    from std_msgs.msg import Int8

    mode = topics.call(lambda: topics.node.create_publisher(Int8, messages.ARM_MODE, 10))
    time.sleep(1.0)
    begin(topics, recorder)
    for number in (2, 2, 4):
        mode.publish(Int8(data=number))
        time.sleep(0.2)
    topics.event("stop")
    recorder.wait_for("finished 000000")
    with Bag(tmp_path / "bags" / "000000") as bag:
        assert [bag.value(*told) for told in bag.messages([messages.ARM_MODE])] == [2, 2, 4]


def test_an_attempt_is_marked_failed_while_it_runs_and_after_it(topics, robot, start, tmp_path):
    recorder = start("recorder", f"folder:={tmp_path}", "skill:=pick_cup", "min_free_mb:=0.0")
    recorder.wait_for("press start")
    begin(topics, recorder)
    topics.event("fail")
    recorder.wait_for("000000: fail at ")
    end(topics, recorder)
    topics.event("success")
    recorder.wait_for("000000 is marked fail already; correct it with 'diwa annotate ")
    recorder.forget()
    begin(topics, recorder)
    end(topics, recorder)
    topics.event("fail")
    recorder.wait_for("000001: fail at its end")
    assert recorder.stop() == 0
    assert [Sidecar.read(bag).outcome for bag in find_bags([tmp_path])] == ["fail", "fail"]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_kill_9_of_the_recorder_loses_the_end_of_the_running_episode(topics, robot, start, tmp_path, storage, fault):
    settings = (f"folder:={tmp_path / 'bags'}", f"storage:={storage}", "min_free_mb:=0.0")
    recorder = start("recorder", *settings)
    recorder.wait_for("press start")
    record(topics, recorder, 1.5)
    recorder.forget()
    begin(topics, recorder)
    time.sleep(4.0)
    recorder.kill()
    folder = tmp_path / "bags"
    assert [bag.name for bag in find_bags([folder])] == ["000000"]
    again = start("recorder", *settings)
    again.wait_for(f"1 unfinished: 000001; save with 'diwa recover {folder}'")
    again.wait_for("press start")
    record(topics, again, 1.0)
    assert sorted(bag.name for bag in find_bags([folder])) == ["000000", "000002"]
    (salvaged,) = recover(folder)
    seconds = Sidecar.read(salvaged).topics[STATIC].count / 30
    fault(
        f"kill -9 of the recorder, 4 s into an episode ({storage})",
        "the episode before is whole, the next one gets the next number, `diwa recover` salvages the rest",
        f"finished episodes: 0; of the running one {max(0.0, 4.0 - seconds):.1f} s of 4.0 s",
    )
    assert seconds > 0.5


def test_ctrl_c_and_sigterm_finish_the_running_episode(topics, robot, recorder, start, tmp_path, fault):
    begin(topics, recorder)
    time.sleep(1.0)
    assert recorder.stop(signal.SIGINT) == 0
    again = start("recorder", f"folder:={tmp_path / 'bags'}", "min_free_mb:=0.0")
    again.wait_for("press start")
    begin(topics, again)
    time.sleep(1.0)
    assert again.stop(signal.SIGTERM) == 0
    assert [bag.name for bag in find_bags([tmp_path / "bags"])] == ["000000", "000001"]
    fault("Ctrl-C, and SIGTERM, in the middle of an episode", "both episodes were finished and appeared", "nothing")


@pytest.mark.parametrize(("stall", "parts"), [(0.2, 1), (5.0, 2)])
def test_a_camera_that_stalls_is_told_of_and_counted(topics, robot, recorder, tmp_path, stall, parts, fault):
    begin(topics, recorder)
    time.sleep(2.0)
    robot.silent = {STATIC}
    time.sleep(stall)
    robot.silent = set()
    time.sleep(2.0)
    if stall > 2:
        assert "offers RELIABLE VOLATILE; requested RELIABLE" in recorder.wait_for(f"nothing on {STATIC}, though /test")
        recorder.wait_for(f"{STATIC} is received (again)")
    end(topics, recorder)
    statistics = Sidecar.read(tmp_path / "bags" / "000000").topics[STATIC]
    assert statistics.largest_gap == pytest.approx(stall, abs=0.15)
    assert statistics.missing(30.0) == pytest.approx(30 * stall, abs=2)
    assert len(segments(tmp_path / "bags" / "000000")) == parts
    told = "the operator was told which topic; " if stall > 2 else ""
    fault(
        f"static camera stalls for {stall} s in an episode",
        f"{told}the episode went on; sidecar: gap {statistics.largest_gap:.2f} s, {statistics.missing(30.0)} frames "
        f"dropped; the dataset gets {parts} segment(s)",
        "the frames that never came",
    )


def test_stamps_that_go_backwards_split_the_episode(topics, robot, recorder, tmp_path, fault):
    begin(topics, recorder)
    time.sleep(2.0)
    robot.stamp_offset = -3.0
    time.sleep(2.5)
    end(topics, recorder)
    bag = tmp_path / "bags" / "000000"
    assert Sidecar.read(bag).topics[STATIC].missing(30.0) <= 1
    parts = segments(bag)
    assert len(parts) == 2
    fault(
        "camera stamps jump 3 s back in an episode",
        f"recorded as they came; the dataset gets 2 segments of {parts[0]} and {parts[1]} ticks",
        "nothing",
    )


def test_a_full_disk_loses_no_finished_episode(topics, robot, start, tiny_disk, fault):
    recorder = start("recorder", f"folder:={tiny_disk}", "min_free_mb:=0.3")
    recorder.wait_for("press start")
    record(topics, recorder, 0.5)
    recorder.forget()
    begin(topics, recorder)
    (tiny_disk / "other").write_bytes(np.random.default_rng(0).bytes(600_000))
    said = recorder.wait_for("MB must stay free: free some, then continue")
    assert "finished 000001" in said
    recorder.forget()
    topics.event("start")
    recorder.wait_for("MB must stay free: free some, then continue")
    (tiny_disk / "other").unlink()
    record(topics, recorder, 0.5)
    names = [bag.name for bag in find_bags([tiny_disk])]
    assert names == ["000000", "000001", "000002"]
    fault(
        "the disk (a tmpfs of 1 MB) fills up in an episode",
        "the episode was finished before the disk was full, no other began until there was space",
        "nothing",
    )


@pytest.mark.parametrize("tiny_disk", ["6m"], indirect=True)
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_disk_that_fills_at_once_costs_the_running_episode(topics, robot, start, tiny_disk, storage, fault):
    recorder = start("recorder", f"folder:={tiny_disk}", f"storage:={storage}", "min_free_mb:=0.0")
    recorder.wait_for("press start")
    record(topics, recorder, 0.5)
    recorder.forget()
    begin(topics, recorder)
    with contextlib.suppress(OSError), (tiny_disk / "other").open("wb", buffering=0) as other:
        while True:
            other.write(bytes(4096))
    time.sleep(1.0)
    topics.event("stop")
    said = recorder.wait_for("[ERROR]")
    assert recorder.running
    (tiny_disk / "other").unlink()
    recorder.forget()
    record(topics, recorder, 0.5)
    names = [bag.name for bag in find_bags([tiny_disk])]
    assert names[0] == "000000"
    assert len(names) == 2
    fault(
        f"the disk is full from one moment to the next, nothing kept free ({storage})",
        f"said: {said.split(']: ', 1)[-1].replace(str(tiny_disk), 'BAGS')[:120]}",
        "the running episode",
    )


def test_a_slow_disk_loses_no_message(topics, robot, tmp_path, monkeypatch, fault):
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from diwa_data.ros import recorder_node

    class Slow(recorder_node.Rosbag2Backend):
        written = 0

        def write(self, *message) -> None:
            Slow.written += 1
            if Slow.written % 200 == 0:
                time.sleep(2.0)
            super().write(*message)

    monkeypatch.setattr(recorder_node, "Rosbag2Backend", Slow)
    arguments = ["--ros-args", "-p", f"folder:={tmp_path}", "-p", "min_free_mb:=0.0"]
    for camera in ("static", "gripper"):
        arguments += ["-p", f"robot.{camera}.record_size:=[40,48]"]
    rclpy.init(args=arguments, domain_id=topics.node.context.get_domain_id())
    try:
        node = recorder_node.RecorderNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        until = time.monotonic() + 12.0
        while time.monotonic() < until:
            executor.spin_once(timeout_sec=0.1)
            if not node._session.episode and time.monotonic() > until - 10.0:
                topics.event("start")
        node.close()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()
    (bag,) = find_bags([tmp_path])
    statistics = Sidecar.read(bag).topics[STATIC]
    with Bag(bag) as opened:
        stamps = np.array([sample.stamp for _, sample in opened.messages([STATIC])])
    assert Slow.written > 800
    assert statistics.largest_gap > 1.5
    assert np.diff(stamps).max() < 0.06, "every frame is there"
    fault(
        "the disk blocks every write for 2 s, again and again",
        f"messages waited in the middleware: largest gap between two arrivals {statistics.largest_gap:.1f} s, between "
        f"two stamps {np.diff(stamps).max() * 1e3:.0f} ms",
        "nothing",
    )


def test_a_second_recorder_is_refused(topics, robot, recorder, start, tmp_path, fault):
    begin(topics, recorder)
    second = start("recorder", f"folder:={tmp_path / 'bags'}")
    assert second.wait() == 2
    said = second.wait_for("stop it, or choose another folder")
    end(topics, recorder)
    fault(
        "a second recorder into the same folder",
        f"it ended with status 2: {said.split(']: ', 1)[-1].replace(str(tmp_path), '')}",
        "nothing",
    )


def test_best_effort_publishers_are_heard_also_when_they_come_later(topics, robot, recorder, tmp_path, fault):
    from diwa_data.ros.topics import SENSOR

    record(topics, recorder, 1.0)
    robot.silent = {STATIC}
    made = topics._publishers.pop(STATIC)
    topics.publish(STATIC, messages.encode_image(np.zeros((40, 48, 3), np.uint8), time.time(), "static_camera"), SENSOR)
    del made
    robot.silent = set()
    time.sleep(1.0)
    record(topics, recorder, 1.5)
    statistics = Sidecar.read(tmp_path / "bags" / "000001").topics[STATIC]
    assert statistics.rate == pytest.approx(30.0, rel=0.05)
    fault(
        "a camera comes back BEST_EFFORT where it was RELIABLE before (a default subscription would get nothing)",
        f"the recorder lowered its request; the next episode has the camera at {statistics.rate:.1f} Hz",
        "nothing",
    )


def test_silent_topics_are_named_within_three_seconds_and_no_episode_starts(topics, robot, start, tmp_path, fault):
    robot.silent = {messages.JOINT_STATES}
    recorder = start("recorder", f"folder:={tmp_path}", "min_free_mb:=0.0")
    recorder.wait_for("press start")
    ready = time.monotonic()
    recorder.wait_for(f"nothing on {messages.JOINT_STATES}", 4.0)
    took = time.monotonic() - ready
    topics.event("start")
    recorder.wait_for(f"cannot start: nothing on {messages.JOINT_STATES}")
    assert took < 3.5
    fault(
        "a topic that is needed stays silent",
        f"named {took:.1f} s after the recorder was ready, with why; an episode is refused",
        "nothing",
    )


def test_an_image_of_another_size_is_refused_before_it_is_recorded(topics, robot, recorder):
    record(topics, recorder, 0.5)
    robot.silent = {STATIC}
    time.sleep(2.0)
    recorder.forget()
    wrong = messages.encode_image(np.zeros((20, 20, 3), np.uint8), time.time(), "static_camera")
    topics.publish(STATIC, wrong)
    recorder.wait_for("camera 'static' gave an image of uint8 20x20x3, but its spec says uint8 40x48x3")


def test_parameters_are_checked(start):
    wrong = start("recorder", "folders:=x")
    assert wrong.wait() == 2
    wrong.wait_for("unknown key 'folders'; known: robot, folder, storage")
    wrong = start("recorder", "storage:=zip")
    assert wrong.wait() == 2
    wrong.wait_for("storage")
