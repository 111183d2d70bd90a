"""One simulated robot for all tests: every test resets it."""

from collections.abc import Iterator

import pytest

from diwa_sim.table import SimulatedPanda


@pytest.fixture(scope="session")
def robot() -> Iterator[SimulatedPanda]:
    panda = SimulatedPanda()
    yield panda
    panda.close()
