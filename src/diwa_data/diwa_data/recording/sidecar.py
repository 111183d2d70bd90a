"""`episode.json` beside a bag: labels, spec, operator events and what happened on each topic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diwa_data import __version__
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import read_object, write_json
from diwa_data.manifest import changed, content_digest, file_digest, require_format
from diwa_data.recording.marks import MARKS, Outcome, Verdict, verdict
from diwa_data.recording.messages import image_topic
from diwa_data.spec import Spec

SIDECAR = "episode.json"
FORMAT = 1
"""Format number of sidecars; those without one were written before 0.2."""
SLOWEST = 0.8
"""Share of the contract's frame rate below which a camera is too slow to be recorded."""
_KEYS = ("version", "complete", "labels", "events", "annotations", "topics", "spec")
_CURE = "delete the episode, or put the file back from a copy"


@dataclass
class TopicStatistics:
    """Messages of one topic; times in seconds."""

    count: int = 0
    first: float = 0.0
    last: float = 0.0
    largest_gap: float = 0.0

    def add(self, received: float) -> None:
        """Count one message."""
        if self.count == 0:
            self.first = received
        else:
            self.largest_gap = max(self.largest_gap, received - self.last)
        self.last = received
        self.count += 1

    @property
    def rate(self) -> float:
        """True messages per second; 0 with fewer than two."""
        return (self.count - 1) / (self.last - self.first) if self.last > self.first else 0.0

    def missing(self, rate: float) -> int:
        """Messages too few for `rate` Hz between the first and the last."""
        return max(0, round((self.last - self.first) * rate) + 1 - self.count)


@dataclass
class Sidecar:
    """Everything about an episode that is not in its messages."""

    spec: Spec
    labels: dict[str, Any] = field(default_factory=dict)
    """source (play | demonstration), skill, seed, operator and free ones."""
    events: list[tuple[str, float]] = field(default_factory=list)
    """Operator events with the time they were received, seconds."""
    annotations: dict[str, float | None] = field(default_factory=dict)
    """Events marked afterwards: name -> when it was, seconds received, or None if it never was. They win."""
    topics: dict[str, TopicStatistics] = field(default_factory=dict)
    complete: bool = True
    """False while recording, and after a kill."""
    version: str = __version__
    """Software that recorded it."""
    files: dict[str, str] | None = field(default_factory=dict)
    """Name of each other file of a finished bag -> its SHA-256; None if they were not taken (before 0.2)."""

    @property
    def outcome(self) -> Outcome:
        """The operator's word on the attempt, as annotated, or else as marked while it was recorded; none without."""
        return self.verdict.outcome

    @property
    def verdict(self) -> Verdict:
        """The outcome, and when it was marked: the latest annotation, or the latest event that was not taken back."""
        annotated = [(name, at) for name, at in self.annotations.items() if name in MARKS and at is not None]
        return verdict(annotated or [event for event in self.events if event[0] not in self.annotations])

    def mark(self, event: str) -> float | None:
        """When an event was first, seconds received: as annotated, or else as the operator marked it.

        A success or failure that the other one overruled later counts as if it had never been.
        """
        if event in MARKS:
            return self.verdict.at if self.outcome == event else None
        if event in self.annotations:
            return self.annotations[event]
        return next((received for name, received in self.events if name == event), None)

    @property
    def slow_cameras(self) -> dict[str, float]:
        """Topic -> true rate, Hz, of the cameras that were too slow for the contract."""
        return slow_cameras(self.spec, {topic: seen.rate for topic, seen in self.topics.items()})

    @property
    def corrections(self) -> dict[str, float | None]:
        """The annotations that say something: a time, or None for an event that is taken back."""
        happened = {name for name, _ in self.events}
        return {name: at for name, at in self.annotations.items() if at is not None or name in happened}

    @property
    def withdrawn(self) -> float | None:
        """When a success was marked that does not stand, seconds received: whether it was one, nobody knows."""
        if self.outcome == "success":
            return None
        said = [*self.events, *self.annotations.items()]
        return min((at for name, at in said if name == "success" and at is not None), default=None)

    def annotate(self, outcome: Outcome, at: float | None = None) -> None:
        """Give the attempt a word that wins over its events, or none; `at`: seconds received. `write` keeps it."""
        self.annotations |= {name: at if name == outcome else None for name in MARKS}

    def seal(self, bag: Path) -> None:
        """Take the checksums of all other files in the bag's folder; `write` keeps them."""
        others = sorted(path for path in bag.iterdir() if path.is_file() and path.name != SIDECAR)
        self.files = {path.name: file_digest(path) for path in others}

    def require_files(self, bag: Path) -> None:
        """Raise `DiwaError` if a file of a finished bag is not as it was when the checksums were taken."""
        if self.files is None or not self.complete:
            return
        cure = f"salvage what is left with 'diwa recover {bag}'"
        for name, digest in self.files.items():
            if not (bag / name).is_file():
                raise DiwaError(f"{name} of {bag} is truncated or damaged (it is missing): {cure}")
            if file_digest(bag / name) != digest:
                raise changed(f"{name} of {bag}", bag, cure)

    def write(self, bag: Path) -> None:
        """Write `episode.json` into the bag's folder, whole or not at all."""
        topics: dict[str, dict[str, float]] = {}
        for topic, values in sorted(self.topics.items()):
            topics[topic] = dataclasses.asdict(values) | {"rate": round(values.rate, 3)}
            if topic in map(image_topic, (camera.name for camera in self.spec.cameras)):
                topics[topic]["dropped"] = values.missing(self.spec.record_rate)
        content = {"format": FORMAT} | {key: getattr(self, key) for key in _KEYS} | {"files": self.files or {}}
        content |= {"topics": topics, "spec": dataclasses.asdict(self.spec)}
        write_json(bag / SIDECAR, content | {"sha256": content_digest(content)})

    @classmethod
    def read(cls, bag: Path, changed_by_hand: bool = False) -> Sidecar:
        """The sidecar of a bag. Raises `DiwaError` if it is missing, damaged or changed since it was written.

        `changed_by_hand` believes a change of it.
        """
        path = bag / SIDECAR
        if not path.is_file():
            raise DiwaError(
                f"{bag} has no {SIDECAR}, so another recorder made it: it needs a mapping, which "
                f"'diwa inspect {bag} --suggest-mapping' drafts"
            )
        content = read_object(path, _CURE)
        sealed = "format" in content
        if sealed:
            require_format(content["format"], FORMAT, str(path))
        _require_keys(content, ("format", *_KEYS, "files", "sha256") if sealed else _KEYS, path)
        if sealed and content.pop("sha256") != content_digest(content) and not changed_by_hand:
            raise changed(str(path), bag, _CURE)
        with damage_as_error(f"{path} is damaged", _CURE):
            annotations = _checked(content.get("annotations", {}), dict)
            return cls(
                spec=Spec.from_plain(content["spec"], f"{path}: spec"),
                labels=_checked(content["labels"], dict),
                events=[(_checked(name, str), _seconds(at)) for name, at in content["events"]],
                annotations={name: None if at is None else _seconds(at) for name, at in annotations.items()},
                topics={topic: _statistics(values) for topic, values in _checked(content["topics"], dict).items()},
                complete=_checked(content["complete"], bool),
                version=_checked(content["version"], str),
                files={_file_name(name): _checked(value, str) for name, value in content["files"].items()}
                if sealed
                else None,
            )


def slow_cameras(spec: Spec, rates: Mapping[str, float]) -> dict[str, float]:
    """The `rates` of those image topics, Hz, that are too slow for `spec`; a silent one is not among them."""
    cameras = {image_topic(camera.name) for camera in spec.cameras}
    return {topic: rate for topic, rate in rates.items() if topic in cameras and 0 < rate < SLOWEST * spec.record_rate}


def _require_keys(content: dict[str, Any], keys: tuple[str, ...], path: Path) -> None:
    """An unknown key is a known one that was damaged."""
    missing = {*keys} - {*content, "annotations"}  # the oldest have no annotations
    unknown = {*content} - {*keys}
    if missing or unknown:
        what = [f"no {key}" for key in sorted(missing)] + [f"unknown key {key!r}" for key in sorted(unknown)]
        raise DiwaError(f"{path} is damaged ({', '.join(what)[:200]}): {_CURE}")


def _statistics(values: Any) -> TopicStatistics:
    count = _checked(values["count"], int)
    if isinstance(count, bool) or count < 0:
        raise ValueError(f"count {count!r}")
    return TopicStatistics(count, *(_seconds(values[key]) for key in ("first", "last", "largest_gap")))


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} is not a time")
    return float(value)


def _file_name(value: str) -> str:
    if value != Path(value).name:
        raise ValueError(f"{value!r} is not a file of the episode")
    return value


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{str(value)[:40]!r} is not a {kind.__name__}")
    return value
