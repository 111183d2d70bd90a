"""The node that trains in a process of its own, and what it tells on `/diagnostics`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SETTINGS = {"updates": 300, "batch_size": 2, "sequence_length": 6, "check_every": 1000, "save_every": 100}
"""World-model settings over the preset debug: training takes seconds on any machine, mostly Python's overhead."""


@pytest.fixture
def start(domain: int) -> Iterator[Callable[..., Any]]:
    """`start("name:=value", ...)`: the node with the preset debug; all end with the test."""
    from diwa_data.testing.ros import NodeProcess

    started: list[NodeProcess] = []

    def begin(*parameters: str) -> NodeProcess:
        started.append(NodeProcess("diwa_learning.ros.train_node", domain, "preset:=debug", *parameters))
        return started[-1]

    yield begin
    for process in started:
        if process.running:
            process.kill()


@pytest.fixture
def train(start: Callable[..., Any], play: Path) -> Callable[[Path], Any]:
    """`train(out)`: the node, training a small world model."""
    settings = [f"world_model.{name}:={value}" for name, value in SETTINGS.items()]
    return lambda out: start("stage:=world_model", f"dataset:={play}", f"out:={out}", *settings)


@pytest.fixture
def play(tmp_path: Path, make_episode: Callable, write_dataset: Callable) -> Path:
    """A dataset of four episodes."""
    return write_dataset(tmp_path / "play.h5", [make_episode(length, seed=length) for length in (40, 30, 20, 15)])


class Told:
    """The messages that the node has published."""

    def __init__(self, topics: Any):
        from diagnostic_msgs.msg import DiagnosticArray

        self.statuses: list[Any] = []
        hear = lambda array: self.statuses.extend(array.status)  # noqa: E731
        topics.call(lambda: topics.node.create_subscription(DiagnosticArray, "/diagnostics", hear, 10))

    def values(self) -> list[dict[str, str]]:
        """Those of each status."""
        return [{pair.key: pair.value for pair in status.values} for status in list(self.statuses)]

    def wait_for(self, fits: Callable[[dict[str, str]], bool], seconds: float = 60.0) -> dict[str, str]:
        """The first values that fit."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for values in self.values():
                if fits(values):
                    return values
            time.sleep(0.02)
        raise AssertionError(f"not told within {seconds} s, but: {self.values()}")


@pytest.fixture
def told(topics: Any) -> Told:
    return Told(topics)
