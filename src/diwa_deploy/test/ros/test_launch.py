"""A skill as it is launched: how it ends, and that it ends."""

from __future__ import annotations

import re
import time

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

LAUNCH = ("ros2", "launch", "diwa_deploy", "run_skill.launch.py", "skill:=open_drawer", "robot:=sim")


@pytest.fixture
def launch(domain):
    """`launch("name:=value", ...)`: a skill on the simulated robot; it ends with the test."""
    from diwa_data.testing.ros import Program

    started: list[Program] = []

    def begin(*arguments: str) -> Program:
        started.append(Program(domain, *LAUNCH, *arguments))
        return started[-1]

    yield begin
    for program in started:
        if program.running:
            program.kill()


def test_a_skill_runs_once_and_the_launch_ends_as_it_did(launch):
    program = launch("max_steps:=3", "success_ticks:=0")
    assert program.wait(90) == 1
    program.wait_for("open_drawer: no success (max_steps) after 3 steps")


def test_ctrl_c_ends_skill_and_launch_at_once_with_status_1(launch):
    program = launch("max_steps:=1000", "success_ticks:=0")
    program.wait_for("is loaded", 60)
    time.sleep(6.0)
    begun = time.monotonic()
    assert program.stop() == 1
    assert time.monotonic() - begun < 9
    said = "\n".join(program.said)
    assert re.search(r"open_drawer: no success \((cancelled|deactivated)\) after \d+ steps", said), said
    assert "SIGKILL" not in said
    assert "exit code -" not in said, "two signals reach every node: the terminal's and the launch's"
