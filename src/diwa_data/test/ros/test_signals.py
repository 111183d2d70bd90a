"""Ctrl-C: it waits for what moves or writes, and for nothing else."""

from __future__ import annotations

import sys
import time

import pytest

pytestmark = pytest.mark.ros

NODE = """
import time
from contextlib import nullcontext
from rclpy.node import Node
from diwa_data.ros.node import every, interruptible, run_node

class Busy(Node):
    def __init__(self):
        super().__init__("busy")
        every(self, 0.1, self.work)
    def work(self):
        with interruptible() if WHERE == "reads" else nullcontext():
            print("works", flush=True)
            time.sleep(SECONDS)
        print("worked", flush=True)
    def close(self):
        print("closed", flush=True)

run_node(Busy)
"""


LIMIT = 2.0
"""Seconds from Ctrl-C to a node's end, without those in which it waited for a core."""


@pytest.fixture
def ends(record_property):
    """`ends(state, process)`: Ctrl-C ends it in time, and with status 0."""

    def end(state: str, process) -> None:
        whole, alone = process.interrupt()
        for name, value in (("state", state), ("seconds", round(whole, 2)), ("alone", round(alone, 2))):
            record_property(name, value)
        assert process.wait() == 0, process.said
        assert alone < LIMIT

    return end


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("recorder", ("folder:={folder}", "min_free_mb:=0.0"), "press start"),
        ("teleop", ("device:=scripted",), "nothing on /diwa/current_pose"),
        ("camera", ("robot.static.driver:=/none",), "no image on /none"),
        ("adapter", ("robot.topics.joints:=/ur/joint_states",), "nothing on /ur/joint_states"),
    ],
)
def test_a_node_that_waits_ends_in_time(start, ends, tmp_path, name, settings, says):
    process = start(name, *(setting.format(folder=tmp_path) for setting in settings))
    process.wait_for(says)
    ends(f"{name}: waits", process)


def test_a_recorder_in_an_episode_ends_in_time(topics, robot, recorder, ends):
    for _ in range(60):
        topics.event("start")
        time.sleep(0.5)
        if any("recording 0" in line for line in recorder.said):
            break
    time.sleep(3.0)
    ends("recorder: records", recorder)


@pytest.mark.parametrize(("where", "seconds"), [("reads", 600.0), ("moves", 3.0)])
def test_what_only_reads_ends_at_once_and_the_rest_in_order(domain, where, seconds):
    from diwa_data.testing.ros import Program

    node = Program(domain, sys.executable, "-c", f"WHERE, SECONDS = {where!r}, {seconds}\n{NODE}")
    node.wait_for("works")
    time.sleep(0.5)
    assert node.stop() == 0
    assert node.said == (["works", "closed"] if where == "reads" else ["works", "worked", "closed"])
