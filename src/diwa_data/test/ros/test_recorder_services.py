"""The recorder's services answer what came of them, or why nothing did; further topics go into the bag as they come."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags

pytestmark = pytest.mark.ros


@pytest.fixture
def ask(topics: Any) -> Callable[[str], tuple[bool, str]]:
    """`ask("start")`: whether the recorder did it, and what it says."""
    from std_srvs.srv import Trigger

    def call(name: str) -> tuple[bool, str]:
        client = topics.call(lambda: topics.node.create_client(Trigger, f"/recorder/{name}"))
        assert client.wait_for_service(15.0)
        answer, end = client.call_async(Trigger.Request()), time.monotonic() + 15.0
        while not answer.done():
            assert time.monotonic() < end, "no answer"
            time.sleep(0.01)
        return answer.result().success, answer.result().message

    return call


def test_services_do_what_events_do_and_answer_why_not(topics: Any, robot: Any, recorder: Any, ask: Any) -> None:
    heard = topics.subscribe(messages.EPISODE_EVENT)
    assert ask("stop") == (False, "nothing is being recorded")
    assert ask("success") == (False, "nothing is being recorded; mark a finished episode with 'diwa annotate'")
    assert ask("discard") == (False, "nothing to discard in this session")
    robot.silent = {messages.image_topic("gripper")}
    time.sleep(2.0)
    done, why = ask("start")
    assert not done
    assert why.startswith("cannot start: nothing on /diwa/gripper/image")
    robot.silent = set()
    recorder.forget()
    recorder.wait_for("gripper/image is received (again)")
    recorder.wait_for("gripper/image 3")
    assert ask("start") == (True, "recording 000000")
    assert ask("start") == (False, "000000 is being recorded already")
    done, said = ask("fail")
    assert done
    assert said.startswith("000000: fail at ")
    done, said = ask("stop")
    assert done
    assert said.startswith("finished 000000, ")
    assert ask("fail")[0] is False
    assert ask("discard")[1].startswith("discarded 000000; it is kept as .discarded-000000-")
    assert heard[-6:] == ["start", "start", "fail", "stop", "fail", "discard"], (
        "whoever listens to events hears them too"
    )


def test_extra_topics_are_recorded_and_hold_nothing_up(topics: Any, robot: Any, start: Any, tmp_path: Path) -> None:
    from std_msgs.msg import String
    from tf2_msgs.msg import TFMessage

    from diwa_data.ros.topics import LATCHED

    extra = "extra_topics:=[/tf, robot_description, /not/here]"
    described = topics.call(lambda: topics.node.create_publisher(String, "/robot_description", LATCHED))
    described.publish(String(data="<robot/>"))
    frames = topics.call(lambda: topics.node.create_publisher(TFMessage, "/tf", 10))
    recorder = start("recorder", f"folder:={tmp_path}", "min_free_mb:=0.0", extra)
    recorder.wait_for("nothing on /not/here: nobody publishes it; it is not recorded")
    recorder.wait_for("static/image 3")
    topics.event("start")
    recorder.wait_for("recording 000000")
    for _ in range(10):
        frames.publish(TFMessage())
        time.sleep(0.05)
    topics.event("stop")
    recorder.wait_for("finished 000000")
    with Bag(find_bags([tmp_path])[0]) as bag:
        assert bag.topics["/tf"] == 10
        assert bag.topics["/robot_description"] == 1, "latched: said before the episode"
        assert bag.sidecar.labels["extra_topics"] == ["/tf", "robot_description", "/not/here"]
        bag.read_through()


def test_names_of_extra_topics_are_checked() -> None:
    from diwa_data.ros.recorder_node import extra_names

    ours = [messages.CURRENT_POSE, messages.JOINT_STATES]
    assert extra_names(["/tf", "wrench", "a/b"], ours) == {"/tf": "/tf", "/wrench": "wrench", "/a/b": "a/b"}
    for name in ("", "/", "a b", "/1st", "a//b", "~/x", "ä"):
        with pytest.raises(DiwaError, match=f"extra_topics: {name!r} is not a name of a topic"):
            extra_names([name], ours)
    for names in (["joint_states"], ["/diwa/current_pose"], ["/tf", "tf"]):
        with pytest.raises(DiwaError, match=f"extra_topics: {names[-1]} is recorded already: leave it out"):
            extra_names(names, ours)
