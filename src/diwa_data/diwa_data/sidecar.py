"""`episode.json` beside a bag: labels, spec, operator events and what happened on each topic."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diwa_data import __version__
from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path
from diwa_data.spec import Spec

SIDECAR = "episode.json"


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

    def mark(self, event: str) -> float | None:
        """When an event was first, seconds received: as annotated, or else as the operator marked it."""
        if event in self.annotations:
            return self.annotations[event]
        return next((received for name, received in self.events if name == event), None)

    def write(self, bag: Path) -> None:
        """Write `episode.json` into the bag's folder, whole or not at all."""
        images = {f"/diwa/{camera.name}/image" for camera in self.spec.cameras}
        topics = {
            topic: dataclasses.asdict(s)
            | {"rate": round(s.rate, 3)}
            | ({"dropped": s.missing(self.spec.record_rate)} if topic in images else {})
            for topic, s in sorted(self.topics.items())
        }
        content = {
            "version": self.version,
            "complete": self.complete,
            "labels": self.labels,
            "events": self.events,
            "annotations": self.annotations,
            "topics": topics,
            "spec": json.loads(self.spec.to_json()),
        }
        with atomic_path(bag / SIDECAR) as temporary:
            temporary.write_text(json.dumps(content, indent=1))

    @classmethod
    def read(cls, bag: Path) -> Sidecar:
        """The sidecar of a bag. Raises `DiwaError` if it is missing or damaged."""
        path = bag / SIDECAR
        try:
            content = json.loads(path.read_text())
            events = [(str(name), float(received)) for name, received in content["events"]]
            spec = Spec.from_json(json.dumps(content["spec"]), f"{path}: spec")
            topics = {
                topic: TopicStatistics(*(s[key] for key in ("count", "first", "last", "largest_gap")))
                for topic, s in content["topics"].items()
            }
            annotations = {
                str(name): None if received is None else float(received)
                for name, received in content.get("annotations", {}).items()  # older episodes have none
            }
            return cls(spec, content["labels"], events, annotations, topics, content["complete"], content["version"])
        except FileNotFoundError as error:
            raise DiwaError(f"{bag} has no {SIDECAR}: is it an episode of `diwa record`?") from error
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise DiwaError(f"{path} is damaged ({error}): delete the episode or write the file anew") from error
