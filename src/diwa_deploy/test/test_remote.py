"""Skills whose networks compute elsewhere: the same decisions, and answers that are late, lost or wrong."""

from __future__ import annotations

import dataclasses
import http.client
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.spec import Spec
from diwa_deploy import remote
from diwa_deploy.bundle import SHIPPED
from diwa_deploy.control import SkillRunner
from diwa_deploy.remote import RemoteAgent, pack, unpack
from diwa_deploy.serving import PolicyServer
from diwa_learning.world_model.model import load_world_model

SKILL = "open_drawer"


@pytest.fixture(scope="module")
def spec() -> Spec:
    """The contract of the shipped skills."""
    return load_world_model(SHIPPED / "world_model", decodes=False).spec


@pytest.fixture(scope="module")
def shared() -> Iterator[PolicyServer]:
    with PolicyServer(("127.0.0.1", 0), [SKILL, "turn_on_led"], SHIPPED, runtime="torch") as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()


@pytest.fixture
def server(shared: PolicyServer) -> Iterator[PolicyServer]:
    """With its own answers again after the test."""
    yield shared
    vars(shared).pop("answer", None)


@pytest.fixture
def address(server: PolicyServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def seen(spec: Spec, seed: int = 0) -> Observation:
    """Random images and a hand that points down."""
    rng = np.random.default_rng(seed)
    images = {c.name: rng.integers(0, 255, (*c.record_size, 3), np.uint8) for c in spec.cameras}
    pose = Pose.from_quaternion(np.array([0.4, 0.0, 0.3]), np.array([1.0, 0.0, 0.0, 0.0]))
    return Observation(images, pose, pose, 0.08, 1.5, 2.5, np.zeros(len(spec.scene_state), np.float32))


def test_a_server_decides_as_the_machine_itself_and_for_two_arms_at_a_time(spec: Spec, address: str) -> None:
    here = SkillRunner(SKILL, SHIPPED / SKILL, spec, MotionLimits())
    one, other = (SkillRunner(SKILL, None, spec, MotionLimits(), server=address) for _ in range(2))
    assert (one.start, one.about_limits) == (here.start, here.about_limits)
    agents = [runner._agent for runner in (here, one, other)]
    assert {(agent.success_threshold, agent.success_ticks) for agent in agents} == {
        (here._agent.success_threshold, here._agent.success_ticks)
    }
    for agent in agents:
        agent.reset(3)
    executed = spec.action.null
    for tick in range(6):
        told = [agent.act(seen(spec, tick), executed) for agent in agents]
        executed = told[0].action
        for each in told[1:]:
            np.testing.assert_allclose(each.action, executed, atol=1e-5)
            assert each.success_probability == pytest.approx(told[0].success_probability, abs=1e-5)


def test_what_is_sent_comes_as_it_was(spec: Spec) -> None:
    before, executed = seen(spec), spec.action.null
    after, same = unpack(pack(before, executed))
    np.testing.assert_array_equal(same, executed)
    assert {*after.images} == {*before.images}
    for name, image in before.images.items():
        np.testing.assert_array_equal(after.images[name], image)
    np.testing.assert_allclose(after.pose.position, before.pose.position)
    assert (after.gripper_width, after.stamp, after.received) == (0.08, 1.5, 2.5)
    bare = dataclasses.replace(before, gripper_width=None, scene_state=None)
    after, _ = unpack(pack(bare, executed))
    assert (after.gripper_width, after.scene_state) == (None, None)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_observation_are_refused(data: bytes) -> None:
    with pytest.raises(DiwaError, match="are not an observation"):
        unpack(data)


def test_an_answer_that_is_late_ends_the_run_and_is_never_taken_for_the_next(
    spec: Spec, server: PolicyServer, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ANSWERS", 0.5)
    agent, answer, hold = RemoteAgent(address, SKILL, spec), server.answer, threading.Event()
    agent.reset(1)
    expected = [agent.act(seen(spec, tick), spec.action.null) for tick in range(3)]
    agent.reset(1)
    agent.act(seen(spec, 0), spec.action.null)

    def late(method: str, path: str, body: bytes) -> dict:
        hold.wait(30.0)
        return answer(method, path, body)

    server.answer = late  # type: ignore[method-assign]
    begun = time.monotonic()
    with pytest.raises(DiwaError, match=r"no answer within 0.5 s: does diwa serve-policy run there\?"):
        agent.act(seen(spec, 1), spec.action.null)
    assert time.monotonic() - begun < 20.0
    hold.set()
    server.answer = answer  # type: ignore[method-assign]
    agent.reset(1)
    for tick, told in enumerate(expected):
        np.testing.assert_array_equal(agent.act(seen(spec, tick), spec.action.null).action, told.action)


def test_a_server_that_was_started_again_knows_no_old_run(spec: Spec, server: PolicyServer, address: str) -> None:
    agent = RemoteAgent(address, SKILL, spec)
    agent.reset(0)
    server._runs.clear()
    with pytest.raises(DiwaError, match="this run did not begin here: was the server started again"):
        agent.act(seen(spec), spec.action.null)
    agent.reset(0)
    agent.act(seen(spec), spec.action.null)


def test_what_does_not_fit_is_refused_in_a_line(spec: Spec, address: str) -> None:
    with pytest.raises(DiwaError, match="does not serve fly; it serves open_drawer"):
        RemoteAgent(address, "fly", spec)
    with pytest.raises(DiwaError, match="another_lab"):
        RemoteAgent(address, SKILL, dataclasses.replace(spec, robot="another_lab"))
    for wrong in ("gpu:8700", "https://gpu", "http://gpu/skills", "http://gpu:99999", "http://gpu:x", ""):
        with pytest.raises(DiwaError, match="is not an address: name one such as http://gpu:8700"):
            RemoteAgent(wrong, SKILL, spec)
    with pytest.raises(DiwaError, match="does diwa serve-policy run there"):
        RemoteAgent("http://127.0.0.1:9", SKILL, spec)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", "/", b""), ("POST", "/begin", b"{"), ("POST", "/begin", b'{"skill": "fly", "seed": 0}'),
     ("POST", "/act?none", b"x"), ("POST", "/act", b"")],
)  # fmt: skip
def test_other_questions_get_a_line_and_the_server_goes_on(
    server: PolicyServer, spec: Spec, address: str, method: str, path: str, body: bytes
) -> None:
    asked = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30.0)
    asked.request(method, path, body)
    answer = asked.getresponse()
    assert answer.status == http.client.CONFLICT
    assert answer.read()
    asked.close()
    assert RemoteAgent(address, SKILL, spec).start


def test_a_port_that_is_taken_and_a_skill_that_is_missing_are_told(server: PolicyServer) -> None:
    with pytest.raises(DiwaError, match="cannot be served"):
        PolicyServer(("127.0.0.1", server.server_port), [SKILL], SHIPPED, runtime="torch")
    with pytest.raises(DiwaError, match="fly"):
        PolicyServer(("127.0.0.1", 0), ["fly"], SHIPPED)
    with pytest.raises(DiwaError, match="name the skills to serve"):
        PolicyServer(("127.0.0.1", 0), [], SHIPPED)
