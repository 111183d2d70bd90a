"""The gripper's thread, with goals that take their time."""

import threading
import time

import pytest

from diwa_data.testing.waiting import until
from diwa_deploy.gripper import GripperConfig, GripperWorker


class SlowGripper:
    """A server that needs `seconds` for a motion and keeps a list of what it was told."""

    def __init__(self, seconds: float):
        self.seconds, self.told = seconds, []

    def send(self, wish: bool):
        self.told.append("open" if wish else "close")
        return SlowGoal(self)


class SlowGoal:
    def __init__(self, gripper: SlowGripper):
        self._gripper, self._ends = gripper, time.monotonic() + gripper.seconds

    def done(self) -> bool:
        return time.monotonic() >= self._ends

    def cancel(self) -> None:
        self._gripper.told.append("cancel")
        self._ends = 0.0


@pytest.fixture
def started():
    workers = []

    def start(gripper: SlowGripper, patience: float = 10.0, said=None):
        config = GripperConfig(patience=patience, rest=0.01)
        workers.append(GripperWorker(gripper.send, config, (said if said is not None else []).append))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()
    assert not any(thread.name == "gripper" for thread in threading.enumerate())


def test_edges_only_and_nothing_that_flickers(started):
    gripper = SlowGripper(0.0)
    worker = started(gripper)
    for value in (1.0, 1.0, 0.1, -0.1, float("nan"), 0.9, -0.15):
        worker.command(value)
    until(lambda: gripper.told == ["open"])
    worker.command(-1.0)
    until(lambda: gripper.told == ["open", "close"])
    worker.command(-0.3)
    time.sleep(0.05)
    assert gripper.told == ["open", "close"]


def test_a_newer_wish_cancels_the_goal_under_way_and_commands_never_wait(started):
    gripper = SlowGripper(100.0)
    worker = started(gripper)
    begun = time.monotonic()
    worker.command(-1.0)
    until(lambda: gripper.told == ["close"])
    worker.command(1.0)
    assert time.monotonic() - begun < 1.0
    until(lambda: gripper.told == ["close", "cancel", "open"])


def test_a_goal_that_hangs_is_cancelled_and_told(started):
    gripper, said = SlowGripper(100.0), []
    worker = started(gripper, patience=0.05, said=said)
    worker.command(-1.0)
    until(lambda: gripper.told == ["close", "cancel"])
    assert said == ["the gripper did not close within 0.05 s: cancelled"]
    worker.command(1.0)
    until(lambda: gripper.told[:3] == ["close", "cancel", "open"])
