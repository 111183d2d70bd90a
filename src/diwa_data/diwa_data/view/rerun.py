"""`diwa view`: an episode, of a bag or a dataset, in the Rerun viewer, or as a file for it.

Messages are logged as they are read, so an hour needs little memory.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.dataset.dataset import Episode, open_episode
from diwa_data.errors import DiwaError, how_to_install
from diwa_data.files import atomic_path
from diwa_data.pose import Pose
from diwa_data.progress import progress
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags, is_bag
from diwa_data.recording.messages import decode_value
from diwa_data.recording.sidecar import Sidecar
from diwa_data.spec import Spec

COLOURS = {"hand": (40, 120, 220), "target": (240, 140, 30)}

_JPEG_QUALITY = 85
_HELD = ("gripper/command", "controller/deadman", "marks/success", "marks/flagged")  # plots drawn as steps


class EpisodeLog:
    """One episode, written to a Rerun recording."""

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
        """Set when the next values were received and measured, seconds."""
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

    def message(self, topic: str, value: Any) -> None:
        """A decoded message that is not an image."""
        if topic == messages.CURRENT_POSE:
            self.pose("hand", value)
            self.lead()
        elif topic == messages.TARGET_POSE:
            self.pose("target", value)
        elif topic == messages.JOINT_STATES:
            self.number("gripper/width_cm", 100 * messages.gripper_width(value, topic))
        elif topic == messages.GRIPPER_COMMAND:
            self.number("gripper/command", value)
        elif topic == messages.EPISODE_EVENT:
            self.text(value)
        else:
            for name, values in (("trigger", value.axes), ("deadman", value.buttons)):
                if len(values):
                    self.number(f"controller/{name}", float(values[0]))

    def text(self, text: str) -> None:
        """A line of the list of events."""
        self._stream.log("events", self._rr.TextLog(text))


def import_rerun() -> Any:
    """The optional package. Raises `DiwaError` with the cure where it is not installed."""
    try:
        import rerun
    except ModuleNotFoundError as error:
        raise DiwaError(f"diwa view needs rerun-sdk: {how_to_install('view')}") from error
    return rerun


TRAIL = 5.0
"""Seconds of the hand's and the target's way that stay visible."""

_ACTIONS = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")  # the last is missing without a gripper


def save_view(path: Path, episode: str | None, out: Path) -> None:
    """Write an episode as the Rerun file `out`. Raises `DiwaError` if it has another ending than .rrd.

    `episode` names one of a dataset or of a folder of bags; None is the first.
    """
    out = Path(out)
    if out.suffix != ".rrd":
        raise DiwaError(f"{out} is not a .rrd file: Rerun would not open it")
    stream = _stream(path)
    with atomic_path(out) as temporary:
        stream.save(temporary)
        _log_path(path, episode, stream)
        with _rerun_as_error(f"{out} could not be written", "is the disk full?"):
            stream.flush()  # Rerun writes in a thread of its own
        stream.disconnect()


def show_view(path: Path, episode: str | None) -> None:
    """Open an episode in a window; returns once all of it is there. Raises `DiwaError` without a display."""
    headless = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if headless and Path(path).exists():
        raise DiwaError("no display to open a window on: use --save EPISODE.rrd, or --serve for a web browser")
    stream = _stream(path)
    with _viewer_as_error():
        stream.spawn()
    _log_path(path, episode, stream)
    stream.disconnect()


def serve_view(path: Path, episode: str | None) -> None:
    """Serve an episode to web browsers until Ctrl-C; ports 9090 and 9876 are open to the network meanwhile."""
    stream = _stream(path)
    with _viewer_as_error():
        source = stream.serve_grpc()
        import_rerun().serve_web_viewer(open_browser=False)
    _log_path(path, episode, stream)
    stream.flush()
    print(f"open http://localhost:9090/?url={source.replace('+', '%2B')} in a web browser; Ctrl-C ends it", flush=True)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def _log_path(path: Path, episode: str | None, stream: Any) -> None:
    path = Path(path)
    if path.is_dir():
        _log_bag(_choose_bag(path, episode), stream)
        return
    with open_episode(path, episode or "000000") as dataset:
        _log_episode(dataset.episodes[0], dataset.spec, stream)


def _choose_bag(path: Path, episode: str | None) -> Path:
    """The bag `path` itself, or the one of that name in the folder; the first one if there is no name."""
    bags = find_bags([path])
    names = [bag.name for bag in bags]
    if episode is None or (is_bag(path) and episode in names):
        return bags[0]
    if episode not in names:
        raise DiwaError(f"{path} has no episode {episode!r}: it has {names[0]} to {names[-1]}")
    return bags[names.index(episode)]


def _log_bag(path: Path, stream: Any) -> None:
    with Bag(path) as bag:
        images = {messages.image_topic(camera.name): camera.name for camera in bag.spec.cameras}
        shown = {*_SHOWN, *images} - (set() if bag.spec.action.gripper else {*_OF_GRIPPER})
        topics = [topic for topic in bag.topics if topic in shown]
        stream.send_blueprint(_blueprint(bag.spec, _BAG_PLOTS))
        log, last = None, dict[str, float]()
        with progress(f"view {path.name}", sum(bag.topics[topic] for topic in topics), "messages") as bar:
            for topic, sample in bag.messages(topics):
                if log is None:
                    log = EpisodeLog(stream, bag.spec, bag.sidecar.labels, sample.received)
                    _log_annotations(bag.sidecar, log, sample.received)
                log.at(sample.received, sample.stamp)
                value = decode_value(topic, sample.value, f"{path}: {topic} at {sample.received:.3f} s")
                if topic in images:
                    log.image(images[topic], value)
                    if topic in last:  # milliseconds in tenths: a steady camera is flat
                        log.number(f"gap_ms/{images[topic]}", round(1000 * (sample.received - last[topic]), 1))
                    last[topic] = sample.received
                else:
                    log.message(topic, value)
                bar.advance()
        if log is None:
            raise DiwaError(f"{path} holds no message to show; topics present: {', '.join(bag.topics) or 'none'}")


def _log_annotations(sidecar: Sidecar, log: EpisodeLog, first: float) -> None:
    for name, received in sidecar.corrections.items():
        at = first if received is None else received
        log.at(at, at)
        log.text(f"{name}: taken back by annotation" if received is None else f"{name} (annotated)")


_OF_GRIPPER = (messages.JOINT_STATES, messages.GRIPPER_COMMAND)
_SHOWN = (
    *(messages.CURRENT_POSE, messages.TARGET_POSE, *_OF_GRIPPER),
    *(messages.CONTROLLER_JOY, messages.EPISODE_EVENT),
)
_BAG_PLOTS = {"lead_cm": "lead, cm", "gripper": "gripper", "controller": "controller", "gap_ms": "image gaps, ms"}
_EPISODE_PLOTS = {"lead_cm": "lead, cm", "gripper": "gripper", "action": "action", "marks": "success, flagged"}


def _log_episode(episode: Episode, spec: Spec, stream: Any) -> None:
    attributes = episode.attributes
    labels = {"episode": episode.name, "bag": attributes["bag"]} | attributes["labels"]
    stream.send_blueprint(_blueprint(spec, _EPISODE_PLOTS))
    log = EpisodeLog(stream, spec, labels, float(episode.received[0]))
    targets, flagged = episode.targets(spec.action)[:, :3], set(attributes["flagged"])
    with progress(f"view {episode.name}", len(episode), "ticks") as bar:
        for tick in range(len(episode)):
            log.at(float(episode.received[tick]), float(episode.stamp[tick]))
            for camera, images in episode.images.items():
                log.image(camera, images[tick])
            _log_state(log, episode.state[tick])
            log.way("target", targets[tick])
            log.lead()
            for name, value in zip(_ACTIONS, episode.action[tick], strict=False):
                log.number(f"action/{name}", float(value))
            log.number("marks/success", float(episode.success[tick]))
            log.number("marks/flagged", float(tick in flagged))
            if tick == attributes["success_tick"]:
                log.text("success")
            if tick in flagged:
                log.text(f"tick {tick} is flagged: a frame is missing or a stream too old")
            bar.advance()


def _log_state(log: EpisodeLog, state: np.ndarray) -> None:
    """A robot state (10,), or (9,) without a gripper."""
    log.pose("hand", Pose.from_state(state))
    for width in state[9:]:
        log.number("gripper/width_cm", 100 * float(width))


def _blueprint(spec: Spec, plots: dict[str, str]) -> Any:
    """The default layout: cameras and events, the scene, the plots (entity below `plots` -> title)."""
    rrb = import_rerun().blueprint
    trail = rrb.VisibleTimeRange(
        "received",
        start=rrb.TimeRangeBoundary.cursor_relative(seconds=-TRAIL),
        end=rrb.TimeRangeBoundary.cursor_relative(),
    )
    cameras = [rrb.Spatial2DView(origin=f"cameras/{camera.name}", name=camera.name) for camera in spec.cameras]
    scene = rrb.Spatial3DView(origin="world", name=f"hand and target, last {TRAIL:g} s", time_ranges=trail)
    texts = rrb.Tabs(
        rrb.TextLogView(origin="events", name="events"), rrb.TextDocumentView(origin="labels", name="labels")
    )
    series = [rrb.TimeSeriesView(origin=f"plots/{entity}", name=title) for entity, title in plots.items()]
    left = rrb.Vertical(rrb.Horizontal(*cameras), scene, texts, row_shares=[3, 4, 2])
    return rrb.Blueprint(
        rrb.Horizontal(left, rrb.Vertical(*series)), rrb.TimePanel(timeline="received"), collapse_panels=True
    )


def _stream(path: Path) -> Any:
    """A recording whose only timelines are those of `EpisodeLog`."""
    if not Path(path).exists():
        raise DiwaError(f"{path} does not exist: name a bag, or a dataset")
    import_rerun().set_strict_mode(True)
    stream = import_rerun().RecordingStream("diwa_view")
    stream.send_recording_name(Path(path).name)
    stream.set_log_time_enabled(False)
    stream.set_log_tick_enabled(False)
    return stream


@contextmanager
def _rerun_as_error(what: str, cure: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        raise DiwaError(f"{what} ({error}): {cure}") from error


def _viewer_as_error() -> AbstractContextManager[None]:
    return _rerun_as_error("the Rerun viewer does not start", "use --save EPISODE.rrd")
