"""Configuration of CALVIN's environment, and the two contracts that it can be used under."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diwa_data.errors import DiwaError
from diwa_data.spec import CALVIN, ActionSpec, Spec

RECORDED_RATE = 7.5
"""Control ticks per second of recordings of our own, Hz."""


@dataclass(frozen=True)
class CalvinConfig:
    """CALVIN's environment and its start states."""

    data: str = ""
    """Folder of CALVIN's data (task_D_D/validation): sets scene, cameras and starts; each annotated segment gives one.
    Empty = scene D as calvin_env ships it, with starts drawn by seed."""
    egl: bool = True
    """Render with EGL, as CALVIN's data were; otherwise on the CPU, which looks different."""
    spread_joints: float = 0.1
    """Largest distance of each joint from the scene's home at a start drawn by seed, in radians."""
    rate: float = CALVIN.rate
    """Control ticks per second: 30 as in CALVIN's data, or 7.5 as in our own recordings."""

    def __post_init__(self) -> None:
        if self.rate not in (CALVIN.rate, RECORDED_RATE):
            raise DiwaError(f"calvin.rate is {self.rate:g} Hz: choose 30, CALVIN's own, or 7.5, that of our recordings")

    @property
    def spec(self) -> Spec:
        """The contract: CALVIN's own, or that of our recordings in its scene, whose name tells the renderer.

        Images of the two renderers differ, so nothing that is recorded or trained with one is used with the other.
        """
        if self.rate == CALVIN.rate:
            return CALVIN
        action = ActionSpec(max_pos=0.04, max_rot=0.1, frame="world")
        robot = "calvin_egl" if self.egl else "calvin_cpu"
        return replace(CALVIN, robot=robot, action=action, record_rate=RECORDED_RATE, rate=RECORDED_RATE)

    def like(self, spec: Spec) -> CalvinConfig:
        """The same at the rate of `spec`, the contract of a checkpoint, and with the renderer of its recordings."""
        if spec.robot == CALVIN.robot:
            return replace(self, rate=CALVIN.rate)
        known = [replace(self, rate=RECORDED_RATE, egl=egl) for egl in (True, False)]
        return next((config for config in known if config.spec.robot == spec.robot), self)
