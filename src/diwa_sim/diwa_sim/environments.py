"""The simulated environments by their configuration."""

from __future__ import annotations

from diwa_sim.calvin import CalvinConfig, CalvinEnvironment
from diwa_sim.table import SimConfig, SimulatedPanda


def open_environment(config: SimConfig | CalvinConfig) -> SimulatedPanda | CalvinEnvironment:
    """Our table, or CALVIN's; `close` it in the end. Raises `DiwaError` where CALVIN's is not installed."""
    return CalvinEnvironment(config) if isinstance(config, CalvinConfig) else SimulatedPanda(config)
