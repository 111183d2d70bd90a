"""A blind comparison with an operator at a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.workspace]


class Operator:
    """Types into the terminal of a comparison, and reads what it asks."""

    def __init__(self, domain: int, *settings: str):
        self._master, terminal = pty.openpty()
        command = [sys.executable, "-m", "diwa_deploy.ros.run_skill", "--ros-args"]
        command += [word for setting in settings for word in ("-p", setting)]
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"ROS_DOMAIN_ID": str(domain)},
            stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(terminal)
        self.read = ""

    def answer(self, question: str, answer: str) -> None:
        """Wait for `question`, then type `answer`."""
        self.wait_for(question)
        os.write(self._master, f"{answer}\n".encode())

    def wait_for(self, question: str, seconds: float = 60.0) -> None:
        """Read up to a question."""
        end = time.monotonic() + seconds
        while question not in self.read:
            assert time.monotonic() < end, self.read
            if select.select([self._master], [], [], 0.1)[0]:
                self.read += os.read(self._master, 4096).decode()
        self.read = ""

    def close(self) -> int:
        end = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.read += os.read(self._master, 4096).decode()
                except OSError:
                    break
        status = self.process.wait(20)
        os.close(self._master)
        return status


def test_trials_are_asked_for_judged_and_continue(open_policy, bundle, arm, domain, tmp_path):
    out = tmp_path / "comparison.json"
    open_policy(bundle, "policy:=both", "max_steps:=3")
    settings = ("skill:=open_drawer", "rollouts:=2", "policy:=both", f"out:={out}")
    operator = Operator(domain, *settings)
    operator.answer("4 to go. Reset the scene", "")
    operator.answer("stopped: max_steps. Did it succeed?", "y")
    operator.answer("3 to go. Reset the scene", "")
    operator.answer("stopped: max_steps. Did it succeed?", "again")
    operator.answer("3 to go. Reset the scene", "q")
    assert operator.close() == 0, operator.read
    operator = Operator(domain, *settings)
    for left, success in ((3, "n"), (2, "y"), (1, "n")):
        operator.answer(f"{left} to go. Reset the scene", "")
        operator.answer("Did it succeed?", success)
    assert operator.close() == 0
    assert "trials are in" in operator.read
    trials = json.loads(out.read_text())["trials"]
    assert sorted(trial["policy"] for trial in trials) == ["base", "base", "finetuned", "finetuned"]
    assert [trial["success"] for trial in trials] == [True, False, True, False]
    assert {trial["steps"] for trial in trials} == {3}
    assert arm.violations() == 0


def test_ctrl_c_ends_it_while_it_asks(open_policy, bundle, domain, tmp_path):
    open_policy(bundle, "max_steps:=3")
    operator = Operator(domain, "skill:=open_drawer", "rollouts:=2", f"out:={tmp_path / 'c.json'}")
    operator.wait_for("2 to go. Reset the scene")
    operator.process.send_signal(signal.SIGINT)
    assert operator.close() == 2
    assert "interrupted: what was judged is kept" in operator.read


def test_what_is_recorded_gets_the_operators_word_and_not_the_classifiers(
    open_policy, bundle, topics, domain, tmp_path
):
    from diwa_data.recording import messages
    from diwa_data.ros.topics import LATCHED

    topics.publish(messages.RECORDING, messages.encode_string("000000"), LATCHED)
    events = topics.subscribe(messages.EPISODE_EVENT)
    open_policy(bundle, "max_steps:=3")
    operator = Operator(domain, "skill:=open_drawer", "rollouts:=2", "record:=true", f"out:={tmp_path / 'c.json'}")
    for left, answer in ((2, "y"), (1, "n")):
        operator.answer(f"{left} to go. Reset the scene", "")
        operator.answer("stopped: max_steps. Did it succeed?", answer)
    assert operator.close() == 0, operator.read
    end = time.monotonic() + 5
    while events.count("fail") < 1 and time.monotonic() < end:
        time.sleep(0.05)
    assert [event for event in events if event != "start"] == ["stop", "success", "stop", "fail"]
