"""Real nodes in processes of their own, and a robot's topics that a test can stall, break and change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def start(domain: int) -> Iterator[Callable]:
    """Starts nodes: `start("recorder", "folder:=...")`; all end with the test."""
    from diwa_data.testing.ros import PARAMETERS, NodeProcess

    started: list[NodeProcess] = []

    def begin(name: str, *parameters: str, remaps: Iterable[str] = ()) -> NodeProcess:
        started.append(NodeProcess(f"diwa_data.ros.{name}_node", domain, *PARAMETERS, *parameters, remaps=remaps))
        return started[-1]

    yield begin
    for process in started:
        process.end()


@pytest.fixture
def robot(topics) -> Iterator:
    from diwa_data.testing.ros import SyntheticRobot

    made = SyntheticRobot(topics)
    yield made
    made.close()


@pytest.fixture
def recorder(start: Callable, tmp_path: Path):
    """A recorder into `tmp_path / "bags"` that is ready."""
    process = start("recorder", f"folder:={tmp_path / 'bags'}", "min_free_mb:=0.0")
    process.wait_for("press start")
    return process


@pytest.fixture
def fault(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Notes a row of the fault table (benchmarks/faults.py)."""

    def note(name: str, happened: str, lost: str) -> None:
        for key, value in (("fault", name), ("happened", happened), ("lost", lost)):
            record_property(key, value)

    return note
