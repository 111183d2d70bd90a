"""What happens in one episode as a Rerun recording.

Two timelines, both in seconds since the episode's first message was received: `received`, when a message arrived, and
`stamp`, when its value was measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diwa_data.errors import DiwaError, how_to_install
from diwa_data.pose import Pose
from diwa_data.spec import Spec

COLOURS = {"hand": (40, 120, 220), "target": (240, 140, 30)}

_JPEG_QUALITY = 85
_HELD = ("gripper/command", "controller/deadman", "marks/success", "marks/flagged")  # plots drawn as steps


class EpisodeLog:
    """What happens in one episode, written to a Rerun recording."""

    def __init__(self, stream: Any, spec: Spec, labels: dict[str, Any], origin: float):
        """`origin`: time zero, seconds received."""
        self._rr, self._stream, self._origin = import_rerun(), stream, origin
        self._ends: dict[str, np.ndarray] = {}
        table = "\n".join(f"| {key} | {value} |" for key, value in ({"robot": spec.robot} | labels).items())
        document = self._rr.TextDocument(f"| episode | |\n|---|---|\n{table}", media_type="text/markdown")
        stream.log("labels", document, static=True)
        stream.log("world", self._rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        for name in COLOURS:
            stream.log(f"world/{name}", self._rr.TransformAxes3D(0.08 if name == "hand" else 0.04), static=True)
        for name in _HELD:
            stream.log(f"plots/{name}", self._rr.SeriesLines(interpolation_mode="StepAfter"), static=True)

    def at(self, received: float, stamp: float) -> None:
        """What is logged next was received and measured then, seconds."""
        self._stream.set_time("received", duration=received - self._origin)
        self._stream.set_time("stamp", duration=stamp - self._origin)

    def image(self, camera: str, image: np.ndarray) -> None:
        """An rgb image (H, W, 3) uint8."""
        self._stream.log(f"cameras/{camera}", self._rr.Image(image).compress(jpeg_quality=_JPEG_QUALITY))

    def pose(self, name: str, pose: Pose) -> None:
        """A frame in the base frame, `hand` or `target`, and the way it came."""
        self._stream.log(f"world/{name}", self._rr.Transform3D(translation=pose.position, quaternion=pose.quaternion))
        self.way(name, pose.position)

    def way(self, name: str, position: np.ndarray) -> None:
        """The way of `hand` or `target` goes on to `position` (3,), metres."""
        if name in self._ends:
            strip = self._rr.LineStrips3D([[self._ends[name], position]], colors=[COLOURS[name]], radii=[0.0015])
            self._stream.log(f"world/{name}_trail", strip)
        self._ends[name] = position

    def lead(self) -> None:
        """How far the target is ahead of the hand, centimetres; nothing until both are known."""
        if len(self._ends) == len(COLOURS):
            self.number("lead_cm", 100 * float(np.linalg.norm(self._ends["target"] - self._ends["hand"])))

    def number(self, name: str, value: float) -> None:
        """A number of a plot."""
        self._stream.log(f"plots/{name}", self._rr.Scalars(value))

    def text(self, text: str) -> None:
        """A line of the list of events."""
        self._stream.log("events", self._rr.TextLog(text))

    def text_at(self, received: float, text: str) -> None:
        """A line of the list of events, at `received` seconds."""
        self.at(received, received)
        self.text(text)


def import_rerun() -> Any:
    """The optional package. Raises `DiwaError` with the cure where it is not installed."""
    try:
        import rerun
    except ModuleNotFoundError as error:
        raise DiwaError(f"diwa view needs rerun-sdk: {how_to_install('view')}") from error
    return rerun
