"""Nodes in a namespace: their topics are below it, and what they record holds the names without it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags

pytestmark = pytest.mark.ros

SHARED = "diwa/episode_event:=/diwa/episode_event"
"""The remap of `shared_events:=true`."""


@pytest.fixture
def arm(domain: int) -> Iterator:
    """Topics of an imaginary arm in /left, which publishes there."""
    from diwa_data.testing.ros import SyntheticRobot, Topics

    topics = Topics(domain, "left")
    robot = SyntheticRobot(topics)
    yield topics
    robot.close()
    topics.close()


def ready(recorder) -> None:
    """Wait until everything comes that it needs: before that a start is refused."""
    from diwa_data.testing.waiting import until

    until(lambda: any("waiting to start" in line and "SILENT" not in line for line in list(recorder.said)))


def test_a_bag_holds_names_without_the_namespace_which_is_a_label(arm, start: Callable, tmp_path: Path) -> None:
    recorder = start("recorder", f"folder:={tmp_path}", "min_free_mb:=0.0", remaps=["__ns:=/left"])
    recorder.wait_for("press start")
    ready(recorder)
    arm.event("start")
    recorder.wait_for("recording 000000")
    recorder.wait_for("episode 000000")
    arm.event("stop")
    recorder.wait_for("finished 000000")
    (path,) = find_bags([tmp_path])
    with Bag(path) as bag:
        assert {messages.image_topic("static"), messages.CURRENT_POSE, messages.JOINT_STATES} <= {*bag.topics}
        assert not [topic for topic in bag.topics if "left" in topic]
        assert bag.sidecar.labels == {"source": "play", "skill": "", "operator": "", "namespace": "left"}


def test_events_are_those_of_the_arm_or_of_all(arm, topics, start: Callable, tmp_path: Path) -> None:
    own = start("recorder", f"folder:={tmp_path / 'own'}", "min_free_mb:=0.0", remaps=["__ns:=/left"])
    shared = start("recorder", f"folder:={tmp_path / 'all'}", "min_free_mb:=0.0", remaps=["__ns:=/left", SHARED])
    for recorder in (own, shared):
        ready(recorder)
    topics.event("start")
    shared.wait_for("recording 000000")
    assert not [line for line in own.said if "recording 000000" in line]
    arm.event("start")
    own.wait_for("recording 000000")
    topics.event("stop")
    shared.wait_for("finished 000000")
    assert not [line for line in own.said if "finished 000000" in line]


@pytest.mark.parametrize("namespace", ["/", "/left"])
def test_a_section_for_a_node_in_any_namespace_wins_over_the_arguments(
    domain: int, tmp_path: Path, namespace: str
) -> None:
    from diwa_data.testing.ros import Program

    given = "/left/recorder" if namespace == "/left" else "/**"  # where launch puts a node's arguments
    robot = "/**: {ros__parameters: {robot: {name: lab}}}\n/**/recorder: {ros__parameters: {skill: pick_cup}}\n"
    files = {"arguments.yaml": f"{given}: {{ros__parameters: {{skill: a_cup}}}}\n", "robot.yaml": robot}
    words = ["--ros-args", "-r", f"__ns:={namespace}", "-p", f"folder:={tmp_path / 'bags'}", "-p", "min_free_mb:=0.0"]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        words += ["--params-file", str(tmp_path / name)]
    recorder = Program(domain, sys.executable, "-m", "diwa_data.ros.recorder_node", *words)
    try:
        recorder.wait_for("pick_cup goes into")
    finally:
        recorder.end()


def test_names_are_told_in_full(arm, start: Callable) -> None:
    teleop = start("teleop", "device:=scripted", remaps=["__ns:=/left"])
    teleop.wait_for("another node's, on /left/diwa/controller/pose")
    teleop.wait_for("/left/test publishes /left/diwa/target_pose too: stop it")
    other = start("teleop", "device:=scripted", remaps=["__ns:=/right"])
    other.wait_for("nothing on /right/diwa/current_pose: nobody publishes it")
