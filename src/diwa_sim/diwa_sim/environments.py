"""The simulated environments by their configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diwa_data.motion import MotionLimits
from diwa_sim.calvin.environment import CalvinConfig, CalvinEnvironment
from diwa_sim.table import SimConfig, SimulatedPanda


@dataclass(frozen=True)
class EnvironmentConfig:
    """Where policies act."""

    environment: Literal["table", "calvin"] = "table"
    """Our simulated table, or CALVIN's own environment (docs/calvin.md)."""
    calvin: CalvinConfig = field(default_factory=CalvinConfig)
    """CALVIN's environment."""

    def chosen(self, table: SimConfig) -> SimConfig | CalvinConfig:
        """The configuration of the chosen one; `table` is our table's."""
        return self.calvin if self.environment == "calvin" else table


def open_environment(config: SimConfig | CalvinConfig, limits: MotionLimits) -> SimulatedPanda | CalvinEnvironment:
    """Our table within the motion `limits`, or CALVIN's, which has its own; `close` it in the end.

    Raises `DiwaError` where CALVIN's is not installed.
    """
    return CalvinEnvironment(config) if isinstance(config, CalvinConfig) else SimulatedPanda(config, limits)
